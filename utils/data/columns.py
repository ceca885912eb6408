"""Reading ids and texts from their columns; `label_rows` reads the labels, `find_task` says which column is which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.core.shown import join_names, quote
from utils.data.headers import KNOWN_NAMES, example_names
from utils.data.tables import Table
from utils.data.task import Task
from utils.data.text import normalize


def read_ids(table: Table, task: Task) -> list[str]:
    """Ids of the rows, `[N]`; the row numbers from 0 if there is no id column.

    They may repeat: `check_unique_ids` looks for that in all chunks of a table together.

    Raises:
        UserError: for a missing id.
    """
    if task.id_column is None:
        return [str(table.start + i) for i in range(len(table.rows))]
    name = table.require(task.id_column, "id")
    column = table.column(name)
    if pa.types.is_floating(column.type):  # as Python writes them into CSV and JSON; Arrow would write 1 for 1.0
        ids = ["" if np.isnan(number) else str(number) for number in column.to_numpy()]
    else:
        ids = table.strings(name).to_pylist()
    if "" in ids:
        raise UserError(f"{table.where(ids.index(''), name)} is empty: give every row an id")
    return ids


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """64-bit hashes of ids, uint64 array `[N]`, for files with too many ids to keep in memory."""
    return pd.util.hash_array(np.array(ids, dtype=object), categorize=False)  # ty: ignore[not-callable] (made on import)


def check_unique_ids(chunks: Callable[[], Iterable[Table]], task: Task) -> np.ndarray:
    """Refuse ids that repeat, in 8 bytes of memory per row.

    Args:
        chunks: called to iterate over the chunks of a table; a second time if two ids have the same hash, to find
            their rows.
        task: says which column holds the ids.

    Returns:
        hashes of the ids, uint64 array `[N]`.

    Raises:
        UserError: for an id that is missing or repeats.
    """
    hashes = np.concatenate([hash_ids(read_ids(chunk, task)) for chunk in chunks()])
    in_order = np.sort(hashes)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(repeated) and task.id_column is not None:
        _refuse_repeated_ids(chunks(), task, repeated)
    return hashes


def _refuse_repeated_ids(chunks: Iterable[Table], task: Task, repeated: np.ndarray) -> None:
    """Refuse the first id that repeats; `repeated`: the hashes that occur more than once."""
    first_rows = {}
    for chunk in chunks:
        ids = read_ids(chunk, task)
        for row in np.flatnonzero(np.isin(hash_ids(ids), repeated)).tolist():
            if ids[row] in first_rows:
                raise UserError(
                    f'{chunk.where(row, task.id_column)}: the id "{quote(ids[row])}" stands in row '
                    f"{first_rows[ids[row]]} too: make ids unique"
                )
            first_rows[ids[row]] = chunk.start + row + chunk.first_row


def read_texts(table: Table, task: Task) -> list[str]:
    """Texts of the rows, `[N]`, raw except for what the task normalises; several columns are joined.

    Raises:
        UserError: for a row without text.
    """
    columns = [table.require(name, "text") for name in task.text_columns]
    empty = np.logical_and.reduce([pc.equal(table.strings(name), "").to_numpy() for name in columns])
    if empty.any():
        where = table.where(int(np.flatnonzero(empty)[0]), columns[0])
        behind = f" nor in {join_names(columns[1:])}" if len(columns) > 1 else ""
        raise UserError(f"{where} has no text{behind} ({empty.sum()} such rows): give it a text or take the row out")
    cells = [pc.fill_null(table.column(name).cast(pa.string()), "").to_pylist() for name in columns]
    if len(cells) == 1:
        texts = cells[0]
    else:
        texts = [task.text_separator.join(cell for cell in row if cell.strip()) for row in zip(*cells)]
    if task.normalize_users or task.normalize_urls:
        texts = [normalize(text, task.normalize_users, task.normalize_urls) for text in texts]
    return texts


def _hint_at_column_names(table: Table, task: Task) -> str | None:
    """What to do if a table to predict has no header; None where it has one: a name that is known, or is training's."""
    names = table.rows.column_names
    if task.column_names is not None:
        return "if it has no header, as the training file, name its columns by --column_names"
    known = {*KNOWN_NAMES, *(name.lower() for name in (*task.text_columns, *task.labels, task.id_column or "id"))}
    if table.first_row == 1 or {name.strip().lower() for name in names} & known:
        return None
    rows = [names, *zip(*(table.strings(name).slice(0, 100).to_pylist() for name in names))]
    called = {"text": task.text_columns[0], "id": task.id_column or "id"}
    given = [called.get(name, f"column{i}") for i, name in enumerate(example_names(rows), start=1)]
    return f"if that is a row of data, the file has no header: pass --column_names {' '.join(map(quote, given))}"


def check_test_columns(table: Table, task: Task) -> None:
    """Refuse a table to predict that has no text or id column, or some but not all of the label columns.

    Raises:
        UserError: for such a table.
    """
    try:
        for name in task.text_columns:
            table.require(name, "text")
        if task.id_column is not None:
            table.require(task.id_column, "id")
    except UserError as error:
        hint = _hint_at_column_names(table, task)
        if hint is None:
            raise
        raise UserError(f"{error} ({hint})") from error
    missing = [name for name in task.label_columns if table.find(name) is None]
    if missing and len(missing) < len(task.label_columns):
        raise UserError(
            f"{table.name}: its columns differ from training's: it has some labels but not {join_names(missing)}; "
            "leave all label columns out, or include all of them"
        )
