"""Which runs belong together: seeds and folds of one training; and what a person calls them together."""

from __future__ import annotations

import json
import os
from typing import Any

from utils.runs.finished import FinishedRun
from utils.runs.folder import DATA_PATHS
from utils.scoring.predictions import Predictions

# Arguments in which the runs of one group may differ.
NOT_IN_KEY = ("seed", "data_seed", "fold", "output_dir", "run_name")
LONGEST_NAME = 40


def group_key(arguments: dict[str, Any]) -> str:
    """Equal for runs that differ in seed or fold alone."""
    named = {name: value for name, value in arguments.items() if name not in (*NOT_IN_KEY, *DATA_PATHS)}
    # With a file and without one the same rows are held out by other means.
    return json.dumps(named | {"validation_file": bool(arguments.get("validation_file"))}, sort_keys=True)


def is_fold(arguments: dict[str, Any]) -> bool:
    """Whether the run is one fold of several."""
    return bool(arguments.get("num_folds")) and arguments.get("fold") is not None


def group_runs(runs: list[FinishedRun]) -> tuple[list[list[list[FinishedRun]]], list[str]]:
    """Bring runs together that differ in seed or fold alone.

    Returns:
        `(groups, notes)`: each group a list of seeds, each seed a list of runs (its folds, or the one run); and a line
        for each run left out, as another is the same seed and fold.
    """
    groups, notes = {}, []
    for run in runs:
        seeds = groups.setdefault(group_key(run.arguments), {})
        folds = seeds.setdefault((run.arguments.get("seed"), run.arguments.get("data_seed")), {})
        fold = run.arguments["fold"] if is_fold(run.arguments) else None
        if fold in folds:
            first = folds[fold].folder
            notes.append(f"{run.folder} has the same arguments, seed and fold as {first}: skipped")
        else:
            folds[fold] = run
    return [[list(folds.values()) for folds in seeds.values()] for seeds in groups.values()], notes


def short_names(folders: list[str]) -> dict[str, str]:
    """`{folder: name}`, the names as short as they stay distinct."""
    parts = [os.path.normpath(folder).split(os.sep) for folder in folders]
    names = ["/".join(part) for part in parts]
    for length in range(1, max(map(len, parts), default=0)):
        short = ["/".join(part[-length:]) for part in parts]
        if len(set(short)) == len(short):
            names = short
            break
    return dict(zip(folders, names))


def joint_name(names: list[str]) -> str:
    """One name for several, as the shell writes it: `seed{1,2,3}`; of many the first and the last."""
    if len(names) == 1:
        return names[0]
    start = names[0]
    while not all(name.startswith(start) for name in names):
        start = start[:-1]
    joint = f"{start}{{{','.join(name[len(start) :] for name in names)}}}"
    return joint if len(joint) <= LONGEST_NAME else f"{names[0]} to {names[-1]} ({len(names)} runs)"


def describe_runs(seeds: list[list[FinishedRun]]) -> str:
    """`1`, `3 seeds`, `5 folds`, `3 seeds x 5 folds`, `4 of 5 folds`."""
    words = [f"{len(seeds)} seeds"] if len(seeds) > 1 else []
    folds = sum(map(len, seeds))
    if is_fold(seeds[0][0].arguments):
        wanted = seeds[0][0].arguments["num_folds"]
        whole = folds == wanted * len(seeds)
        words.append(f"{wanted} folds" if whole else f"{folds} of {wanted * len(seeds)} folds")
    return " x ".join(words) or "1"


def join_folds(runs: list[FinishedRun]) -> Predictions:
    """The validation predictions of a run, or of the folds of one together."""
    return Predictions.join_folds([run.predictions for run in runs])
