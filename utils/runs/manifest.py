"""The manifest of a run: what its files were when it was finished, so that a changed or damaged one does not predict.

It is written last, so that a folder with it is complete. Small files are compared by their hash. Weights, which may be
of many gigabytes, are compared by size and by their header (names, shapes and places of the tensors), by their hash
where that is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.files import LONGEST_NAME, is_there, read_json_object, read_part, write_json
from utils.core.shown import quote
from utils.data.task import TASK_FILE
from utils.models.approaches import BASE_FOLDER
from utils.models.loading import shards_of
from utils.runs.folder import (
    CARD_FILE,
    LOG_FILE,
    MANIFEST_FILE,
    MERGED_FOLDER,
    PICTURES_FOLDER,
    REPORT_FILE,
    RESULTS_FILE,
    RUN_FILES,
    matches,
)

WEIGHTS = ".safetensors"
LARGEST_HEADER = 100_000_000  # bytes; that of safetensors itself
# For people to look at, or for other programs: no script reads them.
NOT_CHECKED = (BASE_FOLDER, CARD_FILE, LOG_FILE, REPORT_FILE, PICTURES_FOLDER, MERGED_FOLDER)
# Files with the words of a tokenizer; those of bytes and characters have none.
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
# Of a name that fits a run's file, what loaders would open.
READ = (".json", ".jinja", ".txt", ".model", ".onnx", WEIGHTS)
WHAT_TO_DO = "copy the folder again, train again, or pass --skip_checks if the change is yours"


def run_files(folder: str | Path) -> list[str]:
    """Paths of the files of a run that are in a folder, sorted; what else lies there is none of the run's."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return sorted(name for name in names if name != MANIFEST_FILE and matches(name, RUN_FILES))


def describe_files(content: Mapping[str, bytes | Path]) -> dict[str, Any]:
    """A manifest: size, SHA-256 and, of weights, SHA-256 of the header, of each file.

    Args:
        content: bytes of each file, or where it lies.
    """
    return {"files": {name: _describe(part) for name, part in sorted(content.items())}}


def _describe(part: bytes | Path) -> dict[str, Any]:
    if isinstance(part, bytes):
        return {"size": len(part), "sha256": hashlib.sha256(part).hexdigest()}
    entry: dict[str, Any] = {"size": part.stat().st_size, "sha256": _hash(part)}
    if part.suffix == WEIGHTS:
        entry["header_sha256"] = _hash_header(part)
    return entry


def write_manifest(folder: str | Path) -> None:
    """Write `manifest.json`, from which on the run in a folder is finished."""
    files: dict[str, bytes | Path] = {name: Path(folder, name) for name in run_files(folder)}
    write_json(Path(folder) / MANIFEST_FILE, describe_files(files))


def renew_entries(folder: str | Path, names: Iterable[str]) -> None:
    """Write down what some files of a finished run are now; others stay as they were described.

    Args:
        folder: of the run; nothing happens where it has no manifest.
        names: of the files that have been made again.
    """
    if not (Path(folder) / MANIFEST_FILE).is_file():
        return
    manifest = _read(folder)
    for name in names:
        manifest["files"][name] = _describe(Path(folder, name))
    write_json(Path(folder) / MANIFEST_FILE, manifest)


def check_files(folder: str | Path, hash_weights: bool = False) -> None:
    """Refuse a run that is not finished, or whose files are not what they were when it was.

    Files that no script reads are not looked at, and those that no prediction needs may be missing.

    Args:
        folder: of the run.
        hash_weights: whether weights are read whole.

    Raises:
        UserError: for the first file that is missing, changed, or was not there.
    """
    folder = Path(folder)
    if not (is_there(folder / TASK_FILE) and (folder / TASK_FILE).is_file()):
        raise UserError(f"{quote(folder, LONGEST_NAME)} is not the folder of a run: it has no {TASK_FILE}")
    if not (folder / MANIFEST_FILE).is_file():
        if (folder / RESULTS_FILE).is_file():
            raise UserError(
                f"the run in {folder} is not finished, or of an earlier version: it has no {MANIFEST_FILE}. Its "
                f"training command completes it; python -m utils.report {folder} --skip_checks writes one for an "
                "earlier version"
            )
        raise UserError(
            f"the run in {folder} is not finished, it has no {MANIFEST_FILE}: give its training command again "
            "to resume or complete it, or pass --skip_checks"
        )
    known = _read(folder)["files"]
    for name, entry in known.items():
        if name.split("/")[0] in NOT_CHECKED:
            continue
        path = folder / name
        if not path.is_file():
            if any(matches(name, [file]) for file in RUN_FILES if file.needed):
                raise UserError(f"the run in {folder} has lost its {quote(name)}: {WHAT_TO_DO}")
            continue
        if not _is_same(path, entry, hash_weights):
            raise UserError(f"{folder}/{quote(name)} is not what it was when the run was finished: {WHAT_TO_DO}")
    for name in shards_of(folder):
        if name not in known:
            raise UserError(f"{folder}/{quote(name)} holds weights and is none of the run's files: {WHAT_TO_DO}")
    needed = [file for file in RUN_FILES if file.needed]
    for path in sorted(folder.iterdir()):
        read = not path.is_dir() and (path.suffix in READ or path.name.endswith(".safetensors.index.json"))
        if path.name not in known and path.name != MANIFEST_FILE and read and matches(path.name, needed):
            raise UserError(
                f"{folder}/{quote(path.name)} was not there when the run was finished: move it away, or {WHAT_TO_DO}"
            )


def lost_vocabulary(folder: str | Path) -> str | None:
    """The file of its tokenizer's words that a run was finished with and has lost; None where it has one.

    transformers makes an empty tokenizer then, and the same prediction for nearly every text.
    """
    try:
        known = _read(folder)["files"]
    except UserError:
        return None
    words = [name for name in known if any(fnmatch(name, pattern) for pattern in VOCABULARIES)]
    there = [path for pattern in VOCABULARIES for path in Path(folder).glob(pattern)]
    return words[0] if words and not there else None


def _is_same(path: Path, entry: dict[str, Any], hash_weights: bool) -> bool:
    try:
        if path.stat().st_size != entry["size"]:
            return False
        if path.suffix == WEIGHTS and not hash_weights:
            return _hash_header(path) == entry["header_sha256"]
        return _hash(path) == entry["sha256"]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}: {WHAT_TO_DO}") from error


def _read(folder: str | Path) -> dict[str, Any]:
    def read(path: Path) -> dict[str, Any]:
        manifest = read_json_object(path)
        for name, entry in manifest["files"].items():
            if not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str):
                raise TypeError(f"{name} has no size and hash")
            if name.endswith(WEIGHTS):
                entry["header_sha256"]
            if not matches(name, RUN_FILES) or ".." in name.split("/"):
                raise ValueError(f"{name} is no file of a run")
        return manifest

    return read_part(folder, MANIFEST_FILE, read)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_header(path: Path) -> str:
    """SHA-256 of the header of a safetensors file: its length in 8 bytes, then JSON."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError("its header is damaged")
        return hashlib.sha256(file.read(length)).hexdigest()
