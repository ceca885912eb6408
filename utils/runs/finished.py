"""Finished runs read back: arguments, scores, and the predictions behind each score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.data.task import Task
from utils.runs.folder import MANIFEST_FILE, load_arguments, load_results, load_task
from utils.runs.manifest import check_files
from utils.scoring.predictions import Predictions
from utils.scoring.scores import AT_HALF, TUNED
from utils.scoring.thresholds import Thresholds


@dataclass
class FinishedRun:
    """A finished run without its model.

    Args:
        folder: where it is.
        task: its task.json.
        arguments: its run_args.json.
        results: its all_results.json.
        thresholds: for new rows.
        predictions: of its validation rows.
    """

    folder: str
    task: Task
    arguments: dict[str, Any]
    results: dict[str, Any]
    thresholds: Thresholds
    predictions: Predictions

    @cached_property
    def decisions(self) -> dict[str, np.ndarray]:
        """0/1 predictions `[P, N, L]` of the validation rows, by the suffix of the scores that they have."""
        return self.predictions.decide(self.thresholds.rule)

    @property
    def headline(self) -> str:
        """The suffix of the predictions that a submission of this run is made of."""
        return AT_HALF if self.thresholds.rule.is_fixed else TUNED


def read_run(folder: str | Path) -> FinishedRun:
    """Read a finished run, all but its model.

    Raises:
        UserError: for a folder that is no finished run, or has lost some of its files.
    """
    task = load_task(folder)
    predictions = Predictions.load(folder, task.labels)
    thresholds = Thresholds.load(folder, task.labels)
    return FinishedRun(str(folder), task, load_arguments(folder), load_results(folder), thresholds, predictions)


def read_runs(
    names: list[str], skip_checks: bool = False, hash_weights: bool = False
) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs among some folders.

    Args:
        names: of the folders.
        skip_checks: whether files may be others than those that a run was finished with.
        hash_weights: whether weights are read whole to check them.

    Returns:
        `(runs, notes)`: notes say in a line each why a folder was skipped.

    Raises:
        UserError: for a folder that does not exist.
    """
    runs, notes, seen = [], [], set()
    for name in names:
        if Path(name).resolve() in seen:
            continue
        seen.add(Path(name).resolve())
        if not Path(name).exists():
            raise UserError(f"{name}: no such folder")
        try:
            if not skip_checks:
                check_files(name, hash_weights)
            runs.append(read_run(name))
        except UserError as error:
            below = len(list(Path(name).glob(f"*/{MANIFEST_FILE}")))
            hint = f"; it holds {below} runs: name {name.rstrip('/')}/*" if below else ""
            if Path(name).suffix.lower() == ".csv":
                hint = "; submission files are scored with --truth"
            notes.append(f"skipped: {error}{hint}")
    return runs, notes


def model_name(arguments: dict[str, Any]) -> str:
    """The name of the base model, from run_args.json; of a local folder its last part only."""
    name = str(arguments.get("model_name_or_path") or "-")
    return Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name


def trainable_share(results: dict[str, Any]) -> float | None:
    """Trainable / all parameters, from all_results.json; None where the run has not written them down."""
    trainable, total = results.get("trainable_parameters"), results.get("total_parameters")
    return trainable / total if trainable is not None and total else None
