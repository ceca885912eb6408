"""Trackers (--report_to wandb, tensorboard, trackio): what they get beyond Trainer's metrics when a run is finished.

Arguments, preflight, final scores, the table of labels and thresholds, pictures, and some validation rows with what was
predicted for them. Nothing of it is secret, but the rows quote texts of the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Trainer, TrainingArguments

from utils.core.errors import UserError
from utils.core.log import libraries_speak
from utils.core.tables import format_table
from utils.models.approaches import Approach
from utils.runs.finished import FinishedRun, read_run
from utils.runs.folder import PICTURES_FOLDER
from utils.scoring.scores import PER_LABEL

SAMPLE_ROWS = 50
# A header, and rows of cells below it.
Table = tuple[list[str], list[list[Any]]]


@dataclass
class Logged:
    """What each tracker gets of a finished run.

    Args:
        config: arguments, and the figures of the preflight.
        scores: by name.
        tables: by name.
        pictures: paths of the PNG files, by name.
    """

    config: dict[str, Any]
    scores: dict[str, float]
    tables: dict[str, Table]
    pictures: dict[str, Path]


def check_trackers(training_args: TrainingArguments, is_main_process: bool) -> None:
    """Refuse trackers that could not track, before a model is loaded.

    Raises:
        UserError: for a tracker that is not known or not installed, or W&B without a key.
    """
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(training_args.report_to):
            callback()  # asks for its package
    except (ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"--report_to: {error}") from error
    if "wandb" in (training_args.report_to or ()) and is_main_process:
        import wandb

        if wandb.setup().settings.mode == "online":
            try:
                with libraries_speak():  # it may ask for a key
                    wandb.login()
            except wandb.Error as error:
                raise UserError(f"--report_to wandb: {error} (Or set WANDB_MODE=offline.)") from error


def log_finished_run(
    training_args: TrainingArguments,
    approach: Approach,
    preflight: dict[str, float],
    trainer: Trainer | None = None,
) -> None:
    """Give the trackers of `training_args.report_to` what is in the folder of the finished run. Main process only.

    Args:
        training_args: Trainer's arguments.
        approach: that was trained.
        preflight: figures by name, of `utils.training.preflight`.
        trainer: the one that has trained, None if none has.
    """
    log_to = {"wandb": _log_to_wandb, "tensorboard": _log_to_tensorboard, "trackio": _log_to_trackio}
    trackers = [name for name in training_args.report_to or () if name in log_to]
    if not trackers:
        return
    run = read_run(str(training_args.output_dir))
    numbers = {name: value for name, value in run.results.items() if isinstance(value, int | float)}
    images = sorted(Path(run.folder, PICTURES_FOLDER).glob("*.png"))
    logged = Logged(
        config=run.arguments | {f"preflight/{name}": value for name, value in preflight.items()},
        scores={f"final/{name.removeprefix('eval_')}": value for name, value in numbers.items()},
        tables={"labels": label_rows(run), "samples": sample_rows(run, approach.as_text)},
        pictures={f"{PICTURES_FOLDER}/{path.stem}": path for path in images},
    )
    for name in trackers:
        log_to[name](logged, training_args, trainer)


def label_rows(run: FinishedRun) -> Table:
    """Threshold, if there is one, scores and support of each label."""
    rows = [
        [label, float(threshold), *(run.results[f"eval_{name}/{label}"] for name in PER_LABEL)]
        for label, threshold in zip(run.task.labels, run.thresholds.values)
    ]
    if run.task.single_label:
        return ["label", *PER_LABEL], [[label, *scores] for label, _, *scores in rows]
    return ["label", "threshold", *PER_LABEL], rows


def sample_rows(run: FinishedRun, as_text: Callable[[np.ndarray], str], most: int = SAMPLE_ROWS) -> Table:
    """Validation rows drawn at random, with text, true and predicted labels, the labels that a label generator has
    answered, and the probability of each label.

    Args:
        run: which rows.
        as_text: how the approach writes a 0/1 row `[L]`. Words of a free answer (`--decoding free`) that are no label
            are not in it.
        most: rows to draw at most.
    """
    labels, rows = run.task.labels, run.predictions
    names = {"true": rows.truth == 1, "predicted": run.decisions[run.headline][0]}
    if rows.decoded is not None:
        names["answered"] = rows.decoded
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:most]).tolist()
    samples = [
        [rows.texts[i], *(as_text(array[i]) for array in names.values()), *rows.probabilities[i].tolist()]
        for i in drawn
    ]
    return ["text", *names, *(f"p({label})" for label in labels)], samples


def _log_to_wandb(logged: Logged, training_args: TrainingArguments, trainer: Trainer | None) -> None:
    import wandb

    # Trainer has begun a run, unless nothing was trained.
    run = wandb.run or wandb.init(project=os.getenv("WANDB_PROJECT", "huggingface"), name=training_args.run_name)
    run.config.update(logged.config, allow_val_change=True)
    run.log(
        logged.scores
        | {name: wandb.Table(columns=[*header], data=[*rows]) for name, (header, rows) in logged.tables.items()}
        | {name: wandb.Image(str(path)) for name, path in logged.pictures.items()}
    )
    run.finish()


def _log_to_trackio(logged: Logged, training_args: TrainingArguments, trainer: Trainer | None) -> None:
    import pandas as pd
    import trackio

    # Trainer's callback finishes the run when the training ends; begun again, it forgets its configuration.
    run = trackio.init(
        project=training_args.project,
        name=training_args.run_name,
        space_id=training_args.trackio_space_id,
        private=training_args.hub_private_repo,
        bucket_id=training_args.trackio_bucket_id,
        resume="allow",
    )
    run.config.update(training_args.to_dict() | logged.config)  # in which tokens are masked
    trackio.log(
        logged.scores
        | {
            name: trackio.Table(dataframe=pd.DataFrame(rows, columns=header))
            for name, (header, rows) in logged.tables.items()
        }
        | {name: trackio.Image(str(path)) for name, path in logged.pictures.items()}
    )
    trackio.finish()


def _log_to_tensorboard(logged: Logged, training_args: TrainingArguments, trainer: Trainer | None) -> None:
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    # Trainer's callback has closed its writer when the training ended; a new one writes beside it.
    callbacks = [] if trainer is None else trainer.callback_handler.callbacks
    used = [callback.logging_dir for callback in callbacks if isinstance(callback, TensorBoardCallback)]
    folder = os.getenv("TENSORBOARD_LOGGING_DIR") or str(Path(str(training_args.output_dir), "runs"))
    step = trainer.state.global_step if trainer is not None else 0
    with SummaryWriter(next(filter(None, used), folder)) as writer:
        writer.add_text("config", f"```json\n{json.dumps(logged.config, indent=2)}\n```", step)
        for name, value in logged.scores.items():
            writer.add_scalar(name, value, step)
        for name, (header, rows) in logged.tables.items():
            writer.add_text(name, format_table(header, rows, markdown=True), step)
        for name, path in logged.pictures.items():
            writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")
