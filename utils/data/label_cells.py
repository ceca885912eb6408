"""Label cells: what they say, and the labels of rows that are made of them.

All that a cell may say is decided in two functions: `cell_values` for a column that is one label, `parse_names` for a
cell that lists names.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.shown import join_names, quote
from utils.data.tables import Table
from utils.data.task import Task

# Ways to write 0 and 1, in lower case.
BINARY_CELLS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
# Words that are 0 and 1 where a column holds both of a pair; a column of nothing but "no" or "F" is metadata.
YES_AND_NO = (("yes", "no"), ("y", "n"), ("t", "f"))
ALL_BINARY_CELLS = BINARY_CELLS | {word: 1 - i for pair in YES_AND_NO for i, word in enumerate(pair)}
DELIMITERS = (",", ";", "|")
# What stands in a cell that nobody has annotated, where `--unknown_labels` says that there are such cells.
UNKNOWN_CELLS = ("", "-1", "-1.0", "nan")


def is_plain(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, numbers or booleans, rather than lists, bytes and the like."""
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_null,
        )
    )


def is_text(table: Table, name: str) -> bool:
    """Whether a column holds texts."""
    kind = table.column(name).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


# A column for each label


def binary_codes(column: pa.ChunkedArray) -> np.ndarray:
    """What the cells of a label column say: 0, 1, or -1 for what is neither. int8 array `[N]`."""
    if not is_plain(column.type):
        return np.full(len(column), -1, dtype=np.int8)
    cells = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
    index = pc.fill_null(pc.index_in(cells, value_set=pa.array(list(ALL_BINARY_CELLS))), -1).to_numpy()
    return np.array([*ALL_BINARY_CELLS.values(), -1], dtype=np.int8)[index]


def cell_values(table: Table, name: str) -> np.ndarray:
    """What the cells of a label column say: 0, 1, a share between them and NaN for unknown where there may be such, -1
    for what is none of these. Float array `[N]`.
    """
    values = binary_codes(table.column(name)).astype(np.float32)
    if table.soft_labels and is_plain(table.column(name).type):
        shares = pd.to_numeric(table.strings(name).to_pandas(), errors="coerce").to_numpy(dtype=np.float32)
        values = np.where((values < 0) & (shares >= 0) & (shares <= 1), shares, values)
    if table.unknown_labels and is_plain(table.column(name).type):
        values[pc.is_in(pc.utf8_lower(table.strings(name)), value_set=pa.array(UNKNOWN_CELLS)).to_numpy()] = np.nan
    return values


def looks_binary(table: Table, name: str) -> bool:
    """Whether more than half of the cells that are neither empty nor unknown are 0 or 1, or shares where there may be
    such: a label column, perhaps with mistakes in it."""
    if not is_plain(table.column(name).type):
        return False
    values = cell_values(table, name)
    filled = pc.not_equal(table.strings(name), "").to_numpy() & ~np.isnan(values)
    if not filled.any() or (values[filled] >= 0).mean() <= 0.5:
        return False
    if table.soft_labels:
        return True
    cells = distinct_cells(table, name)
    return bool(cells & set(BINARY_CELLS)) or any(yes in cells and no in cells for yes, no in YES_AND_NO)


def is_binary(table: Table, name: str) -> bool:
    """Whether all non-empty cells are 0 or 1."""
    filled = pc.not_equal(table.strings(name), "").to_numpy()
    return looks_binary(table, name) and not (cell_values(table, name)[filled] < 0).any()


def distinct_cells(table: Table, name: str) -> set[str]:
    """The different non-empty cells of a column, in lower case."""
    return {str(cell).lower() for cell in pc.unique(table.strings(name)).to_pylist()} - {""}


# A column of label lists


def class_label(table: Table, column: str) -> datasets.ClassLabel | None:
    """The names behind a column that gives labels as numbers, as data sets on the hub do; None for other columns."""
    feature = table.rows.features[column]
    inner = getattr(feature, "feature", feature)
    return inner if isinstance(inner, datasets.ClassLabel) else None


def parse_names(cell: Any, delimiter: str | None, names: Sequence[str] | None = None) -> list[str] | None:
    """Names of the labels that a cell lists; None where it is no list of labels.

    Args:
        cell: a list, the text form `["joy", "love"]`, names with a delimiter between them, or one name.
        delimiter: between the names of a text.
        names: of the labels, where the cells hold their numbers, from 0; None where they hold names.
    """
    if isinstance(cell, str) and cell.strip().startswith("["):
        cell = _parse_list(cell.strip())
    elif isinstance(cell, str):
        cell = cell.split(delimiter)
    elif cell is None:
        cell = []
    elif not isinstance(cell, list):
        cell = [cell]
    if not isinstance(cell, list) or any(part is None or isinstance(part, list | dict) for part in cell):
        return None
    parts = [part for part in (str(part).strip() for part in cell) if part]
    if names is None:
        return parts
    numbers = [int(part.removesuffix(".0")) if part.removesuffix(".0").isdecimal() else -1 for part in parts]
    if not all(0 <= number < len(names) for number in numbers):
        return None
    return [names[number] for number in numbers]


def _parse_list(text: str) -> Any:
    """The list that a text writes as JSON or Python does; None where it writes none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        # As a printed numpy array has them: Python would join names without commas.
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
        if any(kind == following == tokenize.STRING for kind, following in pairwise(kinds)):
            return None
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return None


def holds_codes(table: Table, name: str) -> bool:
    """Whether the cells are numbers of labels, one or several each, and not 0 and 1 alone."""
    if class_label(table, name) is not None:
        return True
    if not is_plain(table.column(name).type):
        return False
    numbers = {part for cell in distinct_cells(table, name) for part in re.split(r"[\[\],;|\s]+", cell)} - {""}
    return all(part.isdecimal() for part in numbers) and bool(numbers - {"0", "1"})


def read_label_names(path: str) -> list[str]:
    """Names of labels from a file with a name in each line, the first of them that of number 0.

    Raises:
        UserError: for a file that cannot be read, an empty line, or a name that stands twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--label_names {path} cannot be read: {error}") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if "" in names or len(names) < 2:
        raise UserError(f"--label_names {path}: write a name in each line, that of number 0 first")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f'--label_names {path}: "{quote(repeated[0])}" stands twice')
    return names


def label_lists(
    table: Table, column: str, delimiter: str | None, names: Sequence[str] | None = None
) -> Iterator[list[str]]:
    """Label names of each row of a column of label lists.

    Args:
        table: rows.
        column: of the label lists.
        delimiter: between names.
        names: of the labels, where the cells hold their numbers.

    Raises:
        UserError: for a cell that is not such a list.
    """
    classes = class_label(table, column)
    names = classes.names if classes is not None else names
    for row, cell in enumerate(table.rows[column]):
        found = parse_names(cell, delimiter, names)
        if found is None:
            what = 'write "joy, love"' if names is None else f"write numbers from 0 to {len(names) - 1}"
            raise UserError(f"{table.where(row, column)} is no list of labels: {quote(cell)}; {what}")
        yield found


def find_listed_labels(
    table: Table, column: str, delimiter: str | None, names: list[str] | None = None
) -> tuple[list[str], str | None]:
    """`(labels, delimiter)` of a column of label lists.

    Args:
        table: the training table.
        column: name of the column.
        delimiter: what separates the names in a cell, if the user said so.
        names: of the labels, where the cells hold their numbers.

    Raises:
        UserError: if it is unclear what separates the names, or the cells hold numbers instead of names.
    """
    classes = class_label(table, column)
    if classes is not None:
        return list(classes.names), None
    if delimiter is None and is_text(table, column):
        cells = table.strings(column)
        cells = cells.filter(pc.invert(pc.starts_with(cells, "[")))
        used = [d for d in DELIMITERS if pc.any(pc.match_substring(cells, d)).as_py()]
        if len(used) > 1:
            raise UserError(
                f'{table.name}, column "{column}": both {" and ".join(used)} may separate the labels: '
                "say which with --label_delimiter"
            )
        delimiter = used[0] if used else DELIMITERS[0]
    if names is not None:
        return names, delimiter
    labels = sorted({name for row in label_lists(table, column, delimiter) for name in row})
    if all(label.isdecimal() for label in labels) and len(labels) > 2:
        labels.sort(key=int)
        log(f'{table.name}, column "{column}": the labels are numbers; a file with a name in each line, that of 0 '
            "first, names them: --label_names FILE")  # fmt: skip
    if {label.lower() for label in labels} <= set(BINARY_CELLS):
        raise UserError(
            f'{table.name}, column "{column}" lists {join_names(labels) or "nothing"}, not the names of labels: '
            "give lists of names, or a 0/1 column for each label"
        )
    return labels, delimiter


# Rows


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
    for row, found in enumerate(label_lists(table, column, task.label_delimiter, names)):
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
