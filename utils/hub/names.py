"""Names of repositories on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from utils.core.errors import UserError

NAME = r"[\w-][\w.-]*"
USER_AND_NAME = re.compile(rf"{NAME}/{NAME}", re.ASCII)
ANY_NAME = re.compile(rf"({NAME}/)?{NAME}", re.ASCII)


def is_hub_name(value: str) -> bool:
    """Whether `value` has the form of a name on the Hub, and is no folder as seen from here.

    The run may have been trained from another folder: what could be a relative path is not taken for a name, but for
    one of the form folder/folder, which nothing tells from user/name.
    """
    return ANY_NAME.fullmatch(value) is not None and not Path(value).exists()


def repository_name(folder: str | Path, hub_model_id: str | None) -> str:
    """The name to push a run's folder to, by default the folder's.

    Raises:
        UserError: for a name that the Hub does not allow.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name = hub_model_id or Path(folder).resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"pushing {folder}: {error} Name a repository by --hub_model_id user/name") from error
    return name
