"""What is refused before a model is loaded: missing extras, folders in the way, runs that cannot go there."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path

from utils.core.errors import UserError
from utils.core.files import check_length
from utils.core.shown import quote
from utils.data.task import TASK_FILE
from utils.runs.folder import load_arguments, load_task

SPACE_MARK = "run/task.json"  # tells a folder that is a Space of ours
# Packages of the extras that a command cannot do without, by the file that installs them.
EXTRAS = {
    "requirements-demo.txt": ("gradio",),
    "requirements-export.txt": ("onnx", "onnxruntime", "onnxscript"),
}


def check_installed(requirements: str) -> None:
    """Refuse to begin without an extra.

    Raises:
        UserError: that names the file to install, one of `EXTRAS`.
    """
    missing = [name for name in EXTRAS[requirements] if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed: pip install -r {requirements}")


def check_new_folder(flag: str, folder: str | Path, mark: str, overwrite: bool) -> None:
    """Refuse a folder that cannot be made, or that would replace something.

    Args:
        flag: that named it.
        folder: to make.
        mark: path below it of a file that tells a folder of the same kind; only such a one is replaced.
        overwrite: whether it may be.

    Raises:
        UserError: for such a folder.
    """
    folder = Path(folder)
    check_length(flag, folder)
    if any(path.exists() and not path.is_dir() for path in (folder, *folder.absolute().parents)):
        raise UserError(f"--{flag} {folder} is, or lies below, a file: name a folder")
    if (folder / TASK_FILE).exists() and not (folder / mark).exists():
        raise UserError(f"--{flag} {folder} holds a run: choose another folder")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / mark).exists():
            raise UserError(f"--{flag} {folder} holds other files: choose another folder")
        if not overwrite:
            raise UserError(f"--{flag} {folder} exists: choose another folder, or pass --overwrite")
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--{flag} {folder}: you may not write to {there}: choose another folder")


def check_for_space(folder: str | Path) -> None:
    """Refuse a run that cannot be a Space: one without weights of its own, or an exported model.

    Raises:
        UserError: for such a run; it says why.
    """
    arguments = load_arguments(folder)
    if arguments.get("eval_only"):
        raise UserError(f"{folder} scored a model as it is and holds no weights: a Space needs a run that was trained")
    if arguments.get("exported"):
        raise UserError(f"{folder} is an exported model: give the run that it was made of")


def check_exportable(folder: str | Path) -> None:
    """Refuse a run that is not exported: that of a label generator, or one that has been exported.

    Raises:
        UserError: for such a run; it says why.
    """
    arguments = load_arguments(folder)
    if arguments.get("exported"):
        raise UserError(f"{folder} is an exported model already: give the run that it was made of")
    long_texts = load_task(folder).long_texts
    if long_texts != "cut":
        raise UserError(f"{folder} reads long texts as --long_texts {long_texts} says, which is not exported")
    if arguments.get("ask_labels"):
        raise UserError(f"{folder} is asked for its labels one by one (--ask_labels), which is not exported")
    if arguments["script"] != "run_classifier.py":
        raise UserError(
            f"{folder} is a label generator: its probabilities come from a search over valid answers, which one graph "
            "does not hold. docs/trying-and-serving.md says how to serve it"
        )


def check_port(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before models are loaded.

    Raises:
        UserError: for an address that is taken, or not of this machine.
    """
    if not host:  # sockets take it for all addresses
        raise UserError("--host is empty: name an address of this machine; 0.0.0.0 means all of them")
    try:
        with socket.create_server((host, port)):
            pass
    except (OSError, TypeError, OverflowError, UnicodeError) as error:  # what is no name fails in several ways
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {quote(host)} --port {port}: {reason}: choose another port, or an address of this machine"
        ) from error
