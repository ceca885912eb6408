"""Trackers (--report_to wandb, tensorboard, trackio): what they get beyond Trainer's metrics when a run is finished.

Arguments, preflight, final scores, the table of labels and thresholds, pictures, and some validation rows with what was
predicted for them. Nothing of it is secret, but the rows quote texts of the data.
"""

import json
import os
from pathlib import Path

import numpy as np

from utils.core.errors import UserError
from utils.core.tables import format_table
from utils.models.generator.generator import GENERATION_FILE, Generation
from utils.models.generator.label_text import LabelText
from utils.runs.finished import read_run
from utils.scoring.evaluation import PER_LABEL

SAMPLE_ROWS = 50


def check_trackers(training_args, is_main_process):
    """Refuse trackers that could not track, before a model is loaded; give the run its folder's name.

    Raises:
        UserError: for a tracker that is not known or not installed, or W&B without a key.
    """
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(training_args.report_to):
            callback()  # asks for its package
    except (ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"--report_to: {error}") from error
    # Without a name trackio would begin another run for each part of the script.
    training_args.run_name = training_args.run_name or Path(training_args.output_dir).resolve().name
    if "wandb" in training_args.report_to and is_main_process:
        import wandb

        if wandb.setup().settings.mode == "online":
            try:
                wandb.login()
            except wandb.Error as error:
                raise UserError(f"--report_to wandb: {error} (Or set WANDB_MODE=offline.)") from error


def log_finished_run(training_args, folder, preflight, trainer=None):
    """Give the trackers of `training_args.report_to` what is in the folder of a finished run. Main process only.

    Args:
        training_args: Trainer's arguments.
        folder: of the run, with its pictures if there are to be any.
        preflight: figures by name, of `utils.training.preflight.preflight_figures`.
        trainer: the one that has trained, None if none has.
    """
    log_to = {"wandb": _log_to_wandb, "tensorboard": _log_to_tensorboard, "trackio": _log_to_trackio}
    trackers = [name for name in training_args.report_to if name in log_to]
    if not trackers:
        return
    run = read_run(folder)
    config = run.arguments | {f"preflight/{name}": value for name, value in preflight.items()}
    numbers = {name: value for name, value in run.results.items() if isinstance(value, int | float)}
    scores = {f"final/{name.removeprefix('eval_')}": value for name, value in numbers.items()}
    tables = {"labels": label_rows(run), "samples": sample_rows(run)}
    pictures = {f"pictures/{path.stem}": path for path in sorted(Path(folder, "pictures").glob("*.png"))}
    for name in trackers:
        log_to[name](training_args, config, scores, tables, pictures, trainer)


def label_rows(run):
    """`(header, rows)`: threshold, scores and support of each label of a `FinishedRun`."""
    rows = [
        [label, float(threshold), *(run.results[f"eval_{name}/{label}"] for name in PER_LABEL)]
        for label, threshold in zip(run.task.labels, run.thresholds)
    ]
    return ["label", "threshold", *PER_LABEL], rows


def sample_rows(run, most=SAMPLE_ROWS):
    """`(header, rows)`: validation rows drawn at random, with text, true and predicted labels, the labels that a label
    generator has answered, and the probability of each label.

    The answers are written anew from their labels: of a free answer (`--decoding free`) words that are no label are
    not in them.
    """
    labels = run.task.labels
    predicted = run.predictions[run.headline]
    names = {"true": run.truth, "predicted": predicted} | ({"answered": run.decoded} if run.decoded is not None else {})
    label_text = LabelText(labels, labels, "(none)")
    if Path(run.folder, GENERATION_FILE).is_file():
        generation = Generation.load(run.folder)
        label_text = LabelText(labels, generation.order, generation.no_label)
    drawn = np.sort(np.random.default_rng(0).permutation(len(run.ids))[:most]).tolist()
    rows = [
        [run.texts[i], *(label_text.write(array[i]) for array in names.values()), *run.probabilities[i].tolist()]
        for i in drawn
    ]
    return ["text", *names, *(f"p({label})" for label in labels)], rows


def _log_to_wandb(training_args, config, scores, tables, pictures, trainer):
    import wandb

    # Trainer has begun a run, unless nothing was trained.
    run = wandb.run or wandb.init(project=os.getenv("WANDB_PROJECT", "huggingface"), name=training_args.run_name)
    run.config.update(config, allow_val_change=True)
    run.log(
        scores
        | {name: wandb.Table(columns=header, data=rows) for name, (header, rows) in tables.items()}
        | {name: wandb.Image(str(path)) for name, path in pictures.items()}
    )
    run.finish()


def _log_to_trackio(training_args, config, scores, tables, pictures, trainer):
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
    run.config.update(training_args.to_dict() | config)  # in which tokens are masked
    trackio.log(
        scores
        | {name: trackio.Table(dataframe=pd.DataFrame(rows, columns=header)) for name, (header, rows) in tables.items()}
        | {name: trackio.Image(str(path)) for name, path in pictures.items()}
    )
    trackio.finish()


def _log_to_tensorboard(training_args, config, scores, tables, pictures, trainer):
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    # Trainer's callback has closed its writer when the training ended; a new one writes beside it.
    callbacks = [] if trainer is None else trainer.callback_handler.callbacks
    used = [callback.logging_dir for callback in callbacks if isinstance(callback, TensorBoardCallback)]
    folder = os.getenv("TENSORBOARD_LOGGING_DIR") or str(Path(training_args.output_dir, "runs"))
    step = trainer.state.global_step if trainer is not None else 0
    with SummaryWriter(next(filter(None, used), folder)) as writer:
        writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", step)
        for name, value in scores.items():
            writer.add_scalar(name, value, step)
        for name, (header, rows) in tables.items():
            writer.add_text(name, format_table(header, rows, markdown=True), step)
        for name, path in pictures.items():
            writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")
