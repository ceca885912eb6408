"""Writing files atomically: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import csv
import errno
import glob
import itertools
import json
import os
import platform
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from utils.core.errors import UserError
from utils.core.shown import quote

if TYPE_CHECKING:
    import pandas as pd

# Bytes of a part of a path and of a whole one, with room for what is written below it.
LONGEST_NAME, LONGEST_PATH = 255, 3900

Content = TypeVar("Content")
_HOST = platform.node().split(".")[0][:40]  # two machines may share a folder, and number their processes alike


@contextmanager
def atomic_path(path: str | Path) -> Generator[Path]:
    """Give a temporary path beside `path`; when the block ends without an error, it replaces `path`.

    Missing folders are created. After an error the temporary file is deleted and `path` is unchanged.

    Raises:
        UserError: if `path` cannot be written; before the block runs, if the problem shows by then.
    """
    path = Path(path)
    with unwritable_as_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        remove_temporary_files(path.parent, path.name)
        temporary = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")
        temporary.touch()
    try:
        try:
            yield temporary
        except OSError as error:
            # A full disk names no file. Errors about other files are not about `path` and pass through.
            if error.filename == str(temporary) or error.errno in (errno.ENOSPC, errno.EDQUOT):
                with unwritable_as_user_error(path):
                    raise
            raise
        with unwritable_as_user_error(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def unwritable_as_user_error(path: str | Path) -> Generator[None]:
    """Turn an OSError in the block into a `UserError` that names `path`, the file or folder being written.

    Raises:
        UserError: if the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"cannot write {path}: {reason}: free some space, or choose another path") from error


def check_file(path: str | Path) -> None:
    """Refuse a file that is not there.

    Raises:
        UserError: for a path that leads nowhere, or to something else.
    """
    if not (is_there(path) and Path(path).is_file()):
        raise UserError(f"{quote(path, LONGEST_NAME)}: no such file")


def is_there(path: str | Path) -> bool:
    """Whether a file or folder exists; not so for a name that is too long or holds a null character."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def remove_temporary_files(folder: str | Path, name: str = "*") -> None:
    """Remove what `atomic_path` had begun in processes of this machine that were killed.

    Args:
        folder: where to look; folders below it are left alone.
        name: of the file that was to be written; left out: any.
    """
    pattern = f".{name if name == '*' else glob.escape(name)}.{glob.escape(_HOST)}.*.tmp"
    for path in Path(folder).glob(pattern):
        if maker_is_gone(path):
            path.unlink(missing_ok=True)


def maker_is_gone(path: Path) -> bool:
    """Whether the process of this machine whose number is the last but one part of a name, `.x.123.tmp`, has ended."""
    number = path.name.split(".")[-2]
    return number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists()


def remove_if_empty(folder: str | Path) -> None:
    """Remove a folder unless it holds something, or is not there."""
    with suppress(OSError):
        Path(folder).rmdir()


def check_length(flag: str, path: Path) -> None:
    """Refuse a path that the system cannot take, with room for files and temporary files below it.

    Args:
        flag: that named it.
        path: to be written.

    Raises:
        UserError: for a part or a whole that is too long, and for one that holds a null character.
    """
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts) or (
        len(os.fsencode(path.absolute())) > LONGEST_PATH or "\0" in str(path)
    ):
        raise UserError(f"--{flag} {quote(path)} is longer than the system allows: choose a shorter name")


def check_writable(flag: str, folder: str | Path) -> None:
    """Refuse a folder in which, or where it is to be made, no file can be written.

    One is written and is gone at once: what permissions say does not hold for root, nor for /proc and its like.

    Args:
        flag: that named it.
        folder: which need not exist yet.

    Raises:
        UserError: that names the folder.
    """
    folder = Path(folder).absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"--{flag} {folder}: nothing can be written to {there} ({error.strerror}): choose another place"
        ) from error


def check_targets(
    targets: Mapping[str, str | Path | None], inputs: Iterable[str | Path | None], overwrite: bool
) -> None:
    """Refuse output files that cannot be written or would replace something, before any work is done.

    Args:
        targets: `{flag: path}` of the files to write; None where a flag was not given.
        inputs: files and folders that are read; None is skipped.
        overwrite: whether existing files may be replaced.

    Raises:
        UserError: for the first such file.
    """
    taken = {Path(path).resolve() for path in inputs if path}
    for flag, path in targets.items():
        if path is None:
            continue
        path = Path(path)
        check_length(flag, path)
        if path.resolve() in taken:
            raise UserError(f"--{flag} {path} is named twice, or an input: choose another name")
        if path.is_dir() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
            raise UserError(f"--{flag} {path} is a folder, or lies below a file: choose another name")
        if path.exists() and not overwrite:
            raise UserError(f"--{flag} {path} exists: choose another name, or pass --overwrite")
        check_writable(flag, path.absolute().parent)
        taken.add(path.resolve())


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds names and values.

    Raises:
        ValueError: for a file that holds anything else, or nests too deeply.
    """
    try:
        content = read_json(path)
    except RecursionError as error:
        raise ValueError(f"{path} nests too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no names and values")
    return content


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def quoting_for(frame: pd.DataFrame) -> int:
    """How pandas' `to_csv` must quote a table: all of its text where a cell or name holds a carriage return.

    That ends a row for whoever reads the file, and pandas does not see it.
    """
    cells = itertools.chain(frame.columns, *(column for _, column in frame.items() if column.dtype.kind not in "biuf"))
    return csv.QUOTE_NONNUMERIC if any("\r" in str(cell) for cell in cells) else csv.QUOTE_MINIMAL


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_part(folder: str | Path, name: str, read: Callable[[Path], Content]) -> Content:
    """Read one file of a finished run.

    Args:
        folder: the run folder.
        name: the file's path below it.
        read: reads the file, given its path.

    Returns:
        what `read` returns.

    Raises:
        UserError: if the file is missing or damaged, for example after an interrupted copy.
    """
    import pyarrow as pa  # slow to import, and not needed by the other functions

    try:
        return read(Path(folder) / name)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
        pa.ArrowException,
    ) as error:
        what = "lost its" if isinstance(error, FileNotFoundError) else "a damaged"
        raise UserError(f"the run in {folder} has {what} {name}: copy the folder again, or train again") from error
