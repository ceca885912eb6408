"""Spaces: a folder that is one, pushed in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.log import log
from utils.hub.errors import hub_errors, with_retries
from utils.hub.names import ANY_NAME, repository_name
from utils.hub.push import OF_A_NEW_REPOSITORY

# What lies in a Space of ours, and of it what is taken away again if a later one lacks it.
MARK = "run/task.json"
OURS = ("run/", "utils/")


def check_push_space(name: str) -> None:
    """Refuse a push that could not work, as far as that can be known without asking the Hub.

    Raises:
        UserError: without a token, offline, and for a name that the Hub does not allow.
    """
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if not ANY_NAME.fullmatch(name):
        raise UserError(f"--push_space {name}: must have the form user/name")
    repository_name(name, name)
    if HF_HUB_OFFLINE:
        raise UserError("--push_space, but HF_HUB_OFFLINE is set: unset it, or write a folder by --export_space")
    if not get_token():
        raise UserError("--push_space needs a token: log in by `hf auth login`, or set HF_TOKEN")


def push_space(folder: str | Path, name: str, private: bool | None) -> str:
    """Push a folder that is a Space, in one commit; what an earlier one of ours had besides is taken away in it.

    Args:
        folder: of the Space; it is not changed.
        name: on the Hub, user/name or the name alone.
        private: whether a new Space is private; None: as the account has it.

    Returns:
        address of the Space.

    Raises:
        UserError: where something is in the way, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    content = {path.relative_to(folder).as_posix(): path for path in paths}
    space: dict[str, Any] = {"repo_type": "space"}
    with hub_errors(f"pushing a Space to {name}"):
        api = HfApi()
        options: Any = {"space_sdk": "gradio", "private": private, "exist_ok": True}
        name = with_retries(lambda: api.create_repo(name, **space, **options)).repo_id
        there: Any = with_retries(lambda: api.repo_info(name, **space))
        files = {file.rfilename for file in there.siblings or ()}
        if not files <= OF_A_NEW_REPOSITORY and MARK not in files:
            raise UserError(f"{name} is a Space with other files: choose another name")
        if private and not there.private:
            raise UserError(f"{name} exists and is public: make it private on its page, or choose another name")
        operations: list[Any] = [CommitOperationAdd(path, file) for path, file in content.items()]
        operations += [CommitOperationDelete(path) for path in sorted(files - set(content)) if path.startswith(OURS)]
        with_retries(lambda: api.create_commit(name, operations, commit_message="A finished run to try", **space))
    address = f"{api.endpoint}/spaces/{name}"
    log(f"pushed {len(content)} files to {address} ({'private' if there.private else 'public'})")
    return address
