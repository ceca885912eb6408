"""The labels of rows, and what they mean together: one or any number for a text, known or not, in one file or more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.shown import join_names, quote
from utils.data.label_cells import UNKNOWN_CELLS, cell_values, is_plain
from utils.data.label_lists import label_lists
from utils.data.tables import Table
from utils.data.task import Task

if TYPE_CHECKING:
    from utils.core.arguments import DataArguments
    from utils.data.examples import Examples

# Rows with exactly one label each from which on that is taken for a rule. Where 95 % of the texts of a multi-label file
# have one label, 100 in a row do in 0.6 % of cases.
ENOUGH_ROWS = 100
# By so much shares of one label per text may miss the sum of 1.
ROUNDED_SHARES = 0.02


def annotated_rows(examples: Examples, name: str) -> Examples:
    """The rows in which at least one label is known; the others say nothing.

    Raises:
        UserError: where no row is left.
    """
    known = ~np.isnan(examples.labels).all(axis=1)
    if known.all():
        return examples
    if not known.any():
        raise UserError(f"{name}: no row is annotated for any label")
    log(f"{name}: {(~known).sum()} of {len(examples)} rows left out, as no label of theirs is annotated")
    return examples.select(np.flatnonzero(known))


def has_one_label_per_text(read: list[tuple[Table, Examples]], task: Task, asked_for: str) -> bool:
    """Whether each text has exactly one label, by what `--task` says or the rows show.

    Args:
        read: the tables with their examples.
        task: labels and columns.
        asked_for: `single_label`, `multi_label`, or `auto`: where there are two labels or more and each of at least
            `ENOUGH_ROWS` rows has exactly one.

    Raises:
        UserError: where each text is to have one label, and one has none or several.
    """
    if asked_for == "multi_label":
        return False
    if len(task.labels) == 1:
        if asked_for == "single_label":
            raise UserError(
                f'--task single_label: "{task.labels[0]}" is the only label, yes or no for each text: leave --task out'
            )
        return False
    for table, examples in read:
        if examples.labels.dtype != np.int8 and asked_for == "auto":
            return False  # shares that sum to 1 may be those of one label, or of several
        numbers = examples.labels.sum(axis=1)
        annotated = np.asarray(~np.isnan(examples.labels).all(axis=1))
        others = np.flatnonzero(annotated & ~(np.abs(numbers - 1) <= ROUNDED_SHARES * task.soft_labels))
        if len(others) and asked_for == "single_label":
            row = int(others[0])
            has = f"shares that sum to {numbers[row]:g}" if task.soft_labels else f"{numbers[row]:g} labels"
            has = "cells that are not annotated" if np.isnan(numbers[row]) else has
            raise UserError(
                f"{table.where(row)} has {has} ({len(others)} rows have not exactly one label): correct them, or leave "
                "--task single_label out"
            )
        if len(others):
            return False
    rows = sum(len(examples) for _, examples in read)
    if asked_for == "auto" and rows < ENOUGH_ROWS:
        log(
            f"each row has exactly one label, but {rows} rows are too few to take that for a rule: trained as "
            "multi-label, a probability and a threshold for each label; --task single_label trains one label per text"
        )
        return False
    return True


def describe_labels(task: Task, asked_for: str) -> str:
    """The labels in a line, and how many of them a text has.

    Args:
        task: which labels.
        asked_for: by `--task`.
    """
    text = f"{len(task.labels)} labels: {', '.join(task.labels)}"
    if task.single_label:
        why = "as each row has exactly one" if asked_for == "auto" else "as --task says"
        text += (
            f"\none label per text, {why}: softmax, and the likeliest label is given; --task multi_label trains a "
            "probability and a threshold for each label instead"
        )
    if len(task.labels) == 1:
        text = f'one label, "{task.labels[0]}": yes or no for each text'
    return text


def named_columns(table: Table, data_args: DataArguments) -> DataArguments:
    """The arguments for one of several files: those of `--label_columns` that it has.

    Args:
        table: of the file.
        data_args: for all files.
    """
    there = [name for name in data_args.label_columns or [] if table.find(name)]
    return replace(data_args, label_columns=there) if there else data_args


def join_tasks(tasks: list[Task], tables: list[Table]) -> Task:
    """The task of the rows of several files: all their labels, each in the order in which it comes first.

    Args:
        tasks: found in each file.
        tables: of the files.

    Raises:
        UserError: where labels are columns in one file and a list in another, and where a file lacks a label's column
            and that is not said to be unknown.
    """
    first = tasks[0]
    for task, table in zip(tasks, tables):
        if task.labels_are_columns != first.labels_are_columns:
            one, other = (tables[0], table) if first.labels_are_columns else (table, tables[0])
            raise UserError(
                f"{one.name} has a column for each label, and {other.name} lists them in one: write both in one form"
            )
    labels = list(dict.fromkeys(label for task in tasks for label in task.labels))
    if not first.labels_are_columns:
        return replace(first, labels=labels if first.label_codes else sorted(labels))
    for task, table in zip(tasks, tables):
        missing = [label for label in labels if label not in task.labels]
        if missing and not table.unknown_labels:
            other = next(table for table, task in zip(tables, tasks) if missing[0] in task.labels)
            raise UserError(
                f'{table.name} has no column "{quote(missing[0])}", which is a label in {other.name} ({len(missing)} '
                "such labels): pass --unknown_labels to take them for not annotated there"
            )
    for task, table in zip(tasks, tables):
        taken = [name for name in (task.id_column or "id", *task.text_columns) if name in labels]
        if taken:
            raise UserError(f'{table.name}: "{quote(taken[0])}" holds ids or texts, and is a label in another file')
    return replace(first, labels=labels, label_columns=labels)


def in_file(task: Task, found: Task) -> Task:
    """A task with the columns that were found in one of its files.

    Args:
        task: of all files.
        found: in this one.
    """
    columns = task.labels if found.labels_are_columns else found.label_columns
    return replace(
        task,
        id_column=found.id_column,
        text_columns=found.text_columns,
        label_columns=columns,
        label_delimiter=found.label_delimiter,
        label_codes=found.label_codes,
        first_code=found.first_code,
    )


def read_labels(table: Table, task: Task) -> np.ndarray:
    """Labels of the rows, `[N, L]` in the task's order: 0 and 1; shares and NaN (unknown) where a table may have such.

    Raises:
        UserError: for a missing column, a cell that is not 0 or 1, or a listed label that training does not know.
    """
    if not task.labels_are_columns:
        return _read_label_lists(table, table.require(task.label_columns[0], "label"), task)
    columns: list[str | None] = [table.find(name) for name in task.labels]
    # Where cells may be unknown, so may all of a column, but not all of all columns.
    if not table.unknown_labels or not any(columns):
        columns = [table.require(name, "label") for name in task.labels]
    return _read_label_columns(table, columns)


def _read_label_columns(table: Table, columns: list[str | None]) -> np.ndarray:
    """`read_labels` from one 0/1 column for each label, None for one that is not annotated in this table."""
    unknown = np.full(len(table.rows), np.nan, dtype=np.float32)
    values = np.column_stack([unknown if name is None else cell_values(table, name) for name in columns])
    bad = np.argwhere(values < 0)
    if len(bad):
        row, column = (int(i) for i in bad[0])
        name = str(columns[column])
        value = table.column(name)[row].as_py()
        shown = "is empty" if value in (None, "") else f'is "{quote(value)}"'
        cell, hint = table.strings(name)[row].as_py().lower(), ""
        if not table.unknown_labels and cell in UNKNOWN_CELLS:
            hint = "; if such cells are not annotated, pass --unknown_labels"
        elif not table.soft_labels and cell_values(replace(table, soft_labels=True), name)[row] >= 0:
            hint = "; if such cells are shares, pass --soft_labels"
        must = "a share from 0 to 1" if table.soft_labels else "0 or 1"
        raise UserError(f"{table.where(row, name)} {shown}: a label cell must be {must} ({len(bad)} such cells){hint}")
    return values.astype(np.int8) if ((values == 0) | (values == 1)).all() else values


def _read_label_lists(table: Table, column: str, task: Task) -> np.ndarray:
    """`read_labels` from a column of label lists."""
    index = {name: i for i, name in enumerate(task.labels)}
    labels = np.zeros((len(table.rows), len(index)), dtype=np.int8)
    if table.unknown_labels and is_plain(table.column(column).type):
        empty = pc.is_in(pc.utf8_lower(table.strings(column)), value_set=pa.array(UNKNOWN_CELLS)).to_numpy()
        if empty.any():
            labels = np.where(empty[:, None], np.nan, labels.astype(np.float32))
    names = task.labels if task.label_codes else None
    for row, found in enumerate(label_lists(table, column, task.label_delimiter, names, task.first_code)):
        for name in found if not np.isnan(labels[row, 0]) else ():
            if name not in index:
                raise UserError(
                    f'{table.where(row, column)}: unknown label "{quote(name)}"; training has: '
                    f"{join_names(task.labels)}"
                )
            labels[row, index[name]] = 1
    return labels


def read_weights(table: Table, task: Task) -> np.ndarray:
    """Weights of the rows, float32 array `[N]`; 1 for all in a table that lacks their column, as validation rows may.

    Raises:
        UserError: for a cell that is no number from 0 on.
    """
    name = task.weight_column
    if name is None or name not in table.rows.column_names:
        return np.ones(len(table.rows), dtype=np.float32)
    weights = pd.to_numeric(table.strings(name).to_pandas(), errors="coerce").to_numpy(dtype=np.float32)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        row = int(bad[0])
        cell = quote(table.strings(name)[row].as_py())
        raise UserError(f'{table.where(row, name)} is "{cell}": a weight must be a number of 0 or more')
    return weights
