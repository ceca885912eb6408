"""The cards of exported models and of Spaces."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.core.files import write_json, write_text
from utils.core.shown import escape_markdown
from utils.data.task import Task
from utils.runs.finished import model_name
from utils.runs.folder import CARD_FILE, load_arguments, load_results
from utils.scoring.evaluation import summary_table
from utils.scoring.notes import score_notes

if TYPE_CHECKING:  # loading it takes torch
    from utils.serving.export import Check

# What predict_onnx.py imports.
PACKAGES = ("onnxruntime", "tokenizers", "numpy")


def render(template: str, **values: Any) -> str:
    """Fill a template of this room; a value it names and is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = escape_markdown
    return environment.get_template(template).render(**values)


def describe(folder: str | Path) -> dict[str, Any]:
    """What the cards say of a run: its model, labels and scores."""
    results = load_results(folder)
    metrics = {name.removeprefix("eval_"): value for name, value in results.items() if name.startswith("eval_")}
    return {
        "task": Task.load(folder),
        "base_model": model_name(load_arguments(folder)),
        "results": results,
        "summary_table": summary_table(metrics, markdown=True),
        "score_notes": score_notes(results),
    }


def write_exported_card(target: Path, name: str, check: Check, int8: bool) -> None:
    """Write README.md and export.json of an exported model.

    Args:
        target: its folder.
        name: of it.
        check: how it compares with its run.
        int8: whether its weights are quantised.
    """
    packages = [f"{package}=={version(package)}" for package in PACKAGES]
    known = {key: value for key, value in asdict(check).items() if value == value}  # not NaN
    write_json(target / "export.json", {"format": "onnx", "int8": int8, "packages": packages, **known})
    card = render(
        "exported_card.md.jinja",
        name=name,
        int8=int8,
        packages=packages,
        check_table=check.table(markdown=True),
        check_notes=check.notes(),
        **describe(target),
    )
    write_text(target / CARD_FILE, card)
