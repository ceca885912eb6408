"""Trainer's checkpoints of a run that is not finished: which are whole, so that a training may go on from them.

Trainer goes on from nearly anything: without the optimizer's state it begins with a new one, without that of the random
numbers with others, and the state of another step is taken for this one's, all without a word.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.files import read_json_object, write_json

STATE_FILE = "trainer_state.json"
FILES_FILE = "checkpoint_files.json"
# The optimizer's state: of one copy per process, of FSDP, of DeepSpeed, which keeps that of the schedule with it.
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin", "latest")
# Of a file, as many blocks are hashed, evenly over it: another step's differs in all of them.
BLOCKS, BLOCK_BYTES = 64, 2**16


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders of a run's checkpoints, by step."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    return sorted(folders, key=lambda path: int(path.name.split("-")[-1]))


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints that a training may go on from."""
    return [folder for folder in checkpoints(output_dir) if problem_of(folder) is None]


def write_files(checkpoint: str | Path) -> None:
    """Write down, as the last file of a checkpoint, what its files are: size and a hash of parts of each."""
    write_json(Path(checkpoint) / FILES_FILE, {name: _describe(path) for name, path in _files(checkpoint).items()})


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint, its list of files first: killed on the way, what is left is none that was damaged."""
    (checkpoint / FILES_FILE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def problem_of(checkpoint: Path) -> str | None:
    """Why a training may not go on from a checkpoint; None where it may.

    Where a process was killed before the list of the files was written, only their names are looked at.
    """
    problem = _problem_of_files(checkpoint)
    if problem is not None:
        return problem
    state = read_json_object(checkpoint / STATE_FILE)
    best = state.get("best_model_checkpoint")
    if not best:
        return None
    # Its weights are the result of the run; Trainer would go on without it.
    folder = checkpoint.parent / Path(str(best)).name
    of_best = None if folder == checkpoint else _problem_of_files(folder)
    return f"the best checkpoint up to there is damaged: {of_best}" if of_best else None


def _problem_of_files(checkpoint: Path) -> str | None:
    try:
        step = read_json_object(checkpoint / STATE_FILE)["global_step"]
    except (OSError, ValueError, KeyError):
        return f"{checkpoint.name} has no whole {STATE_FILE}"
    if str(step) != checkpoint.name.split("-")[-1]:
        return f"{STATE_FILE} in {checkpoint.name} is that of step {step}"
    if not any((checkpoint / name).is_file() for name in OPTIMIZER_FILES):
        return f"{checkpoint.name} has lost the state of the optimizer"
    if not (checkpoint / "latest").is_file() and not (checkpoint / "scheduler.pt").is_file():
        return f"{checkpoint.name} has lost its scheduler.pt"
    if not any(path.is_file() for path in checkpoint.glob("rng_state*.pth")):
        return f"{checkpoint.name} has lost the state of its random numbers"
    if not (checkpoint / FILES_FILE).exists():
        return None
    try:
        known: dict[str, Any] = read_json_object(checkpoint / FILES_FILE)
        found = _files(checkpoint)
        changed = [name for name, entry in known.items() if name not in found or _describe(found[name]) != entry]
    except (OSError, ValueError, UserError) as error:
        return f"{checkpoint.name} cannot be read: {error}"
    return f"{changed[0]} in {checkpoint.name} is not what was saved" if changed else None


def _files(checkpoint: str | Path) -> dict[str, Path]:
    paths = sorted(path for path in Path(checkpoint).rglob("*") if path.is_file())
    names = {path.relative_to(checkpoint).as_posix(): path for path in paths}
    return {name: path for name, path in names.items() if name != FILES_FILE and not name.endswith(".tmp")}


def _describe(path: Path) -> dict[str, Any]:
    size, digest = path.stat().st_size, hashlib.sha256()
    blocks = min(BLOCKS, -(-size // BLOCK_BYTES))
    with open(path, "rb") as file:
        for number in range(blocks):
            file.seek(number * max(size - BLOCK_BYTES, 0) // max(blocks - 1, 1))
            digest.update(file.read(BLOCK_BYTES))
    return {"size": size, "sha256_of_parts": digest.hexdigest()}
