"""Held labels: the truth of test rows, and submission files and runs scored on it."""

from dataclasses import dataclass, replace

import numpy as np

from utils.core.errors import UserError
from utils.data.columns import ID_NAMES, check_test_columns, check_unique_ids, looks_binary, read_ids, read_labels
from utils.data.tables import read_table
from utils.data.task import Task
from utils.runs.comparison import make_entry
from utils.runs.finished import AT_HALF, TUNED
from utils.runs.groups import Scored, group_runs, join_folds, short_names
from utils.scoring.thresholds import apply_thresholds, fit_thresholds


@dataclass
class HeldLabels:
    """True labels `[N, L]` of test rows, by id."""

    name: str  # of the file
    task: Task  # its labels, and in which columns they stand
    ids: list[str]
    truth: np.ndarray


def read_held_labels(path, task=None, submissions=()):
    """Read a file of ids and true labels.

    Args:
        path: the file, with a 0/1 column for each label or the column of label lists of `task`.
        task: of a run to be scored. Left out: every 0/1 column is a label.
        submissions: files that are to be scored.

    Raises:
        UserError: for a file without an id or labels, with an id twice, or with a cell that is neither 0 nor 1.
    """
    table = read_table(path)
    names = table.rows.column_names
    if task is None:
        by_lower = {name.lower().strip(): name for name in reversed(names)}
        found = [by_lower[name] for name in ID_NAMES if name in by_lower]
        labels = [name for name in names if name not in found[:1] and looks_binary(table, name)]
        if not found or len(labels) < 2:
            raise UserError(
                f"{table.name} needs an id column and a 0/1 column for each label; it has: {', '.join(names)}"
            )
        for file in submissions:
            missing = [name for name in labels if name not in read_table(file).rows.column_names]
            if missing:
                raise UserError(
                    f'{file} has no column "{missing[0]}", while {table.name} has it with 0/1 cells: give a submission '
                    "with every label, and true labels without other 0/1 columns"
                )
        task = Task(labels=labels, text_column="", label_columns=labels, id_column=found[0])
    elif set(task.labels) <= set(names):  # also where training had one column of lists
        task = replace(task, label_columns=task.labels)
    task = replace(task, id_column=task.id_column or "id")
    check_unique_ids(lambda: [table], task)
    return HeldLabels(table.name, task, read_ids(table, task), read_labels(table, task))


def _rows_of(ids, held, name):
    """Where in `ids` the held rows stand: int array `[N]`."""
    place = {row_id: row for row, row_id in enumerate(ids)}
    missing = [row_id for row_id in held.ids if row_id not in place]
    if missing:
        raise UserError(
            f'{name} lacks the id "{missing[0]}" of {held.name} ({len(missing)} of {len(held.ids)} ids): '
            "give files that belong together"
        )
    return np.array([place[row_id] for row_id in held.ids])


def submission_scored(path, held):
    """A submission file as a `Scored`.

    Raises:
        UserError: where it lacks a row or a label of the held labels, or has a row twice.
    """
    table = read_table(path)
    task = held.task
    if set(task.labels) <= set(table.rows.column_names):
        task = replace(task, label_columns=task.labels)
    check_unique_ids(lambda: [table], task)
    rows = _rows_of(read_ids(table, task), held, table.name)
    return Scored(tuple(held.ids), tuple(task.labels), held.truth, {TUNED: read_labels(table, task)[rows]})


def held_entries(runs, test_file, held, batch_size, csv_quoting=None):
    """Predict the test rows with each run, as make_submission.py does, and score them.

    The folds of one run are averaged, with thresholds fitted on their out-of-fold predictions together.

    Returns:
        `(entries, notes)`: notes say in a line each what was left out.

    Raises:
        UserError: for a test file that does not fit the runs or the held labels.
    """
    from utils.runs.inference import load_run, predict_table  # loads torch and transformers

    table = read_table(test_file, csv_quoting)
    for run in runs:
        if set(run.task.labels) != set(held.task.labels):
            raise UserError(
                f"{run.folder} has other labels ({', '.join(run.task.labels)}) than {held.name} "
                f"({', '.join(held.task.labels)}): compare runs of the same labels only"
            )
        check_test_columns(table, run.task)
        check_unique_ids(lambda: [table], run.task)
    groups, notes = group_runs(runs)
    names = short_names([run.folder for run in runs])
    entries = []
    for seeds in groups:
        members = []
        for folds in seeds:
            labels = folds[0].task.labels
            rows = _rows_of(read_ids(table, folds[0].task), held, table.name)
            probabilities = 0
            for run in folds:
                in_order = [run.task.labels.index(label) for label in labels]
                predicted = predict_table(load_run(run.folder), table, batch_size)
                probabilities = probabilities + predicted[rows][:, in_order] / len(folds)
            at_half, submitted = (apply_thresholds(probabilities, t) for t in (0.5, _thresholds(folds)))
            columns = [held.task.labels.index(label) for label in labels]
            members.append(
                Scored(tuple(held.ids), tuple(labels), held.truth[:, columns], {AT_HALF: at_half, TUNED: submitted})
            )
        entry = make_entry(seeds, members, names)
        entry.headline = TUNED  # what is handed in, also where the thresholds are fixed
        entries.append(entry)
    return entries, notes


def _thresholds(folds):
    """Thresholds `[L]` of a run, or of the folds of one, fitted on their out-of-fold predictions together."""
    if len(folds) == 1:
        return folds[0].thresholds
    held = join_folds(folds, folds[0].task.labels)
    return fit_thresholds(held.probabilities, held.truth, folds[0].strategy, folds[0].shrinkage)
