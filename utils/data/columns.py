"""Finding out which column of a table is which, and reading ids and texts from them; `label_cells` reads the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.core.shown import join_names, quote
from utils.data.label_cells import (
    ALL_BINARY_CELLS,
    YES_AND_NO,
    distinct_cells,
    find_listed_labels,
    is_binary,
    is_plain,
    is_text,
    looks_binary,
)
from utils.data.tables import Table
from utils.data.task import Task
from utils.data.text import normalize

if TYPE_CHECKING:
    from utils.core.arguments import DataArguments

# Column names that are recognised, the preferred ones first. A column with one of the first two names of a list is
# taken even if its cells are 0 and 1.
ID_NAMES = ("id", "tweet_id", "tweetid", "example_id", "guid", "uuid", "idx", "index", "unnamed: 0", "")
TEXT_NAMES = ("text", "tweet", "sentence", "comment_text", "comment", "content", "message", "document", "body")
LABEL_LIST_NAMES = ("labels", "label", "emotions", "emotion", "tags", "categories", "genres", "classes")
# What people write into label cells besides; a column of nothing else is none to leave out without a word.
NEARLY_BINARY = {*ALL_BINARY_CELLS, "2", "2.0", "-1", "-1.0", "x", "nan", "none", "null", "na", "n/a", "-", "?"}


def _looks_nearly_binary(table: Table, name: str) -> bool:
    """Whether the cells say both yes and no in other words than 0 and 1, or are 0 or 1 where they are not missing."""
    if not is_plain(table.column(name).type):
        return False
    cells = distinct_cells(table, name)
    if not cells <= NEARLY_BINARY:
        return False
    return any(yes in cells and no in cells for yes, no in YES_AND_NO) or bool(cells & {"0", "1"})


def _looks_numeric(table: Table, name: str) -> bool:
    """Whether every non-empty cell is a number."""
    filled = [cell for cell in table.strings(name).to_pylist() if cell]
    return all(re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", cell) for cell in filled)


# Which column is which


def _find_named(table: Table, flag: str, name: str) -> str:
    """Return the column that the user named with `flag`; refuse one that does not exist."""
    if name not in table.rows.column_names:
        raise UserError(
            f'{table.name} has no column "{quote(name)}" ({flag}); it has: {join_names(table.rows.column_names)}'
        )
    return name


def _find_by_name(table: Table, known: Sequence[str], taken: Collection[str | None] = ()) -> str | None:
    """The column with the first of the `known` names, ignoring case, that is no 0/1 column; None if there is none."""
    by_lower = {name.lower().strip(): name for name in reversed(table.rows.column_names) if name not in taken}
    names = [by_lower[name] for name in known if name in by_lower]
    # Names such as `id` and `text` can be trusted; a 0/1 column `index` or `content` may be a label.
    return next((name for name in names if name.lower() in known[:2] or not looks_binary(table, name)), None)


def _find_text(table: Table, taken: Collection[str | None]) -> str:
    """The text column: found by its name, or the only column of texts that are not all numbers."""
    found = _find_by_name(table, TEXT_NAMES, taken)
    if found is not None:
        return found
    listed = _find_by_name(table, LABEL_LIST_NAMES)
    candidates = [
        name
        for name in table.rows.column_names
        if name not in (*taken, listed) and is_text(table, name) and not looks_binary(table, name)
    ]
    candidates = [name for name in candidates if not _looks_numeric(table, name)]
    if len(candidates) != 1:
        raise UserError(
            f"{table.name}: cannot tell which column holds the text: name it with --text_column "
            f"(columns: {join_names(table.rows.column_names)})"
        )
    return candidates[0]


def find_task(table: Table, data_args: DataArguments) -> Task:
    """Find the id, text and label columns of the training table.

    Columns named in `data_args` are taken as named. Otherwise the id and text columns are found by their usual names,
    or the text column as the only other column of texts. Every 0/1 column is a label; if there is none, a column of
    label lists is looked for.

    Raises:
        UserError: if there is no text or label column, or it is unclear which columns are the labels.
    """
    named_labels = [_find_named(table, "--label_columns", name) for name in data_args.label_columns or []]
    if len(set(named_labels)) < len(named_labels):
        raise UserError(f"--label_columns {' '.join(named_labels)}: a column is named twice")
    id_column, text_column = _find_id_and_text(table, data_args, named_labels)
    binary, listed = _find_label_columns(table, named_labels, id_column, text_column)
    if listed is None:
        labels, label_columns, delimiter = binary, binary, None
    else:
        labels, delimiter = find_listed_labels(table, listed, data_args.label_delimiter)
        label_columns = [listed]
    if (id_column or "id") in labels:
        raise UserError(f'{table.name}: a label has the name of the id column, "{id_column or "id"}": rename one')
    return Task(
        labels=labels,
        label_columns=label_columns,
        label_delimiter=delimiter,
        id_column=id_column,
        text_column=text_column,
        normalize_users=data_args.normalize_users,
        normalize_urls=data_args.normalize_urls,
        unknown_labels=table.unknown_labels,
    )


def _find_id_and_text(table: Table, data_args: DataArguments, named_labels: Collection[str]) -> tuple[str | None, str]:
    """Names of the id column (None if there is none) and of the text column."""
    if data_args.id_column:
        id_column = _find_named(table, "--id_column", data_args.id_column)
    else:
        id_column = _find_by_name(table, ID_NAMES, named_labels)
    if data_args.text_column:
        text_column = _find_named(table, "--text_column", data_args.text_column)
    else:
        text_column = _find_text(table, {id_column, *named_labels})
    if id_column == text_column:
        raise UserError(f'{table.name}: "{quote(text_column)}" cannot be the column of both ids and texts')
    if text_column in named_labels or (data_args.text_column and is_binary(table, text_column)):
        raise UserError(f'{table.name}, column "{quote(text_column)}" holds labels, not texts: see --text_column')
    for name in filter(None, (id_column, text_column)):
        if not is_plain(table.column(name).type):
            raise UserError(f'{table.name}, column "{name}": ids and texts must be texts or numbers, not lists')
    return id_column, text_column


def _find_label_columns(
    table: Table, named_labels: list[str], id_column: str | None, text_column: str
) -> tuple[list[str], str | None]:
    """Where the labels are: `(0/1 columns, None)` or `([], column of label lists)`.

    Args:
        table: the training table.
        named_labels: columns that the user named: several 0/1 columns, or one of either kind.
        id_column: column of the ids, if there is one.
        text_column: column of the texts.

    Raises:
        UserError: if both kinds are found, or neither.
    """
    if len(named_labels) == 1 and not looks_binary(table, named_labels[0]):
        return [], named_labels[0]
    if named_labels:
        return named_labels, None
    index = {name for name in table.rows.column_names if name.lower() in ("", "unnamed: 0")}  # written by pandas
    others = [name for name in table.rows.column_names if name not in {id_column, text_column} | index]
    # A column with a few cells that are not 0/1 is a label column with mistakes, and must not be dropped silently.
    binary = [name for name in others if looks_binary(table, name)]
    listed = _find_by_name(table, LABEL_LIST_NAMES, (id_column, text_column))
    if listed and pa.types.is_binary(table.column(listed).type):
        raise UserError(
            f'{table.name}, column "{quote(listed)}" holds lists of lists, objects, or lists in some rows and texts in '
            "others: write one list of names in each row"
        )
    nearly = [] if listed else [name for name in others if name not in binary and _looks_nearly_binary(table, name)]
    if nearly:
        cells = sorted(set(table.strings(nearly[0]).to_pylist()) - {""})
        hint = "; if -1 is not annotated, pass --unknown_labels" if {"-1", "-1.0"} & set(cells) else ""
        raise UserError(
            f'{table.name}, column "{quote(nearly[0])}" holds {join_names(cells, 6)}: if it is a label, write 0 and 1; '
            f"if it is not, name the columns that are by --label_columns{hint}"
        )
    if binary and listed:
        raise UserError(
            f'{table.name}: "{listed}" may list the labels, and {join_names(binary)} hold 0 and 1: '
            "say which are the labels with --label_columns"
        )
    if not binary and not listed:
        raise UserError(
            f"{table.name} has no label column: none of {join_names(others) or 'its columns'} holds 0 and 1; "
            "name a column of label lists with --label_columns"
        )
    return binary, listed


# Cells


def read_ids(table: Table, task: Task) -> list[str]:
    """Ids of the rows, `[N]`; the row numbers from 0 if there is no id column.

    They may repeat: `check_unique_ids` looks for that in all chunks of a table together.

    Raises:
        UserError: for a missing id.
    """
    if task.id_column is None:
        return [str(table.start + i) for i in range(len(table.rows))]
    table.require(task.id_column, "id")
    column = table.column(task.id_column)
    if pa.types.is_floating(column.type):  # as Python writes them into CSV and JSON; Arrow would write 1 for 1.0
        ids = ["" if np.isnan(number) else str(number) for number in column.to_numpy()]
    else:
        ids = table.strings(task.id_column).to_pylist()
    if "" in ids:
        raise UserError(f"{table.where(ids.index(''), task.id_column)} is empty: give every row an id")
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
    """Texts of the rows, `[N]`, raw except for what the task normalises.

    Raises:
        UserError: for a row without text.
    """
    table.require(task.text_column, "text")
    empty = np.flatnonzero(pc.equal(table.strings(task.text_column), "").to_numpy())
    if len(empty):
        raise UserError(
            f"{table.where(int(empty[0]), task.text_column)} has no text ({len(empty)} such rows): "
            "give it a text or take the row out"
        )
    texts = table.column(task.text_column).cast(pa.string()).to_pylist()
    if task.normalize_users or task.normalize_urls:
        texts = [normalize(text, task.normalize_users, task.normalize_urls) for text in texts]
    return texts


def check_test_columns(table: Table, task: Task) -> None:
    """Refuse a table to predict that has no text or id column, or some but not all of the label columns.

    Raises:
        UserError: for such a table.
    """
    table.require(task.text_column, "text")
    if task.id_column is not None:
        table.require(task.id_column, "id")
    missing = [name for name in task.label_columns if name not in table.rows.column_names]
    if missing and len(missing) < len(task.label_columns):
        raise UserError(
            f"{table.name}: its columns differ from training's: it has some labels but not {join_names(missing)}; "
            "leave all label columns out, or include all of them"
        )
