"""The model card: scores, and how to load the model; for the run's folder, and for the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.core.arguments import ARGMAX
from utils.core.shown import escape_markdown
from utils.data.task import Task
from utils.doctor.baselines import baseline_text
from utils.doctor.finding import Diagnosis
from utils.models.approaches import approach_of
from utils.report.pictures import has_training_curves
from utils.runs.folder import PICTURES_FOLDER
from utils.scoring.evaluation import label_table, summary_table
from utils.scoring.notes import score_notes
from utils.scoring.scores import by_name
from utils.scoring.thresholds import thresholds_are_for

# Files of `utils.report` and what they show.
PICTURES = {
    "label_f1": "F1 of each label with 95 % intervals",
    "precision_recall": "Precision and recall of each label, with the chosen threshold",
    "co_occurrence": "How often labels stand together, true and predicted",
    "confusion": "Which labels are taken for each other",
    "calibration": "Calibration of the probabilities",
    "training_curves": "Loss and macro-F1 during training",
}


def expected_pictures(report: bool, log_history: list[dict[str, Any]], task: Task) -> list[str]:
    """Names of the pictures that a run will have.

    Args:
        report: whether they are drawn at all.
        log_history: of the training, empty if there was none.
        task: its labels.
    """
    drawn = {
        "training_curves": has_training_curves(log_history),
        "co_occurrence": len(task.labels) > 1 and not task.single_label,
        "confusion": task.single_label,
    }
    return [name for name in PICTURES if report and drawn.get(name, True)]


def present_pictures(folder: str | Path) -> list[str]:
    """Names of the pictures that are in the folder of a run."""
    return [name for name in PICTURES if Path(folder, PICTURES_FOLDER, f"{name}.png").is_file()]


def render_card(
    folder: str | Path,
    arguments: dict[str, Any],
    task: Task,
    results: dict[str, Any],
    diagnosis: Diagnosis | None,
    *,
    name: str,
    address: str,
    pictures: list[str],
    merged: bool = False,
    on_hub: bool = False,
) -> str:
    """Fill `model_card.md.jinja`; a value it names and is not given is an error.

    Args:
        folder: with the run's tokenizer and its approach's own files.
        arguments: the run's run_args.json.
        task: its task.json.
        results: its all_results.json.
        diagnosis: what the doctor says of it; None for a run of before there was one.
        name: of the run.
        address: what to load it by: its folder, or its name on the Hub.
        pictures: names of those to show.
        merged: whether there is a merged model beside it.
        on_hub: whether the card is for the Hub, which has neither the report nor a merged model.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = escape_markdown
    best_by = arguments.get("best_by", "f1_macro")
    metrics = {name.removeprefix("eval_"): value for name, value in results.items() if name.startswith("eval_")}
    return environment.get_template("model_card.md.jinja").render(
        name=name,
        address=address,
        on_hub=on_hub,
        arguments=arguments,
        adapter=arguments["use_peft"],
        trained="epoch" in results,  # Trainer has written it
        pictures={file: PICTURES[file] for file in pictures},
        merged=merged,
        task=task,
        results=results,
        tuned=arguments["threshold_strategy"] not in ("fixed", ARGMAX),
        score_notes=score_notes(results),
        chosen_for=by_name(thresholds_are_for(best_by)).title,
        metrics=metrics,
        summary_table=summary_table(metrics, markdown=True, first=best_by),
        baseline_table=baseline_text(diagnosis.baselines, markdown=True) if diagnosis else "",
        diagnosis=diagnosis,
        label_table=label_table(metrics, task.labels, markdown=True),
        label_counts=list(zip(task.labels, task.train_positives)),
        **approach_of(arguments).card_facts(folder, arguments, task),
    )
