"""The folder of a run: what lies in it, when it may be written to, and how it stays complete."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.files import (
    check_length,
    read_json_object,
    read_part,
    remove_temporary_files,
    unwritable_as_user_error,
    write_json,
)
from utils.core.log import log
from utils.data.task import TASK_FILE, Task
from utils.doctor.finding import DOCTOR_FILE
from utils.models.approaches import ADAPTER_FILE, APPROACHES, BASE_FOLDER
from utils.runs.checkpoints import (
    FILES_FILE,
    STATE_FILE,
    checkpoints,
    complete_checkpoints,
    problem_of,
    remove_checkpoint,
)

ARGUMENTS_FILE = "run_args.json"
# In it: where the data were on the machine the run was trained on, while data_sha256 says what they are.
DATA_PATHS = ("train_file", "validation_file")
RESULTS_FILE = "all_results.json"
MANIFEST_FILE = "manifest.json"
LOG_FILE = "run.log"
CARD_FILE = "README.md"
REPORT_FILE = "report.html"
PICTURES_FOLDER = "pictures"
MERGED_FOLDER = "merged"
STAGING_FOLDER = ".unfinished"


@dataclass(frozen=True)
class RunFile:
    """A kind of file in the folder of a run.

    Args:
        pattern: its name, as `fnmatch` takes it; a star does not match a slash.
        what: what it is, and who writes it where that is not a training script.
        needed: whether a prediction on another machine needs it.
        pushed: whether it goes to the Hub: what is needed, and what quotes no texts of the data.
    """

    pattern: str
    what: str
    needed: bool = False
    pushed: bool = False


def _needed(pattern: str, what: str) -> RunFile:
    return RunFile(pattern, what, needed=True, pushed=True)


# Publishing, the Hub, resuming and prediction read this table. Nothing that is needed is a pickle, so nothing that is
# pulled from the Hub runs as code.
RUN_FILES = (
    _needed(TASK_FILE, "labels in the order of the logits, columns, text options; written when the run begins"),
    _needed(ARGUMENTS_FILE, "the arguments the result depends on; written when the run begins"),
    _needed(ADAPTER_FILE, "what a LoRA adapter is put on, as PEFT saves it"),
    _needed("adapter_model*.safetensors*", "weights of a LoRA adapter, with the head"),
    _needed("model*.safetensors*", "weights of a model trained in full"),
    _needed("config.json", "shape of a model trained in full, as transformers saves it"),
    _needed("generation_config.json", "how transformers' `generate` ends an answer"),
    _needed("tokenizer*", "the tokenizer, as transformers saves it"),
    _needed("added_tokens.json", "the tokenizer's"),
    _needed("special_tokens_map.json", "the tokenizer's"),
    _needed("vocab*", "the tokenizer's"),
    _needed("merges.txt", "the tokenizer's"),
    _needed("*.model", "the tokenizer's, SentencePiece"),
    _needed("chat_template.jinja", "the tokenizer's"),
    _needed("generation.json", "of a label generator: prompt, order of the labels, how answers are scored"),
    _needed("questions.json", "of a head that is asked for its labels one by one: the words of the questions"),
    _needed("model.onnx", "an exported model with its weights (export.py)"),
    _needed("thresholds.json", "threshold of each label, and how they were chosen"),
    _needed(RESULTS_FILE, "all scores"),
    _needed(DOCTOR_FILE, "what the doctor says of the run, and the figures that new texts are compared with"),
    _needed(MANIFEST_FILE, "size and hash of each file; written last, so a folder with it is complete"),
    RunFile(CARD_FILE, "model card", pushed=True),
    RunFile(f"{PICTURES_FOLDER}/*.png", "pictures of the report", pushed=True),
    RunFile(
        "predictions/validation.parquet",
        "id, text, truth, probability of each validation row, and a generator's answer",
    ),
    RunFile("train_results.json", "as Trainer users know it"),
    RunFile("eval_results.json", "as Trainer users know it"),
    RunFile(STATE_FILE, "Trainer's log and best checkpoint"),
    RunFile(LOG_FILE, "what libraries printed, which is kept from the terminal"),
    RunFile(REPORT_FILE, "all of it to look at; `python -m utils.report` makes it again"),
    RunFile(f"{BASE_FOLDER}/*", "the embedded model, beside an adapter on it: plain PEFT then loads it offline"),
    RunFile(f"{MERGED_FOLDER}/*", "a plain 16-bit model with the adapter merged in (--merge_adapter)"),
)


def matches(path: str, files: Iterable[RunFile]) -> bool:
    """Whether a path below the folder of a run is that of one of some kinds of files."""
    # fnmatch's stars match slashes too: merged/tokenizer.json is none of ours.
    return any(fnmatch(path, file.pattern) and path.count("/") == file.pattern.count("/") for file in files)


# A checkpoint-*/ is Trainer's; it is gone when the run is finished, unless --keep_checkpoints is set.


# Beginning and resuming


def find_checkpoint(output_dir: str | Path, overwrite: bool) -> str | None:
    """Decide, without writing, how a run begins.

    Args:
        output_dir: folder of the run.
        overwrite: whether what is in it may be replaced.

    Returns:
        path of the last complete checkpoint to resume from, or None to begin at the first step.

    Raises:
        UserError: for a folder that holds other things or a finished run, or checkpoints that are all damaged, unless
            `overwrite`.
    """
    output_dir = Path(output_dir)
    check_length("output_dir", output_dir)
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
    if (output_dir / MANIFEST_FILE).exists():
        raise UserError(f"--output_dir {output_dir} holds a finished run: choose another, or pass --overwrite")
    if (output_dir / RESULTS_FILE).exists():
        return None  # it was trained, and its checkpoints are being removed
    complete = complete_checkpoints(output_dir)
    damaged = [folder for folder in checkpoints(output_dir) if (folder / FILES_FILE).exists()]
    if damaged and not complete:
        raise UserError(
            f"no training can go on from {damaged[-1]}: {problem_of(damaged[-1])}: put back what was there, or pass "
            "--overwrite to begin again"
        )
    return str(complete[-1]) if complete else None


def is_trained(output_dir: str | Path, overwrite: bool) -> bool:
    """Whether a run was trained and evaluated, and killed before its last files were written."""
    done, finished = (Path(output_dir, name).exists() for name in (RESULTS_FILE, MANIFEST_FILE))
    return done and not finished and not overwrite and Path(output_dir, ARGUMENTS_FILE).exists()


def check_same_run(output_dir: str | Path, arguments: dict[str, Any], task: Task) -> None:
    """Refuse to resume a run with other arguments or other data than it was begun with.

    Args:
        output_dir: folder of the unfinished run.
        arguments: what would be its run_args.json now.
        task: what would be its task.json now.

    Raises:
        UserError: for the first argument that differs, or other data.
    """
    begun = read_part(output_dir, ARGUMENTS_FILE, read_json_object)
    for name, value in json.loads(json.dumps(arguments)).items():
        if name in begun and begun[name] != value:  # an earlier version may not have had the flag
            raise UserError(
                f"the unfinished run in {output_dir} was begun with {name} = {begun[name]}, now it is {value}: "
                "use the same, choose another --output_dir, or pass --overwrite"
            )
    if read_part(output_dir, TASK_FILE, lambda path: Task.load(path.parent)) != task:
        raise UserError(
            f"the unfinished run in {output_dir} was begun with other training data or columns: "
            "use the same, choose another --output_dir, or pass --overwrite"
        )


def begin_run(output_dir: str | Path, arguments: dict[str, Any], task: Task, resuming: bool) -> None:
    """Make a folder that of a run that has just begun, or clean up what a killed one left half done.

    Args:
        output_dir: the folder, made if need be.
        arguments: its run_args.json.
        task: its task.json.
        resuming: whether complete checkpoints stay.
    """
    output_dir = Path(output_dir)
    with unwritable_as_user_error(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output_dir / STAGING_FOLDER, ignore_errors=True)
    # First of all: from here on the folder is not a finished run any more.
    for name in (MANIFEST_FILE, RESULTS_FILE):
        (output_dir / name).unlink(missing_ok=True)
    remove_temporary_files(output_dir)
    if (output_dir / ARGUMENTS_FILE).exists():
        if not resuming:  # an adapter of an overwritten run beside a new model would be taken for the new one's
            _remove_finished_files(output_dir)
        for folder in checkpoints(output_dir):
            problem = problem_of(folder)
            if problem:
                log(f"removing {folder}, from which no training can go on: {problem}")
            if problem or not resuming:
                remove_checkpoint(folder)
    # In this order: a folder with arguments and no task is begun anew, one with a task alone would not be ours.
    write_json(output_dir / ARGUMENTS_FILE, arguments)
    task.save(output_dir)


def abandon_run(output_dir: str | Path) -> None:
    """Remove what `begin_run` has written into a folder in which nothing was trained; others' files stay."""
    output_dir = Path(output_dir)
    if complete_checkpoints(output_dir):
        return
    shutil.rmtree(output_dir / STAGING_FOLDER, ignore_errors=True)
    for folder in checkpoints(output_dir):
        remove_checkpoint(folder)
    with suppress(OSError):
        for name in (LOG_FILE, TASK_FILE, ARGUMENTS_FILE):
            (output_dir / name).unlink(missing_ok=True)
        output_dir.rmdir()  # if it is empty


def _remove_finished_files(output_dir: Path) -> None:
    """Remove what an earlier run left, folders of its files whole."""
    kept = {TASK_FILE, ARGUMENTS_FILE}  # written again in a moment; without them the folder would not count as a run
    for name in sorted({file.pattern.split("/")[0] for file in RUN_FILES} - kept):
        for path in output_dir.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# Finishing


def staging_folder(output_dir: str | Path) -> Path:
    """Folder inside `output_dir` in which the parts of the finished run are gathered."""
    return Path(output_dir) / STAGING_FOLDER


def publish(output_dir: str | Path, keep_checkpoints: bool) -> None:
    """Move what was gathered to its place, the results last, and drop the checkpoints."""
    staging = staging_folder(output_dir)
    # A pickle of the arguments, the hub token with them; run_args.json says what matters.
    (staging / "training_args.bin").unlink(missing_ok=True)
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == RESULTS_FILE):
        target = Path(output_dir) / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    drop_leftovers(output_dir, keep_checkpoints)


def drop_leftovers(output_dir: str | Path, keep_checkpoints: bool) -> None:
    """Remove what a run needs only while it trains: gathered parts, checkpoints unless they are kept."""
    shutil.rmtree(staging_folder(output_dir), ignore_errors=True)
    if not keep_checkpoints:
        for folder in checkpoints(output_dir):
            remove_checkpoint(folder)


def save_results(folder: str | Path, train_metrics: dict[str, Any], eval_metrics: dict[str, Any]) -> None:
    """Write the results as Trainer users know them.

    Args:
        folder: to write to.
        train_metrics: of the training.
        eval_metrics: of the evaluation, names with `eval_` before them.
    """
    write_json(Path(folder) / "train_results.json", train_metrics)
    write_json(Path(folder) / "eval_results.json", eval_metrics)
    write_json(Path(folder) / RESULTS_FILE, train_metrics | eval_metrics)


# Reading a finished run


def load_task(folder: str | Path) -> Task:
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


def load_arguments(folder: str | Path) -> dict[str, Any]:
    """The arguments of a run.

    Raises:
        UserError: for a run that has lost them, or whose script is none of this project's.
    """

    def read(path: Path) -> dict[str, Any]:
        arguments = read_json_object(path)
        APPROACHES[arguments["script"]]
        missing = [name for name in ("bf16", "model_name_or_path", "threshold_strategy") if name not in arguments]
        if missing:
            raise KeyError(missing[0])
        return arguments

    return read_part(folder, ARGUMENTS_FILE, read)


def load_results(folder: str | Path) -> dict[str, Any]:
    """All scores of a finished run.

    Raises:
        UserError: for a run that has lost them.
    """

    def read(path: Path) -> dict[str, Any]:
        results = read_json_object(path)
        for name in ("eval_samples", "eval_f1_macro"):
            if not isinstance(results[name], int | float) or not 0 <= results[name] < math.inf:
                raise ValueError(f"{name} is no number")
        return results

    return read_part(folder, RESULTS_FILE, read)
