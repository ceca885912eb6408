"""What the page says of its runs, and the texts that it offers to try."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.core.tables import format_cell
from utils.models.approaches import describe_approach
from utils.runs.finished import model_name
from utils.runs.folder import load_arguments, load_results, load_task
from utils.scoring.predictions import PREDICTIONS_FILE, Predictions
from utils.scoring.scores import with_interval

EXAMPLES, SHORTEST, LONGEST = 6, 15, 160  # how many, and characters of each


def example_texts(folder: str) -> list[str]:
    """Short validation texts with different labels; none where the run has no validation predictions."""
    if not (Path(folder) / PREDICTIONS_FILE).is_file():
        return []
    rows = Predictions.load(folder, load_task(folder).labels)
    fitting = [i for i, text in enumerate(rows.texts) if SHORTEST <= len(text) <= LONGEST]
    chosen: list[int] = []
    for label in np.argsort(-rows.truth.sum(axis=0), kind="stable"):  # the most frequent label first
        with_label = [i for i in fitting if rows.truth[i, label] and i not in chosen]
        chosen += with_label[:1]
    return [rows.texts[i] for i in chosen[:EXAMPLES]]


def about(folders: list[str], names: list[str]) -> list[str]:
    """A line on each run: its model and how well it does on its validation rows; of several, its name too.

    One more says what the brackets are.

    Args:
        folders: of the runs.
        names: that the page gives them.
    """
    lines = []
    for folder, name in zip(folders, names):
        arguments, results = load_arguments(folder), load_results(folder)
        score = "eval_f1_macro_tuned" if "eval_f1_macro_tuned" in results else "eval_f1_macro"
        rows = f"macro-F1 {format_cell(with_interval(results, score))} on {results['eval_samples']:,} validation rows"
        of = f"{name}: " if len(names) > 1 else ""
        lines.append(f"{of}{model_name(arguments)} ({describe_approach(arguments)}), {rows}.")
    return [*lines, "In brackets: 95 % interval over the rows."]
