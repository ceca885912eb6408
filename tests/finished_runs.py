"""Finished run folders made from a trained one, with other arguments and predictions; their model is left out."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.files import read_json, write_json
from utils.runs.folder import RESULTS_FILE, load_task
from utils.runs.manifest import write_manifest
from utils.scoring.predictions import PREDICTIONS_FILE

SMALL = (
    *("task.json", "run_args.json", "all_results.json", "thresholds.json", "trainer_state.json", "doctor.json"),
    PREDICTIONS_FILE,
)


def copy_run(source, folder, probabilities=None, rows=None, results=None, drop=(), **arguments):
    """Copy a run.

    `probabilities`: function of truth `[N, L]` that gives those of the copy; `rows`: which validation rows it has;
    `results`, `arguments`: what is put into all_results.json and run_args.json; `drop`: columns its predictions lack.
    """
    (folder / "predictions").mkdir(parents=True)
    for name in SMALL:
        shutil.copy(source / name, folder / name)
    write_json(folder / "run_args.json", read_json(folder / "run_args.json") | arguments)
    write_json(folder / RESULTS_FILE, read_json(folder / RESULTS_FILE) | (results or {}))
    frame = pd.read_parquet(folder / PREDICTIONS_FILE)
    labels = load_task(folder).labels
    if probabilities is not None:
        truth = frame[[f"truth/{label}" for label in labels]].to_numpy()
        frame[[f"probability/{label}" for label in labels]] = probabilities(truth)
    if rows is not None:
        frame = frame.iloc[rows]
    frame.drop(columns=list(drop)).to_parquet(folder / PREDICTIONS_FILE, index=False)
    write_manifest(folder)
    return folder


def guesses(seed, skill):
    """Probabilities that know the truth the better, the higher `skill`: a function of truth for `copy_run`."""

    def call(truth):
        noise = np.random.default_rng(seed).normal(size=truth.shape)
        return 1 / (1 + np.exp(-(skill * (2 * truth - 1) + noise)))

    return call


def load_predictions(folder, labels):
    """The file of validation predictions as a data frame: id, truth and probabilities in the order of `labels`."""
    frame = pd.read_parquet(Path(folder) / PREDICTIONS_FILE)
    return frame[["id", *(f"{kind}/{label}" for kind in ("truth", "probability") for label in labels)]]
