"""Finished runs read back: arguments, scores, and the 0/1 predictions behind each score."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet

from utils.core.errors import UserError
from utils.core.files import read_part
from utils.data.splits import near_duplicate_groups
from utils.data.task import Task
from utils.runs.folder import (
    ARGUMENTS_FILE,
    PREDICTIONS_FILE,
    RESULTS_FILE,
    load_predictions,
    load_task,
    load_thresholds,
    read_json,
)
from utils.scoring.thresholds import apply_thresholds, cross_fitted_predictions

# What may follow the name of a summary score: which 0/1 predictions it is a score of.
AT_HALF, TUNED, DECODED = "", "_tuned", "_decoded"


@dataclass
class FinishedRun:
    """A finished run without its model. Arrays are `[N, L]` in the order of its validation rows and its labels."""

    folder: str
    task: Task
    arguments: dict  # run_args.json
    results: dict  # all_results.json
    strategy: str
    shrinkage: float
    thresholds: np.ndarray  # [L]
    ids: list[str]
    texts: list[str] | None  # None in folders of before texts were saved
    truth: np.ndarray
    probabilities: np.ndarray
    decoded: np.ndarray | None  # 0/1 labels a generator has written, None for others

    @cached_property
    def predictions(self):
        """`{suffix of the summary scores: 0/1 array [N, L]}`: at 0.5, tuned (cross-fitted) and decoded."""
        return validation_predictions(
            self.ids, self.texts, self.truth, self.probabilities, self.decoded, self.strategy, self.shrinkage
        )

    @property
    def headline(self):
        """The suffix of the predictions that a submission of this run is made of."""
        return AT_HALF if self.strategy == "fixed" else TUNED


def validation_predictions(ids, texts, truth, probabilities, decoded, strategy, shrinkage):
    """The 0/1 predictions `[N, L]` behind the summary scores of validation rows, by the suffix of the scores.

    Without `texts` the near-duplicates are not known, and each row counts as one of its own in cross-fitting.
    """
    groups = np.arange(len(ids)) if texts is None else near_duplicate_groups(texts)
    predictions = {AT_HALF: apply_thresholds(probabilities, 0.5)}
    if strategy != "fixed":
        predictions[TUNED] = cross_fitted_predictions(probabilities, truth, groups, strategy, shrinkage)
    if decoded is not None:
        predictions[DECODED] = decoded
    return predictions


def read_run(folder):
    """Read a finished run, all but its model.

    Raises:
        UserError: for a folder that is no finished run, or has lost its validation predictions.
    """
    folder = Path(folder)
    task = load_task(folder)
    if not (folder / PREDICTIONS_FILE).is_file():
        raise UserError(
            f"the run in {folder} has lost its {PREDICTIONS_FILE}: train it anew, or use the folder that it was "
            "pushed to the Hub from"
        )
    strategy_and_co = load_thresholds(folder, task.labels)
    frame = load_predictions(folder, task.labels)
    names = pyarrow.parquet.read_schema(folder / PREDICTIONS_FILE).names
    decoded = [f"decoded/{label}" for label in task.labels]
    extra = [name for name in ("text", *decoded) if name in names]
    more = pd.read_parquet(folder / PREDICTIONS_FILE, columns=extra)

    def columns(kind):
        return frame[[f"{kind}/{label}" for label in task.labels]].to_numpy()

    return FinishedRun(
        folder=str(folder),
        task=task,
        arguments=read_part(folder, ARGUMENTS_FILE, read_json),
        results=read_part(folder, RESULTS_FILE, read_json),
        strategy=strategy_and_co[1],
        shrinkage=strategy_and_co[2],
        thresholds=strategy_and_co[0],
        ids=frame["id"].tolist(),
        texts=more["text"].tolist() if "text" in extra else None,
        truth=columns("truth").astype(np.int8),
        probabilities=columns("probability").astype(float),
        decoded=more[decoded].to_numpy().astype(np.int8) if set(decoded) <= set(extra) else None,
    )


def model_name(arguments):
    """The name of the base model; of a local folder its last part only."""
    name = str(arguments.get("model_name_or_path") or "-")
    return Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name


def approach(arguments):
    """How a run was made, in words: `head, LoRA`, `label generation, QLoRA`, ..."""
    what = "label generation" if arguments.get("script") == "run_sft_labels.py" else "head"
    if arguments.get("eval_only"):
        return f"{what}, zero-shot"
    if not arguments.get("use_peft"):
        return f"{what}, full"
    kind = "DoRA" if arguments.get("use_dora") else "LoRA"
    if arguments.get("load_in_4bit"):
        return f"{what}, Q{kind}"
    return f"{what}, {kind}, 8 bit" if arguments.get("load_in_8bit") else f"{what}, {kind}"


def trainable_share(results):
    """Trainable / all parameters; None where the run has not written them down."""
    trainable, total = results.get("trainable_parameters"), results.get("total_parameters")
    return trainable / total if trainable is not None and total else None
