"""Held labels: the truth of test rows, and submission files and runs scored on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from utils.core.errors import UserError
from utils.data.columns import check_test_columns, check_unique_ids, read_ids
from utils.data.headers import ID_NAMES, Layout
from utils.data.label_cells import looks_binary
from utils.data.label_rows import read_labels
from utils.data.tables import Table, read_table
from utils.data.task import Task
from utils.runs.comparison import Entry, Scored, make_entry
from utils.runs.finished import FinishedRun
from utils.runs.groups import group_runs, join_folds, short_names
from utils.scoring.predictions import Predictions
from utils.scoring.scores import AT_HALF, TUNED
from utils.scoring.thresholds import Thresholds


@dataclass
class HeldLabels:
    """True labels `[N, L]` of test rows, by id."""

    name: str  # of the file
    task: Task  # its labels, and in which columns they stand
    ids: list[str]
    truth: np.ndarray
    columns: list[str]  # of the labels in training, which a submission may have too


def read_held_labels(
    path: str, task: Task | None = None, submissions: list[str] | tuple = (), unknown_labels: bool = False
) -> HeldLabels:
    """Read a file of ids and true labels.

    Args:
        path: the file, with a 0/1 column for each label or the column of label lists of `task`.
        task: of a run to be scored. Left out: every 0/1 column is a label.
        submissions: files that are to be scored.
        unknown_labels: whether cells may be blank or -1, for not annotated; rows with nothing else are left out.

    Raises:
        UserError: for a file without an id or labels, with an id twice, or with a cell that is neither 0 nor 1.
    """
    table = read_table(path)
    table.unknown_labels = unknown_labels
    names = table.rows.column_names
    columns = [] if task is None else task.label_columns
    if task is None:
        by_lower = {name.lower().strip(): name for name in reversed(names)}
        found = [by_lower[name] for name in ID_NAMES if name in by_lower]
        labels = [name for name in names if name not in found[:1] and looks_binary(table, name)]
        if not found or not labels:
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
        task = Task(labels=labels, text_columns=[], label_columns=labels, id_column=found[0])
    elif set(task.labels) <= set(names):  # also where training had one column of lists
        task = replace(task, label_columns=task.labels)
    task = replace(task, id_column=task.id_column or "id")
    check_unique_ids(lambda: [table], task)
    ids, truth = read_ids(table, task), read_labels(table, task)
    rows = np.flatnonzero(~np.isnan(truth).all(axis=1))
    if not len(rows):
        raise UserError(f"{table.name}: no row is annotated for any label")
    return HeldLabels(table.name, task, [ids[row] for row in rows], truth[rows], columns or task.label_columns)


def score_on_held_labels(
    runs: list[FinishedRun],
    submissions: list[str],
    truth_file: str,
    test_file: str | None,
    layout: Layout,
    batch_size: int,
    unknown_labels: bool = False,
) -> tuple[list[Entry], list[str]]:
    """The rows of runs and submission files on test rows whose labels are known.

    Args:
        runs: finished runs, which predict the test rows.
        submissions: paths of submission files.
        truth_file: ids and true labels.
        test_file: the test rows, for runs to predict.
        layout: how the test file is written; what is left out is as in training.
        batch_size: rows predicted at a time.
        unknown_labels: whether true labels may be blank or -1, for not annotated.

    Returns:
        `(entries, notes)`: notes say in a line each what was left out.

    Raises:
        UserError: for files that do not belong together.
    """
    if runs and not test_file:
        raise UserError(f"{runs[0].folder} must predict the test rows: name their file by --test_file")
    held = read_held_labels(truth_file, runs[0].task if runs else None, submissions, unknown_labels)
    entries = [submission_entry(name, short, held) for name, short in short_names(submissions).items()]
    if not runs or not test_file:  # runs without test rows are refused above
        return entries, []
    of_runs, notes = held_entries(runs, test_file, held, batch_size, layout)
    return entries + of_runs, notes


def _rows_of(ids: list[str], held: HeldLabels, name: str) -> np.ndarray:
    """Where in the `ids` of a file called `name` the held rows stand: int array `[N]`."""
    place = {row_id: row for row, row_id in enumerate(ids)}
    missing = [row_id for row_id in held.ids if row_id not in place]
    if missing:
        raise UserError(
            f'{name} lacks the id "{missing[0]}" of {held.name} ({len(missing)} of {len(held.ids)} ids): '
            "give files that belong together"
        )
    return np.array([place[row_id] for row_id in held.ids])


def submission_entry(path: str, name: str, held: HeldLabels) -> Entry:
    """The row of a submission file.

    Args:
        path: of the file.
        name: what the table calls it.
        held: what it is scored on.

    Raises:
        UserError: where it lacks a row or a label of the held labels, or has a row twice.
    """
    table = read_table(path)
    task = held.task
    if set(task.labels) <= set(table.rows.column_names):
        task = replace(task, label_columns=task.labels)
    elif set(held.columns) <= set(table.rows.column_names):
        task = replace(task, label_columns=held.columns)
    check_unique_ids(lambda: [table], task)
    rows = _rows_of(read_ids(table, task), held, table.name)
    cells = read_labels(table, task)[rows]
    scored = Scored(Predictions(task.labels, held.ids, truth=held.truth, decoded=cells), {TUNED: cells[None]})
    return Entry(name, "-", "submission file", "-", [scored], TUNED)


def held_entries(
    runs: list[FinishedRun], test_file: str, held: HeldLabels, batch_size: int, layout: Layout
) -> tuple[list[Entry], list[str]]:
    """Predict the test rows with each run, as make_submission.py does, and score them.

    The folds of one run are averaged, with thresholds fitted on their out-of-fold predictions together.

    Args:
        runs: finished runs.
        test_file: the test rows.
        held: their true labels.
        batch_size: rows predicted at a time.
        layout: how the test file is written; what is left out is as in training.

    Returns:
        `(entries, notes)`: notes say in a line each what was left out.

    Raises:
        UserError: for a test file that does not fit the runs or the held labels.
    """
    table = read_table(test_file, layout.as_trained(runs[0].task))
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
        entry = make_entry(seeds, [_predict_folds(folds, table, held, batch_size) for folds in seeds], names)
        entry.headline = TUNED  # what is handed in, also where the thresholds are fixed
        entry.chosen_by = None
        entries.append(entry)
    return entries, notes


def _predict_folds(folds: list[FinishedRun], table: Table, held: HeldLabels, batch_size: int) -> Scored:
    """The held rows as a run, or the folds of one together, predict them."""
    from utils.runs.inference import load_run, predict_table  # loads torch and transformers

    labels = folds[0].task.labels
    rows = _rows_of(read_ids(table, folds[0].task), held, table.name)
    probabilities = np.zeros((len(rows), len(labels)))
    for run in folds:
        predicted = predict_table(load_run(run.folder), table, batch_size).in_order(labels)
        probabilities = probabilities + predicted.probabilities[rows] / len(folds)
    truth = held.truth[:, [held.task.labels.index(label) for label in labels]]
    thresholds = _thresholds(folds)
    decisions = {
        AT_HALF: thresholds.rule.decide_unfitted(probabilities)[None],
        TUNED: thresholds.apply(probabilities)[None],
    }
    return Scored(Predictions(labels, held.ids, truth=truth, probabilities=probabilities), decisions)


def _thresholds(folds: list[FinishedRun]) -> Thresholds:
    """Thresholds of a run, or of the folds of one, fitted on their out-of-fold predictions together."""
    if len(folds) == 1:
        return folds[0].thresholds
    held_out = join_folds(folds)
    return folds[0].thresholds.rule.fit(held_out.probabilities, held_out.truth)
