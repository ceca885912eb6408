"""Runs loaded from the Hub by their name."""

from __future__ import annotations

from pathlib import Path

from utils.core.errors import UserError
from utils.data.task import TASK_FILE, Task
from utils.hub.errors import hub_errors
from utils.hub.names import USER_AND_NAME
from utils.runs.folder import RUN_FILES


def local_folder(name: str) -> str:
    """Folder of a run named by its folder or, as user/name, by its repository on the Hub, which is downloaded.

    Raises:
        UserError: for a repository that cannot be downloaded or holds no run.
    """
    if Path(name).exists() or not USER_AND_NAME.fullmatch(name):
        return name
    from huggingface_hub import snapshot_download

    with hub_errors(f"{name}: no such folder, and loading it from the Hub failed"):
        folder = snapshot_download(name, allow_patterns=[file.pattern for file in RUN_FILES if file.needed])
    try:
        Task.load(folder)
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{name} on the Hub is not a run of these scripts: it has no {TASK_FILE} of theirs") from error
    return folder
