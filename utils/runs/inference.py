"""Load finished runs and predict: shared by everything that works with trained models."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.core.errors import UserError
from utils.core.processes import this_process
from utils.data.columns import read_ids, read_texts
from utils.data.tables import Table
from utils.models.approaches import Approach, approach_of, place
from utils.models.precision import bf16_is_fast, suit_this_machine
from utils.runs.folder import load_arguments, load_task
from utils.runs.manifest import lost_vocabulary
from utils.scoring.predictions import Predictions


def load_run(folder: str | Path, trust_remote_code: bool = False) -> Approach:
    """Load a finished run, on the device of this process.

    Args:
        folder: of the run.
        trust_remote_code: whether the code of an adapter's base model may run, whatever the run says of it.

    Raises:
        UserError: for a folder that is no finished run, or whose model cannot be loaded.
    """
    task, arguments = load_task(folder), load_arguments(folder) | {"trust_remote_code": trust_remote_code}
    device: Any = this_process().device  # never None, unlike accelerate's hint
    # Every process predicts with a whole model; under FSDP transformers would read the weights in one process alone.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    approach = approach_of(arguments)
    for name in approach.files:  # without a tokenizer's file transformers makes an empty tokenizer
        if not (Path(folder) / name).exists():
            what = "tokenizer" if name.startswith("tokenizer") else name
            raise UserError(f"{folder} has lost its {what}: train it again, or put its {what} files back")
    lost = lost_vocabulary(folder)
    if lost:
        raise UserError(f"{folder} has lost its {lost}: copy the folder again, or train again")
    try:
        run = approach.load(str(folder), arguments, task)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged folder fails in many ways, some of them inside libraries
        raise UserError(
            f"the run in {folder} cannot be loaded: {type(error).__name__}: {error}: copy the folder again, or "
            "train again"
        ) from error
    run.name = str(folder)
    if run.model is not None:  # an exported one computes by itself
        run.compute_dtype = prediction_dtype(arguments["bf16"], device)
        suit_this_machine(run.model)
        place(run.model).eval()
    return run


def prediction_dtype(bf16: bool, device: torch.device) -> torch.dtype:
    """Dtype to compute matrix products in.

    Args:
        bf16: whether the run was trained, and its thresholds chosen, with products in bf16.
        device: to compute on.
    """
    on_gpu = device.type == "cuda"
    if not bf16 or not (on_gpu or bf16_is_fast(on_gpu)):
        return torch.float32
    return torch.bfloat16 if bf16_is_fast(on_gpu) else torch.float16


def predict_table(run: Approach, table: Table, batch_size: int) -> Predictions:
    """What a run says of the rows of a table or of a chunk of one, the same in all processes.

    Args:
        run: of `load_run`.
        table: N rows.
        batch_size: rows predicted at a time by one process.

    Raises:
        UserError: for rows that cannot be read, or a probability that is not a number.
    """
    predictions = replace(run.predict(read_texts(table, run.task), batch_size), ids=read_ids(table, run.task))
    bad = predictions.broken_rows
    if len(bad):
        raise UserError(
            f"{run.name} gives a probability that is NaN for {len(bad)} of {len(predictions)} rows, the first with id "
            f'"{predictions.ids[bad[0]]}": its weights are broken, train it again'
        )
    return predictions


class ProbabilityFile:
    """Probabilities `[N, L]` on disk, summed up run by run and chunk by chunk, in memory that does not grow.

    Only one model and one chunk are in memory at a time, however many runs are averaged and rows predicted. The file
    has no name: nothing is left of it, also after a kill.
    """

    def __init__(self, folder: str | Path, labels: int):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by the garbage collector)
        self.labels = labels

    def add(self, start: int, probabilities: np.ndarray) -> None:
        """Add probabilities `[n, L]` to those of the rows from `start` on."""
        self.file.seek(0, os.SEEK_END)
        known = start * self.labels * 8 < self.file.tell()
        total = self._read_neighbours(start, len(probabilities)) + probabilities if known else probabilities
        self.file.seek(start * self.labels * 8)
        self.file.write(np.ascontiguousarray(total, dtype=np.float64).data)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The sums `[n, L]` of rows by their numbers `[n]`."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)  # of neighbours, which lie behind each other
        return np.concatenate([self._read_neighbours(int(run[0]), len(run)) for run in runs if len(run)])

    def _read_neighbours(self, start: int, rows: int) -> np.ndarray:
        self.file.seek(start * self.labels * 8)
        return np.frombuffer(self.file.read(rows * self.labels * 8), dtype=np.float64).reshape(rows, self.labels)
