"""Runs loaded from the Hub by their name. A repository is a stranger's: nothing but files of a run is taken from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.files import is_there, write_text
from utils.core.progress import show_progress_of
from utils.core.shown import quote
from utils.core.tables import format_bytes
from utils.data.task import TASK_FILE, Task
from utils.hub.errors import PATIENCE, hub_errors, with_retries
from utils.hub.names import USER_AND_NAME
from utils.runs.folder import RUN_FILES, matches
from utils.runs.manifest import check_files

MOST_BEGINNINGS = 10  # of the download of one file
NEEDED = [file for file in RUN_FILES if file.needed]


def local_folder(name: str, skip_checks: bool = False, hash_weights: bool = False) -> str:
    """Folder of a run named by its folder or, as user/name, by its repository on the Hub, which is downloaded.

    Args:
        name: of the run.
        skip_checks: whether its files may be others than those that it was finished with.
        hash_weights: whether weights are read whole to check them.

    Raises:
        UserError: for a repository that cannot be downloaded or holds no run, and for a run that is not finished or was
            changed since.
    """
    if is_there(name) or not USER_AND_NAME.fullmatch(name):
        folder, fresh = name, []
    else:
        folder, fresh = _download(name)
    if not skip_checks:
        try:
            check_files(folder, hash_weights or bool(fresh))
        except UserError:
            for file in fresh:  # else they would be found in the cache the next time, and not be read whole
                file.resolve().unlink(missing_ok=True)
            raise
    return folder


def _download(name: str) -> tuple[str, list[Path]]:
    """Folder of the cache with the files of a repository that a prediction needs, and those that were not there yet."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    folder, fresh = "", []
    with hub_errors(f"{name}: no such folder, and loading it from the Hub failed"):
        try:
            info: Any = with_retries(lambda: HfApi().model_info(name, files_metadata=True, timeout=PATIENCE))
        except (OfflineModeIsEnabled, HTTPError) as error:
            if isinstance(error, HfHubHTTPError):  # it was reached
                raise
            try:  # what was downloaded earlier
                folder = snapshot_download(name, local_files_only=True)
            except LocalEntryNotFoundError:
                raise error from None
        else:
            sizes = _sizes(name, info)
            for path, size in sizes.items():
                known = isinstance(try_to_load_from_cache(name, path, revision=info.sha), str)
                options: Any = {"revision": info.sha, "tqdm_class": _bounded(size)}
                file = Path(with_retries(lambda p=path, o=options: hf_hub_download(name, p, **o)))
                folder, fresh = str(file.parent), fresh if known else [*fresh, file]
                if file.stat().st_size != size:
                    file.resolve().unlink()
                    raise UserError(f"{name} on the Hub: {quote(path)} is not of the size that the Hub says: try again")
            # Files were asked for by commit; with this the cache also knows that it is that of main, offline.
            refs = Path(folder).parents[1] / "refs"
            refs.mkdir(exist_ok=True)
            write_text(refs / "main", info.sha)
    _check_links(name, folder)
    try:
        Task.load(folder)
    except (OSError, TypeError, ValueError) as error:
        (Path(folder) / TASK_FILE).resolve().unlink(missing_ok=True)  # so that it is asked for again
        raise UserError(f"{name} on the Hub is not a run of these scripts: it has no {TASK_FILE} of theirs") from error
    return folder, fresh


def _sizes(name: str, info: Any) -> dict[str, int]:
    """`{path: bytes}` of the files to download.

    Raises:
        UserError: for a repository without a task, names that leave its folder, and more bytes than the disk has.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    sizes = {}
    for sibling in info.siblings or ():
        path = sibling.rfilename
        if path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/"):
            raise UserError(f"{name} on the Hub holds a file called {quote(path)}, which leads out of its folder")
        if matches(path, NEEDED):
            size = sibling.size
            if not isinstance(size, int) or size < 0:
                raise UserError(f"{name} on the Hub does not say how large {quote(path)} is")
            sizes[path] = size
    if TASK_FILE not in sizes:
        raise UserError(f"{name} on the Hub is not a run of these scripts: it has no {TASK_FILE} of theirs")
    cache = next(parent for parent in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if parent.exists())
    wanted, free = sum(sizes.values()), shutil.disk_usage(cache).free
    if wanted > free:
        raise UserError(f"{name} on the Hub takes {format_bytes(wanted)}, and {cache} has {format_bytes(free)} left")
    return sizes


def _bounded(size: int) -> type:
    """A progress bar that ends a download of more than `size` bytes, or one that begins from its start too often."""
    from huggingface_hub.utils import tqdm

    show_progress_of(tqdm)

    class Bounded(tqdm):
        received, begun_again = 0.0, 0

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            self.begun_again += (n or 0) < 0
            if self.begun_again > MOST_BEGINNINGS:  # huggingface_hub would go on forever
                raise ValueError("the Hub ends the connection again and again")
            if self.received > size:
                raise ValueError(f"the Hub sends more than the {size} bytes that a file has by its index")
            return super().update(n)

    return Bounded


def _check_links(name: str, folder: str) -> None:
    """Refuse a downloaded folder of which a file leads out of the repository's part of the cache.

    Raises:
        UserError: for such a file.
    """
    repository = Path(folder).resolve().parents[1]  # of snapshots/COMMIT
    for path in Path(folder).rglob("*"):
        if not path.resolve().is_relative_to(repository):
            raise UserError(f"{name} on the Hub: {quote(path.name)} leads out of {repository}: empty that folder")
