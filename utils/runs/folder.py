"""The folder of a run: what lies in it, when it may be written to, and how it stays complete.

task.json                        labels in order, columns, text options (utils.data.task)
generation.json                  of a label generator: prompt, order of the labels, scoring (utils.models.generator)
run_args.json                    the arguments the result depends on; marks the folder as a run
checkpoint-*/                    Trainer's checkpoints, while the run goes on
model, tokenizer                 as transformers saves them
thresholds.json                  threshold of each label, and how they were chosen
predictions/validation.parquet   id, text, truth, probability (and a generator's answer) of each validation row
train_results.json, eval_results.json, trainer_state.json
README.md                        model card
all_results.json                 all scores; written last, so a folder with it is complete
report.html, pictures/           what there is to look at (utils.report), made from the rest at any time
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.files import atomic_path, read_json, read_part, told_if_unwritable, write_json
from utils.data.task import TASK_FILE, Task

ARGUMENTS_FILE = "run_args.json"
# In it: where the data were on the machine the run was trained on, while data_sha256 says what they are.
DATA_PATHS = ("train_file", "validation_file")
RESULTS_FILE = "all_results.json"
THRESHOLDS_FILE = "thresholds.json"
PREDICTIONS_FILE = "predictions/validation.parquet"
ADAPTER_FILE = "adapter_config.json"
MERGED_FOLDER = "merged"
STAGING_FOLDER = ".unfinished"
# What a finished run leaves; an adapter of an overwritten run beside a new model would be taken for it.
FINISHED_FILES = (
    "adapter_*",
    "config.json",
    "model*.safetensors*",
    "predictions",
    "merged",
    "pictures",
    "report.html",
    "README.md",
    "thresholds.json",
    "generation.json",
    "generation_config.json",
    "train_results.json",
    "eval_results.json",
    "trainer_state.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "chat_template.jinja",
)


# Beginning and resuming


def find_checkpoint(output_dir, overwrite):
    """Decide, without writing, how a run in `output_dir` begins.

    Returns:
        path of the last complete checkpoint to resume from, or None to begin anew.

    Raises:
        UserError: for a folder that holds other things or a finished run, unless `overwrite`.
    """
    output_dir = Path(output_dir)
    if any(path.exists() and not path.is_dir() for path in (output_dir, *output_dir.parents)):
        raise UserError(f"--output_dir {output_dir} is, or lies below, a file: name a folder")
    if (output_dir / MERGED_FOLDER).exists() and not (output_dir / ARGUMENTS_FILE).exists():
        raise UserError(f"--output_dir {output_dir} holds a folder {MERGED_FOLDER} that is not ours: choose another")
    if overwrite or not output_dir.exists():
        return None
    if not (output_dir / ARGUMENTS_FILE).exists():
        if any(not path.name.startswith(".") for path in output_dir.iterdir()):
            raise UserError(f"--output_dir {output_dir} holds files but no run: choose another, or pass --overwrite")
        return None
    if (output_dir / RESULTS_FILE).exists():
        raise UserError(f"--output_dir {output_dir} holds a finished run: choose another, or pass --overwrite")
    complete = [folder for folder in _checkpoints(output_dir) if _is_complete(folder)]
    return str(complete[-1]) if complete else None


def check_same_run(output_dir, arguments, task):
    """Refuse to resume a run with other arguments or other data than it was begun with."""
    begun = read_json(Path(output_dir) / ARGUMENTS_FILE)
    for name, value in json.loads(json.dumps(arguments)).items():
        if begun.get(name) != value:
            raise UserError(
                f"the unfinished run in {output_dir} was begun with {name} = {begun.get(name)}, now it is {value}: "
                "use the same, choose another --output_dir, or pass --overwrite"
            )
    if Task.load(output_dir) != task:
        raise UserError(
            f"the unfinished run in {output_dir} was begun with other training data or columns: "
            "use the same, choose another --output_dir, or pass --overwrite"
        )


def begin_run(output_dir, arguments, task, resuming):
    """Make `output_dir` the folder of a run that has just begun, or clean up what a killed one left half done."""
    output_dir = Path(output_dir)
    with told_if_unwritable(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output_dir / STAGING_FOLDER, ignore_errors=True)
    # Results first: from here on the folder is not a finished run any more.
    (output_dir / RESULTS_FILE).unlink(missing_ok=True)
    if (output_dir / ARGUMENTS_FILE).exists() and not resuming:
        for path in [path for pattern in FINISHED_FILES for path in output_dir.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if (output_dir / ARGUMENTS_FILE).exists():
        for folder in _checkpoints(output_dir):
            if not (resuming and _is_complete(folder)):
                shutil.rmtree(folder)
    task.save(output_dir)
    write_json(output_dir / ARGUMENTS_FILE, arguments)


def _checkpoints(output_dir):
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    return sorted(folders, key=lambda path: int(path.name.split("-")[-1]))


def _is_complete(checkpoint):
    """Trainer writes the state last: a checkpoint with one that can be read is whole."""
    try:
        return "global_step" in read_json(checkpoint / "trainer_state.json")
    except (OSError, ValueError):
        return False


# Finishing


def staging_folder(output_dir):
    """Folder inside `output_dir` in which the parts of the finished run are gathered."""
    return Path(output_dir) / STAGING_FOLDER


def publish(output_dir, keep_checkpoints):
    """Move what was gathered to its place, the results last, and drop the checkpoints."""
    staging = staging_folder(output_dir)
    # A pickle of the arguments, the hub token with them; run_args.json says what matters.
    (staging / "training_args.bin").unlink(missing_ok=True)
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == RESULTS_FILE):
        target = Path(output_dir) / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(staging)
    if not keep_checkpoints:
        for folder in _checkpoints(Path(output_dir)):
            shutil.rmtree(folder)


def save_thresholds(folder, labels, thresholds, threshold_args):
    """Write `thresholds.json`."""
    values = {label: float(value) for label, value in zip(labels, thresholds)}
    how = {"strategy": threshold_args.threshold_strategy, "shrinkage": threshold_args.threshold_shrinkage}
    write_json(Path(folder) / THRESHOLDS_FILE, how | {"thresholds": values})


def save_predictions(folder, examples, labels, truth, probabilities, decoded=None):
    """Write `predictions/validation.parquet`: columns id, text, truth/x, probability/x and, of a label generator's
    answers, decoded/x for each label x."""
    columns = {"id": list(examples["id"]), "text": list(examples["text"])}
    columns |= {f"truth/{label}": truth[:, i].astype(np.int8) for i, label in enumerate(labels)}
    columns |= {f"probability/{label}": probabilities[:, i] for i, label in enumerate(labels)}
    if decoded is not None:
        columns |= {f"decoded/{label}": decoded[:, i] for i, label in enumerate(labels)}
    with atomic_path(Path(folder) / PREDICTIONS_FILE) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)


def save_results(folder, train_metrics, eval_metrics):
    """Write the results as Trainer users know them."""
    write_json(Path(folder) / "train_results.json", train_metrics)
    write_json(Path(folder) / "eval_results.json", eval_metrics)
    write_json(Path(folder) / RESULTS_FILE, train_metrics | eval_metrics)


# Reading a finished run


def load_task(folder):
    """The `Task` of a finished run.

    Raises:
        UserError: for a folder that is no run, or an unfinished one.
    """
    folder = Path(folder)
    if not (folder / TASK_FILE).is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no {TASK_FILE}")
    if not (folder / RESULTS_FILE).is_file():
        raise UserError(f"the run in {folder} is not finished: give its training command again to resume it")
    return read_part(folder, TASK_FILE, lambda path: Task.load(path.parent))


def load_thresholds(folder, labels):
    """`(thresholds [L] in the order of labels, strategy, shrinkage)` of a finished run.

    Raises:
        UserError: for a run that has lost them.
    """
    content = read_part(folder, THRESHOLDS_FILE, read_json)
    return np.array([content["thresholds"][label] for label in labels]), content["strategy"], content["shrinkage"]


def load_predictions(folder, labels):
    """Validation predictions of a finished run, its columns in the order of `labels`: a data frame.

    Raises:
        UserError: for predictions that are missing, or a probability that is not a number.
    """
    path = Path(folder) / PREDICTIONS_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} has no {PREDICTIONS_FILE}, which choosing thresholds anew takes, for one run or an average: it "
            "is not pushed to the Hub, as it quotes texts; use the folder that was trained"
        )
    frame = read_part(folder, PREDICTIONS_FILE, pd.read_parquet)
    columns = [f"probability/{label}" for label in labels]
    bad = frame[columns].isna().any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f'{path}, row {row + 1} (id "{frame["id"][row]}") holds a probability that is NaN: train anew')
    return frame[["id", *(f"truth/{label}" for label in labels), *columns]]
