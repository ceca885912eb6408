"""A folder that is a Hugging Face Space: the demo page of one run, with the code and the packages that it needs."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from utils.core.files import write_text
from utils.core.log import log
from utils.core.tables import format_bytes
from utils.hub.space import push_space
from utils.runs.folder import CARD_FILE, load_arguments
from utils.runs.inference import load_run
from utils.serving import space_app
from utils.serving.card import describe, render
from utils.serving.checks import SPACE_MARK
from utils.serving.folders import new_folder, write_plain_run

ROOT = Path(__file__).parents[2]
# The rooms that predict and show, and what they import; versions are those of requirements*.txt.
ROOMS = ("core", "data", "scoring", "models", "doctor", "runs", "serving")
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "huggingface_hub", "scipy", "numpy", "pandas",
            "pyarrow", "jinja2", "pyyaml", "filelock", "gradio")  # fmt: skip


def pins() -> list[str]:
    """`name==version` of each package that a Space needs."""
    lines = [
        line.strip()
        for name in ("requirements.txt", "requirements-demo.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    known = {line.partition("==")[0]: line for line in lines if "==" in line}
    return [known[name] for name in PACKAGES]


def write_space(folder: str, target: Path, name: str, trust_remote_code: bool = False) -> None:
    """Write a Space.

    It has the run with adapters merged in, and neither validation predictions nor corrections: a Space is often public.

    Args:
        folder: of the finished run.
        target: an empty folder.
        name: of the Space, its title.
        trust_remote_code: whether the code of an adapter's base model may run while it is merged.
    """
    (target / SPACE_MARK).parent.mkdir()
    write_plain_run(load_run(folder, trust_remote_code), folder, target / "run")
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / "utils" / room, target / "utils" / room, ignore=ignored)
    shutil.copy(ROOT / "utils" / "__init__.py", target / "utils" / "__init__.py")
    shutil.copy(space_app.__file__, target / "app.py")
    shutil.copy(ROOT / "LICENSE", target / "LICENSE")
    packages = pins()
    write_text(target / "requirements.txt", "\n".join(packages) + "\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    card = render(
        "space_card.md.jinja",
        name=name,
        gradio=next(pin.partition("==")[2] for pin in packages if pin.startswith("gradio==")),
        python=project["requires-python"].partition(",")[0].removeprefix(">="),
        generator=load_arguments(folder)["script"] != "run_classifier.py",
        **describe(target / "run"),
    )
    write_text(target / CARD_FILE, card)


def make_space(
    folder: str,
    target: str | None,
    repository: str | None,
    private: bool | None,
    check: Callable[[], None],
    trust_remote_code: bool = False,
) -> None:
    """Write a Space of a finished run to a folder, push it to the Hub, or both.

    Args:
        folder: of the run.
        target: folder of the Space; None: one that is gone afterwards.
        repository: name on the Hub; None: it is not pushed.
        private: whether a new Space is private; None: as the account has it.
        check: refuses a target that may not be replaced.
        trust_remote_code: whether the code of an adapter's base model may run while it is merged.

    Raises:
        UserError: for a run that cannot be loaded, a folder that cannot be written, and what the Hub refuses.
    """
    with ExitStack() as stack:
        where = target or str(Path(stack.enter_context(tempfile.TemporaryDirectory()), "space"))
        with new_folder(where, check) as staging:
            write_space(folder, staging, (repository or where).rstrip("/").split("/")[-1], trust_remote_code)
        size = sum(path.stat().st_size for path in Path(where).rglob("*") if path.is_file())
        if target:
            log(f"{target} is a Space ({format_bytes(size)}): python {target}/app.py starts it")
        if repository:
            push_space(where, repository, private)
