"""Writing files so that a reader sees the old content or the new, never half of it."""

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path

from utils.core.errors import UserError


@contextmanager
def atomic_path(path):
    """Give a temporary path beside `path`, which takes the place of `path` when the block ends without an error.

    The folder is made if need be. After an error the temporary file is gone and `path` is as it was.

    Raises:
        UserError: for a path that cannot be written, at the beginning of the block where that can be known.
    """
    path = Path(path)
    with told_if_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.touch()
    try:
        try:
            yield temporary
        except OSError as error:
            # Other errors than of this file or a full disk, which names none, are of the block's own doing.
            if error.filename == str(temporary) or error.errno in (errno.ENOSPC, errno.EDQUOT):
                with told_if_unwritable(path):
                    raise
            raise
        with told_if_unwritable(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def told_if_unwritable(path):
    """Turn an OSError of the block into a `UserError` that names `path`, the file or folder written there."""
    try:
        yield
    except OSError as error:
        reason = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"cannot write {path}: {reason}: make room, or name another place") from error


def check_targets(targets, inputs, overwrite):
    """Refuse, before any work, files that could not be written or would take the place of something.

    Args:
        targets: `{flag: path}` of the files to be written; a path may be None.
        inputs: paths of files and folders that are read.
        overwrite: whether files that exist may be replaced.

    Raises:
        UserError: for the first such file.
    """
    taken = {Path(path).resolve() for path in inputs if path}
    for flag, path in targets.items():
        if path is None:
            continue
        path = Path(path)
        if path.resolve() in taken:
            raise UserError(f"--{flag} {path} is named twice, or an input: choose another name")
        if path.is_dir() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
            raise UserError(f"--{flag} {path} is a folder, or lies below a file: choose another name")
        if path.exists() and not overwrite:
            raise UserError(f"--{flag} {path} exists: choose another name, or pass --overwrite")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"--{flag} {path}: the folder {folder} is not yours to write to: choose another name")
        taken.add(path.resolve())


def read_json(path):
    """Content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_text(path, text):
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Write `value` to `path` as indented JSON, atomically. NaN is refused with a ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_part(folder, name, read):
    """`read(path)` of a file of a finished run.

    Raises:
        UserError: for a file that is missing or damaged, as after a copy that was interrupted.
    """
    import pyarrow as pa  # only where tables are read anyway

    try:
        return read(Path(folder) / name)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        what = "lost its" if isinstance(error, FileNotFoundError) else "a damaged"
        raise UserError(f"the run in {folder} has {what} {name}: copy the folder anew, or train it anew") from error
