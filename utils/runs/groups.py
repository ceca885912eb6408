"""Which runs belong together: seeds and folds of one training; and what a person calls them together."""

import json
import os
from dataclasses import dataclass

import numpy as np

from utils.runs.finished import validation_predictions
from utils.runs.folder import DATA_PATHS

# Arguments in which the runs of one group may differ.
NOT_IN_KEY = ("seed", "data_seed", "fold", "output_dir", "run_name")
LONGEST_NAME = 40


@dataclass
class Scored:
    """0/1 predictions of one run, or of all folds of one together, for rows with known labels; sorted by id."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    truth: np.ndarray  # [N, L]
    predictions: dict[str, np.ndarray]  # suffix of the summary scores: [N, L]
    folds: np.ndarray | None = None  # [N], which fold has held a row out, where there are several

    def __post_init__(self):
        # The same rows and labels in the same order, whatever the order in which a run has them.
        rows = np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__), dtype=np.int64)
        columns = np.array(sorted(range(len(self.labels)), key=self.labels.__getitem__), dtype=np.int64)
        self.ids = tuple(self.ids[row] for row in rows)
        self.labels = tuple(self.labels[column] for column in columns)
        self.truth = np.asarray(self.truth)[rows][:, columns]
        self.folds = None if self.folds is None else self.folds[rows]
        self.predictions = {name: array[rows][:, columns] for name, array in self.predictions.items()}

    @property
    def rows(self):
        """Equal where two may be compared: the same ids with the same true labels."""
        return self.ids, self.labels, self.truth.tobytes()


def group_key(arguments):
    """Equal for runs that differ in seed or fold alone."""
    named = {name: value for name, value in arguments.items() if name not in (*NOT_IN_KEY, *DATA_PATHS)}
    # With a file and without one the same rows are held out by other means.
    return json.dumps(named | {"validation_file": bool(arguments.get("validation_file"))}, sort_keys=True)


def is_fold(arguments):
    """Whether the run is one fold of several."""
    return bool(arguments.get("num_folds")) and arguments.get("fold") is not None


def group_runs(runs):
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


def short_names(folders):
    """`{folder: name}`, the names as short as they stay distinct."""
    parts = [os.path.normpath(folder).split(os.sep) for folder in folders]
    names = ["/".join(part) for part in parts]
    for length in range(1, max(map(len, parts), default=0)):
        short = ["/".join(part[-length:]) for part in parts]
        if len(set(short)) == len(short):
            names = short
            break
    return dict(zip(folders, names))


def joint_name(names):
    """One name for several, as the shell writes it: `seed{1,2,3}`; of many the first and the last."""
    if len(names) == 1:
        return names[0]
    start = names[0]
    while not all(name.startswith(start) for name in names):
        start = start[:-1]
    joint = f"{start}{{{','.join(name[len(start) :] for name in names)}}}"
    return joint if len(joint) <= LONGEST_NAME else f"{names[0]} to {names[-1]} ({len(names)} runs)"


def describe_runs(seeds):
    """`1`, `3 seeds`, `5 folds`, `3 seeds x 5 folds`, `4 of 5 folds`."""
    words = [f"{len(seeds)} seeds"] if len(seeds) > 1 else []
    folds, wanted = sum(map(len, seeds)), seeds[0][0].arguments.get("num_folds")
    if is_fold(seeds[0][0].arguments):
        whole = folds == wanted * len(seeds)
        words.append(f"{wanted} folds" if whole else f"{folds} of {wanted * len(seeds)} folds")
    return " x ".join(words) or "1"


@dataclass
class HeldOut:
    """What a run, or the folds of one together, say of the rows that were held out; arrays are `[N, L]`."""

    ids: list[str]
    texts: list[str] | None
    truth: np.ndarray
    probabilities: np.ndarray
    decoded: np.ndarray | None

    def predictions(self, strategy, shrinkage):
        """0/1 predictions by the suffix of the summary scores, see `utils.runs.finished.validation_predictions`."""
        return validation_predictions(
            self.ids, self.texts, self.truth, self.probabilities, self.decoded, strategy, shrinkage
        )


def join_folds(runs, labels):
    """The rows that the folds of a run have held out together, as `HeldOut`, columns in the order of `labels`.

    Several are sorted by id, as cross-fitting depends on the order of the rows and must not on that of the folders.
    """
    columns = [[run.task.labels.index(label) for label in labels] for run in runs]
    ids = [row_id for run in runs for row_id in run.ids]
    order = sorted(range(len(ids)), key=ids.__getitem__) if len(runs) > 1 else list(range(len(ids)))

    def together(name):
        arrays = [getattr(run, name) for run in runs]
        if any(array is None for array in arrays):
            return None
        return np.concatenate([array[:, c] for array, c in zip(arrays, columns)])[order]

    texts = None if any(run.texts is None for run in runs) else [text for run in runs for text in run.texts]
    return HeldOut(
        [ids[row] for row in order],
        None if texts is None else [texts[row] for row in order],
        *(together(name) for name in ("truth", "probabilities", "decoded")),
    )


def pool_folds(runs):
    """The out-of-fold predictions of runs as those of one, thresholds cross-fitted over all rows: a `Scored`.

    Raises:
        ValueError: where a row was held out by two of the runs.
    """
    labels = runs[0].task.labels
    held = join_folds(runs, labels)
    fold_of = {row_id: fold for fold, run in enumerate(runs) for row_id in run.ids}
    if len(fold_of) < len(held.ids):
        raise ValueError("folds share rows")
    folds = np.array([fold_of[row_id] for row_id in held.ids]) if len(runs) > 1 else None
    predictions = held.predictions(runs[0].strategy, runs[0].shrinkage)
    return Scored(tuple(held.ids), tuple(labels), held.truth, predictions, folds)
