"""Folders that are made of a finished run: written beside their place, which they take when they are complete."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from utils.core.files import maker_is_gone, unwritable_as_user_error, write_json
from utils.hub.push import without_paths
from utils.models.approaches import ADAPTER_FILE, Approach
from utils.runs.folder import ARGUMENTS_FILE, MANIFEST_FILE, RUN_FILES, load_arguments, matches
from utils.runs.manifest import run_files, write_manifest

NEEDED = [file for file in RUN_FILES if file.needed]


@contextmanager
def new_folder(folder: str | Path, check: Callable[[], None]) -> Generator[Path]:
    """Give an empty folder beside `folder`, whose place it takes when the block ends without an error.

    Args:
        folder: to make.
        check: refuses a folder that may not be replaced. It is asked at the end, as something may have come there
            meanwhile.

    Raises:
        UserError: if it cannot be written, and what `check` raises.
    """
    folder = Path(folder).absolute()
    _remove_unfinished(folder)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    with unwritable_as_user_error(folder):
        staging.mkdir(parents=True)
    try:
        yield staging
        check()
        with unwritable_as_user_error(folder):
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    """Remove what `new_folder` had begun in processes that were killed."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.unfinished"):
        if maker_is_gone(path):
            shutil.rmtree(path, ignore_errors=True)


def write_plain_run(run: Approach, folder: str | Path, target: Path, in_fp32: bool = False) -> None:
    """Write a finished run with all that a prediction needs and nothing else: an adapter is merged in.

    It quotes no texts and knows no folders of this machine. Weights are those of the run; an adapter on a model that is
    not quantised is merged in fp32, one on a quantised model in 16 bit, which takes half the space.

    Args:
        run: loaded from `folder`.
        folder: of the finished run.
        target: an empty folder.
        in_fp32: whether one on a quantised model is merged in fp32 too.
    """
    arguments = load_arguments(folder)
    quantised = arguments.get("load_in_4bit") or arguments.get("load_in_8bit")
    adapted = (Path(folder) / ADAPTER_FILE).exists()
    if adapted:
        run.merge(folder, target, dtype=None if quantised and not in_fp32 else "float32")
    for name in run_files(folder):
        if matches(name, NEEDED) and not name.startswith("adapter_"):
            shutil.copy(Path(folder, name), target / name)
    in_full = {"use_peft": False, "load_in_4bit": False, "load_in_8bit": False} if adapted else {}
    write_json(target / ARGUMENTS_FILE, without_paths(arguments) | in_full)
    (target / MANIFEST_FILE).unlink(missing_ok=True)
    write_manifest(target)
