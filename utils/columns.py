"""Finding out which column of a table is which, and reading ids, texts and labels from them."""

import ast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from utils.errors import UserError
from utils.task import Task
from utils.text import normalize

ID_NAMES = {"id", "idx", "index", "guid", "uuid", "tweet_id", "tweetid", "example_id", "unnamed: 0", ""}
TEXT_NAMES = {"text", "tweet", "sentence", "comment_text", "comment", "content", "message", "document", "body"}
LABEL_LIST_NAMES = {"labels", "label", "emotions", "emotion", "tags", "categories", "genres", "classes"}
# In pairs: the cells that mean no, and those that mean yes.
BINARY_CELLS = ["0", "1", "0.0", "1.0", "false", "true", "False", "True"]
DELIMITERS = (",", ";", "|")


def _binary_codes(column):
    """0 or 1 for each cell that says so in one of the usual ways, -1 for others: int8 array `[N]`."""
    if isinstance(column.type, pa.ListType | pa.LargeListType | pa.StructType):
        return np.full(len(column), -1, dtype=np.int8)
    cells = pc.utf8_trim_whitespace(column.cast(pa.string()))
    index = pc.fill_null(pc.index_in(cells, value_set=pa.array(BINARY_CELLS)), -1).to_numpy().astype(np.int8)
    return np.where(index < 0, -1, index % 2).astype(np.int8)


def _find_named(table, flag, name):
    if name not in table.rows.column_names:
        raise UserError(f'{table.name} has no column "{name}" ({flag}); it has: {", ".join(table.rows.column_names)}')
    return name


def _is_text(table, name):
    kind = table.column(name).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def find_task(table, data_args):
    """Find the id, text and label columns of the training table.

    Columns named in `data_args` are taken as named. Otherwise: the id and text columns by their usual names, the only
    other column of texts failing that; every 0/1 column is a label; without one, a column of label lists.

    Raises:
        UserError: where there is no text or label column, or a label column has cells that are not 0/1.
    """
    names = table.rows.column_names
    by_lower = {name.lower().strip(): name for name in reversed(names)}

    id_column = None
    if data_args.id_column:
        id_column = _find_named(table, "--id_column", data_args.id_column)
    else:
        id_column = next((by_lower[name] for name in by_lower if name in ID_NAMES), None)

    named_labels = [_find_named(table, "--label_columns", name) for name in data_args.label_columns or []]
    if data_args.text_column:
        text_column = _find_named(table, "--text_column", data_args.text_column)
    else:
        text_column = next((by_lower[name] for name in by_lower if name in TEXT_NAMES), None)
        if text_column is None:
            taken = {id_column, *named_labels} | {name for lower, name in by_lower.items() if lower in LABEL_LIST_NAMES}
            candidates = [
                name
                for name in names
                if name not in taken and _is_text(table, name) and (_binary_codes(table.column(name)) < 0).all()
            ]
            if len(candidates) != 1:
                raise UserError(
                    f"{table.name}: cannot tell which column holds the text: name it with --text_column "
                    f"(columns: {', '.join(names)})"
                )
            text_column = candidates[0]

    options = {
        "id_column": id_column,
        "text_column": text_column,
        "normalize_users": data_args.normalize_users,
        "normalize_urls": data_args.normalize_urls,
    }
    candidates = named_labels or [name for name in names if name not in (id_column, text_column)]
    codes = {name: _binary_codes(table.column(name)) for name in candidates}
    if len(named_labels) == 1 and (codes[named_labels[0]] < 0).mean() > 0.5:
        return _find_listed_task(table, named_labels[0], data_args.label_delimiter, options)
    # A column with some cells that are not 0/1 is a label column with mistakes, and must not drop out unnoticed.
    labels = [name for name in candidates if named_labels or (codes[name] >= 0).mean() > 0.5]
    if not labels:
        listed = next((name for name in candidates if name.lower() in LABEL_LIST_NAMES), None)
        if listed is None:
            raise UserError(
                f"{table.name} has no label column: none of {', '.join(candidates) or 'its columns'} holds 0 and 1; "
                "name a column of label lists with --label_columns"
            )
        return _find_listed_task(table, listed, data_args.label_delimiter, options)
    if len(labels) == 1:
        raise UserError(f'{table.name} has one label column only, "{labels[0]}": two labels are the least')
    return Task(labels=labels, label_columns=labels, **options)


def _find_listed_task(table, column, delimiter, options):
    kind = table.rows.features[column]
    if delimiter is None and _is_text(table, column):
        cells = table.strings(column)
        delimiter = next((d for d in DELIMITERS if pc.any(pc.match_substring(cells, d)).as_py()), DELIMITERS[0])
    inner = getattr(kind, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        labels = inner.names
    else:
        found = set()
        for cell in table.rows[column]:
            found.update(_split_labels(cell, delimiter))
        labels = sorted(found)
    if len(labels) < 2:
        raise UserError(f'{table.name}, column "{column}" lists fewer than two different labels')
    return Task(labels=list(labels), label_columns=[column], label_delimiter=delimiter, **options)


def _split_labels(cell, delimiter):
    """Label names in a cell of a label list: a list, its text form `["joy", "love"]`, or names with a delimiter."""
    if isinstance(cell, str) and cell.strip().startswith("["):
        cell = ast.literal_eval(cell.strip())
    if isinstance(cell, str):
        cell = cell.split(delimiter)
    return [name for name in (str(name).strip() for name in cell or []) if name]


# Cells


def read_ids(table, task):
    """Ids of the rows as strings, `[N]`; the row numbers from 0 where there is no id column.

    Raises:
        UserError: for an id that is missing or stands twice.
    """
    if task.id_column is None:
        return [str(i) for i in range(len(table.rows))]
    _require(table, task.id_column, "id")
    ids = table.strings(task.id_column).to_pylist()
    seen = {}
    for row, value in enumerate(ids):
        if not value:
            raise UserError(f"{table.where(row, task.id_column)} is empty: give every row an id")
        if value in seen:
            raise UserError(
                f'{table.where(row, task.id_column)}: the id "{value}" stands in row {seen[value] + table.first_row} '
                "too: make ids unique"
            )
        seen[value] = row
    return ids


def read_texts(table, task):
    """Texts of the rows, `[N]`, raw but for what the task normalises.

    Raises:
        UserError: for a row without text.
    """
    _require(table, task.text_column, "text")
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


def read_labels(table, task):
    """0/1 array `[N, L]` of the rows' labels, in the task's order.

    Raises:
        UserError: for a missing column, a cell that is not 0/1, or a listed label that training does not know.
    """
    for name in task.label_columns:
        _require(table, name, "label")
    if task.labels_are_columns:
        codes = np.column_stack([_binary_codes(table.column(name)) for name in task.labels])
        bad = np.argwhere(codes < 0)
        if len(bad):
            row, column = (int(i) for i in bad[0])
            name = task.labels[column]
            value = table.column(name)[row].as_py()
            shown = "is empty" if value in (None, "") else f'is "{value}"'
            raise UserError(f"{table.where(row, name)} {shown}: a label cell must be 0 or 1 ({len(bad)} such cells)")
        return codes
    column = task.label_columns[0]
    index = {name: i for i, name in enumerate(task.labels)}
    inner = getattr(table.rows.features[column], "feature", None)
    labels = np.zeros((len(table.rows), len(index)), dtype=np.int8)
    for row, cell in enumerate(table.rows[column]):
        if isinstance(inner, datasets.ClassLabel):
            cell = inner.int2str(cell)
        for name in _split_labels(cell, task.label_delimiter):
            if name not in index:
                raise UserError(
                    f'{table.where(row, column)}: unknown label "{name}"; training has: {", ".join(task.labels)}'
                )
            labels[row, index[name]] = 1
    return labels


def _require(table, name, role):
    if name not in table.rows.column_names:
        raise UserError(
            f'{table.name} has no column "{name}", the {role} column in training; it has: '
            f"{', '.join(table.rows.column_names)}"
        )


def check_test_columns(table, task):
    """Refuse a table to predict that has no text or id column, or some but not all of the label columns."""
    _require(table, task.text_column, "text")
    if task.id_column is not None:
        _require(table, task.id_column, "id")
    missing = [name for name in task.label_columns if name not in table.rows.column_names]
    if missing and len(missing) < len(task.label_columns):
        raise UserError(
            f"{table.name}: its columns differ from training's: it has some labels but not {', '.join(missing)}; "
            "leave all label columns out, or have all"
        )
