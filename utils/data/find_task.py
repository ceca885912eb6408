"""Finding out which column of a table is which."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.core.shown import join_names, nearest, quote
from utils.data.headers import (
    ID_NAMES,
    LABEL_LIST_NAMES,
    TEXT_NAMES,
    TITLE_NAMES,
    WEAK_LABEL_NAMES,
)
from utils.data.label_cells import (
    ALL_BINARY_CELLS,
    YES_AND_NO,
    distinct_cells,
    is_binary,
    is_plain,
    is_text,
    looks_binary,
)
from utils.data.label_lists import find_listed_labels, holds_codes, read_label_names
from utils.data.tables import Table
from utils.data.task import Task

if TYPE_CHECKING:
    from utils.core.arguments import DataArguments

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


LONGEST_ID = 40  # characters
MOST_JOINED = 4  # columns of texts that a message proposes to join


def _find_named(table: Table, flag: str, name: str) -> str:
    """Return the column that the user named with `flag`, or by the end of its name where it is part of an object;
    refuse one that does not exist."""
    if name in table.rows.column_names:
        return name
    parts = [other for other in table.nested if other.endswith(f".{name}")]
    if len(parts) == 1:
        return parts[0]
    near = nearest(name, table.rows.column_names)
    raise UserError(
        f'{table.name} has no column "{quote(name)}" ({flag})'
        + (f': did you mean "{quote(near)}"?' if near else f"; it has: {join_names(table.rows.column_names)}")
    )


def _find_by_name(table: Table, known: Sequence[str], taken: Collection[str | None] = ()) -> str | None:
    """The column with the first of the `known` names, ignoring case, that is no 0/1 column; None if there is none."""
    by_lower = {name.lower().strip(): name for name in reversed(table.rows.column_names) if name not in taken}
    names = [by_lower[name] for name in known if name in by_lower]
    # Names such as `id` and `text` can be trusted; a 0/1 column `index` or `content` may be a label.
    return next((name for name in names if name.lower() in known[:2] or not looks_binary(table, name)), None)


def _find_in_object(table: Table, known: Sequence[str], taken: Collection[str | None]) -> str | None:
    """The only column with one of the `known` names among the parts of objects, as `data.text`; None without one."""
    names = [name for name in table.nested if name not in taken and name.lower().rsplit(".", 1)[-1] in known]
    return names[0] if len(names) == 1 else None


def _find_text(table: Table, taken: Collection[str | None]) -> str:
    """The text column: found by its name, or the only column of texts that are not all numbers."""
    found = _find_by_name(table, TEXT_NAMES, taken) or _find_in_object(table, TEXT_NAMES, taken)
    if found is not None:
        return found
    listed = _find_listed(table, taken) or _find_by_name(table, WEAK_LABEL_NAMES, taken)
    candidates = [
        name
        for name in table.rows.column_names
        if name not in (*taken, listed) and is_text(table, name) and not looks_binary(table, name)
    ]
    candidates = [name for name in candidates if not _looks_numeric(table, name)]
    if len(candidates) != 1:
        several = "several of them to join them"
        if 1 < len(candidates) <= MOST_JOINED:
            several = f"or join several: --text_column {' '.join(map(quote, candidates))}"
        raise UserError(
            f"{table.name}: cannot tell which column holds the text: name it with --text_column, {several} "
            f"(columns: {join_names(table.rows.column_names)})"
        )
    return candidates[0]


def title_beside(table: Table, task: Task) -> str | None:
    """A column of titles that is not read, where the text column was found by itself; None without one."""
    if len(task.text_columns) != 1:
        return None
    read = {task.id_column, task.weight_column, *task.text_columns, *map(table.find, task.label_columns)}
    titles = [name for name in table.rows.column_names if name.lower().rsplit(".", 1)[-1] in TITLE_NAMES]
    return next((name for name in titles if name not in read and is_text(table, name)), None)


def column_of_ids(table: Table, names: Collection[str]) -> str | None:
    """The only one of some columns whose short cells are another in each row, as those of ids are; None without one."""
    found = []
    for name in names:
        if is_plain(table.column(name).type):
            cells = table.strings(name)
            longest = pc.max(pc.utf8_length(cells)).as_py() or 0
            if 0 < longest <= LONGEST_ID and not pc.any(pc.match_substring(cells, " ")).as_py():
                found += [name] if len(pc.unique(cells)) == len(cells) else []
    return found[0] if len(found) == 1 else None


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
    names = read_label_names(data_args.label_names) if data_args.label_names else None
    id_column, text_columns = _find_id_and_texts(table, data_args, named_labels)
    weights = data_args.weight_column and _find_named(table, "--weight_column", data_args.weight_column)
    if weights is not None and weights in (id_column, *text_columns, *named_labels):
        raise UserError(f"--weight_column {weights}: {table.name} has its ids, texts or labels there")
    taken = {id_column, weights, *text_columns}
    binary, listed = _find_label_columns(table, named_labels, taken, coded=names is not None)
    if listed is None:
        labels = label_columns = _without_object(table, binary)
        delimiter, first_code = None, 0
    else:
        found = find_listed_labels(table, listed, data_args.label_delimiter, names)
        labels, delimiter, first_code, label_columns = found.names, found.delimiter, found.first_code, [listed]
    if (id_column or "id") in labels:
        raise UserError(f'{table.name}: a label has the name of the id column, "{id_column or "id"}": rename one')
    return Task(
        labels=labels,
        label_columns=label_columns,
        label_delimiter=delimiter,
        label_codes=names is not None,
        first_code=first_code,
        id_column=id_column,
        text_columns=text_columns,
        text_separator=data_args.text_separator,
        column_names=data_args.column_names,
        csv_quoting=data_args.csv_quoting,
        normalize_users=data_args.normalize_users,
        normalize_urls=data_args.normalize_urls,
        long_texts=data_args.long_texts,
        window_pooling=data_args.window_pooling,
        window_overlap=data_args.window_overlap,
        unknown_labels=table.unknown_labels,
        soft_labels=table.soft_labels,
        weight_column=weights,
    )


def _without_object(table: Table, columns: list[str]) -> list[str]:
    """Names of labels that are parts of objects, without the object's: `joy` for `labels.joy`, as a sample submission
    calls it. The whole names where any of the short ones is that of another column too."""
    short = [name.rsplit(".", 1)[-1] if name in table.nested else name for name in columns]
    return short if [table.find(name) for name in short] == columns else columns


def _find_id_and_texts(
    table: Table, data_args: DataArguments, named_labels: Collection[str]
) -> tuple[str | None, list[str]]:
    """Names of the id column (None if there is none) and of the text columns."""
    if data_args.id_column:
        id_column = _find_named(table, "--id_column", data_args.id_column)
    else:
        id_column = _find_by_name(table, ID_NAMES, (*named_labels, *(data_args.text_column or [])))
    if data_args.text_column:
        text_columns = [_find_named(table, "--text_column", name) for name in data_args.text_column]
    else:
        text_columns = [_find_text(table, {id_column, *named_labels})]
    if id_column is None:  # beside the text: data.id goes with data.text, and user.id does not
        objects = {name.rpartition(".")[0] for name in text_columns if name in table.nested}
        beside = [f"{above}.{name}".lower() for above in sorted(objects) for name in ID_NAMES if name]
        id_column = _find_by_name(table, beside, (*named_labels, *text_columns))
    if len(set(text_columns)) < len(text_columns):
        raise UserError(f"--text_column {' '.join(text_columns)}: a column is named twice")
    for name in text_columns:
        if id_column == name:
            raise UserError(f'{table.name}: "{quote(name)}" cannot be the column of both ids and texts')
        if name in named_labels or (data_args.text_column and is_binary(table, name)):
            raise UserError(f'{table.name}, column "{quote(name)}" holds labels, not texts: see --text_column')
    for name in filter(None, (id_column, *text_columns)):
        if not is_plain(table.column(name).type):
            raise UserError(f'{table.name}, column "{name}": ids and texts must be texts or numbers, not lists')
    return id_column, text_columns


def _find_listed(table: Table, taken: Collection[str | None]) -> str | None:
    """The column of label lists, by its name; a 0/1 column of such a name is a label by itself."""
    found = _find_by_name(table, LABEL_LIST_NAMES, taken) or _find_in_object(table, LABEL_LIST_NAMES, taken)
    if found is None or (looks_binary(table, found) and not holds_codes(table, found)):
        return None
    return found


def _find_label_columns(
    table: Table, named_labels: list[str], taken: Collection[str | None], coded: bool
) -> tuple[list[str], str | None]:
    """Where the labels are: `(0/1 columns, None)` or `([], column of label lists)`.

    Args:
        table: the training table.
        named_labels: columns that the user named: several 0/1 columns, or one of either kind.
        taken: columns of ids, texts and weights.
        coded: whether the labels are known to be numbers in a column of lists.

    Raises:
        UserError: if both kinds are found, or neither.
    """
    if len(named_labels) == 1 and (coded or not looks_binary(table, named_labels[0])):
        return [], named_labels[0]
    if coded:
        listed = None if named_labels else _find_by_name(table, LABEL_LIST_NAMES, taken)
        if listed is None:
            raise UserError(
                f"{table.name}: --label_names names the numbers in one column of labels: say which by --label_columns"
            )
        return [], listed
    if named_labels:
        return named_labels, None
    index = {name for name in table.rows.column_names if name.lower() in ("", "unnamed: 0")}  # written by pandas
    others = [
        name for name in table.rows.column_names if name not in {*taken} | index and not _is_metadata(table, name)
    ]
    listed = _find_listed(table, taken)
    # A column with a few cells that are not 0/1 is a label column with mistakes, and must not be dropped silently.
    binary = [name for name in others if name != listed and looks_binary(table, name)]
    if listed is None and not binary:
        listed = _find_by_name(table, WEAK_LABEL_NAMES, taken)
    if listed and pa.types.is_binary(table.column(listed).type):
        raise UserError(
            f'{table.name}, column "{quote(listed)}" holds lists of lists, objects, or lists in some rows and texts in '
            "others: write one list of names in each row"
        )
    nearly = [name for name in others if name not in (listed, *binary) and _looks_nearly_binary(table, name)]
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
        soft = [name for name in others if looks_binary(replace(table, soft_labels=True), name)]
        hint = f"; if {join_names(soft)} hold shares from 0 to 1, pass --soft_labels" if soft else ""
        raise UserError(
            f"{table.name} has no label column: none of {join_names(others) or 'its columns'} holds 0 and 1; "
            f"name a column of label lists with --label_columns{hint}"
        )
    return binary, listed


def _is_metadata(table: Table, name: str) -> bool:
    """Whether a column is part of an object that is not called after labels: `user.verified`, but not `labels.joy`."""
    parts = name.lower().split(".")
    return name in table.nested and not set(parts[:-1]) & set(LABEL_LIST_NAMES)
