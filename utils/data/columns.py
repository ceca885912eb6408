"""Finding out which column of a table is which, and reading ids, texts and labels from them."""

import ast
import re

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.data.task import Task
from utils.data.text import normalize

# In the order in which they are preferred.
ID_NAMES = ("id", "tweet_id", "tweetid", "example_id", "guid", "uuid", "idx", "index", "unnamed: 0", "")
TEXT_NAMES = ("text", "tweet", "sentence", "comment_text", "comment", "content", "message", "document", "body")
LABEL_LIST_NAMES = ("labels", "label", "emotions", "emotion", "tags", "categories", "genres", "classes")
# In pairs: the cells that mean no, and those that mean yes.
BINARY_CELLS = ["0", "1", "0.0", "1.0", "false", "true", "False", "True"]
DELIMITERS = (",", ";", "|")


def _is_plain(kind):
    """Whether cells of a pyarrow type are texts, numbers or booleans, rather than lists, bytes and the like."""
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


def _binary_codes(column):
    """0 or 1 for each cell that says so in one of the usual ways, -1 for others: int8 array `[N]`."""
    if not _is_plain(column.type):
        return np.full(len(column), -1, dtype=np.int8)
    cells = pc.utf8_trim_whitespace(column.cast(pa.string()))
    index = pc.fill_null(pc.index_in(cells, value_set=pa.array(BINARY_CELLS)), -1).to_numpy().astype(np.int8)
    return np.where(index < 0, -1, index % 2).astype(np.int8)


def looks_binary(table, name):
    """Whether most of the cells that are not empty are 0/1: a label column, if perhaps one with mistakes."""
    if not _is_plain(table.column(name).type):
        return False
    filled = pc.not_equal(table.strings(name), "").to_numpy()
    return bool(filled.any() and (_binary_codes(table.column(name))[filled] >= 0).mean() > 0.5)


def _looks_numeric(table, name):
    """Whether every cell that is not empty is a number."""
    filled = [cell for cell in table.strings(name).to_pylist() if cell]
    return all(re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", cell) for cell in filled)


def _find_named(table, flag, name):
    if name not in table.rows.column_names:
        raise UserError(f'{table.name} has no column "{name}" ({flag}); it has: {", ".join(table.rows.column_names)}')
    return name


def _is_text(table, name):
    kind = table.column(name).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _find_by_name(table, known, taken=()):
    """The column with the first of the `known` names, in any case, that is no 0/1 column; None without one."""
    by_lower = {name.lower().strip(): name for name in reversed(table.rows.column_names) if name not in taken}
    names = [by_lower[name] for name in known if name in by_lower]
    # The first names are what they say, whatever the cells; `index` or `content` may be a label.
    return next((name for name in names if name.lower() in known[:2] or not looks_binary(table, name)), None)


def _find_text(table, taken):
    """The text column: by its name, or the only column of texts that are not all numbers."""
    found = _find_by_name(table, TEXT_NAMES, taken)
    if found is not None:
        return found
    listed = _find_by_name(table, LABEL_LIST_NAMES)
    candidates = [
        name
        for name in table.rows.column_names
        if name not in (*taken, listed) and _is_text(table, name) and not looks_binary(table, name)
    ]
    candidates = [name for name in candidates if not _looks_numeric(table, name)]
    if len(candidates) != 1:
        raise UserError(
            f"{table.name}: cannot tell which column holds the text: name it with --text_column "
            f"(columns: {', '.join(table.rows.column_names)})"
        )
    return candidates[0]


def find_task(table, data_args):
    """Find the id, text and label columns of the training table.

    Columns named in `data_args` are taken as named. Otherwise: the id and text columns by their usual names, the only
    other column of texts failing that; every 0/1 column is a label; without one, a column of label lists.

    Raises:
        UserError: where there is no text or label column, or it is not clear which columns are the labels.
    """
    named_labels = [_find_named(table, "--label_columns", name) for name in data_args.label_columns or []]
    if len(set(named_labels)) < len(named_labels):
        raise UserError(f"--label_columns {' '.join(named_labels)}: a column is named twice")
    if data_args.id_column:
        id_column = _find_named(table, "--id_column", data_args.id_column)
    else:
        id_column = _find_by_name(table, ID_NAMES, named_labels)
    if data_args.text_column:
        text_column = _find_named(table, "--text_column", data_args.text_column)
    else:
        text_column = _find_text(table, {id_column, *named_labels})
    for name in filter(None, (id_column, text_column)):
        if not _is_plain(table.column(name).type):
            raise UserError(f'{table.name}, column "{name}": ids and texts must be texts or numbers, not lists')

    # What pandas calls the index it has written into a file.
    unnamed = {name for name in table.rows.column_names if name.lower() in ("", "unnamed: 0")}
    others = [name for name in table.rows.column_names if name not in {id_column, text_column} | unnamed]
    listed = _find_by_name(table, LABEL_LIST_NAMES, (id_column, text_column))
    # A column with some cells that are not 0/1 is a label column with mistakes, and must not drop out unnoticed.
    labels = named_labels or [name for name in others if looks_binary(table, name)]
    if len(named_labels) == 1 and not looks_binary(table, named_labels[0]):
        listed, labels = named_labels[0], []
    elif not named_labels and labels and listed:
        raise UserError(
            f'{table.name}: "{listed}" may list the labels, and {", ".join(labels)} hold 0 and 1: '
            "say which are the labels with --label_columns"
        )
    if not labels and not listed:
        raise UserError(
            f"{table.name} has no label column: none of {', '.join(others) or 'its columns'} holds 0 and 1; "
            "name a column of label lists with --label_columns"
        )
    label_columns, delimiter = labels, None
    if not labels:
        label_columns = [listed]
        labels, delimiter = _find_listed_labels(table, listed, data_args.label_delimiter)
    if len(labels) == 1:
        raise UserError(f'{table.name} has one label only, "{labels[0]}": two labels are the least')
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
    )


def _find_listed_labels(table, column, delimiter):
    """`(labels, delimiter)` of a column of label lists."""
    inner = getattr(table.rows.features[column], "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return list(inner.names), None
    if delimiter is None and _is_text(table, column):
        cells = table.strings(column)
        cells = cells.filter(pc.invert(pc.starts_with(cells, "[")))
        used = [d for d in DELIMITERS if pc.any(pc.match_substring(cells, d)).as_py()]
        if len(used) > 1:
            raise UserError(
                f'{table.name}, column "{column}": {" and ".join(used)} both may divide the labels: '
                "say which with --label_delimiter"
            )
        delimiter = used[0] if used else DELIMITERS[0]
    labels = sorted({name for row in _label_lists(table, column, delimiter) for name in row})
    if set(labels) <= set(BINARY_CELLS):
        raise UserError(
            f'{table.name}, column "{column}" lists {", ".join(labels) or "nothing"}, not the names of labels: '
            "give lists of names, or a 0/1 column for each label"
        )
    return labels, delimiter


def _label_lists(table, column, delimiter):
    """Label names of each row of a column of label lists: lists, their text form `["joy", "love"]`, or delimited names.

    Raises:
        UserError: for a cell that is none of these.
    """
    inner = getattr(table.rows.features[column], "feature", None)
    for row, cell in enumerate(table.rows[column]):
        names = cell or []
        if isinstance(cell, str) and cell.strip().startswith("["):
            try:
                names = ast.literal_eval(cell.strip())
            except (ValueError, SyntaxError):
                names = None
            if re.search(r"""['"]\s+['"]""", cell):  # numpy's way to print an array has no commas
                names = None
        elif isinstance(cell, str):
            names = cell.split(delimiter)
        elif isinstance(inner, datasets.ClassLabel):
            names = inner.int2str(names)
        if not isinstance(names, list) or any(name is None or isinstance(name, list | dict) for name in names):
            raise UserError(f'{table.where(row, column)} is no list of labels: {cell!r}; write "joy, love"')
        yield [name for name in (str(name).strip() for name in names) if name]


# Cells


def read_ids(table, task):
    """Ids of the rows as strings, `[N]`; the row numbers from 0 where there is no id column.

    Whether they are unique is for `check_unique_ids` to say, which sees all chunks of a table.

    Raises:
        UserError: for an id that is missing.
    """
    if task.id_column is None:
        return [str(table.start + i) for i in range(len(table.rows))]
    _require(table, task.id_column, "id")
    ids = table.strings(task.id_column).to_pylist()
    if "" in ids:
        raise UserError(f"{table.where(ids.index(''), task.id_column)} is empty: give every row an id")
    return ids


def hash_ids(ids):
    """64-bit hashes of ids, uint64 array `[N]`: they stand for the ids of a file that is too large to hold them all."""
    return pd.util.hash_array(np.array(ids, dtype=object), categorize=False)


def check_unique_ids(chunks, task):
    """Refuse ids that stand twice, in 8 bytes of memory a row.

    Args:
        chunks: function that returns an iterator over the chunks of a table (one chunk, for a table at hand); called
            once more, to find the rows, where two ids have the same hash.
        task: says which column holds the ids.

    Returns:
        hashes of the ids, `[N]`.

    Raises:
        UserError: for an id that is missing or stands twice.
    """
    hashes = [hash_ids(read_ids(chunk, task)) for chunk in chunks()]
    hashes = np.concatenate(hashes)
    in_order = np.sort(hashes)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(twice) and task.id_column is not None:
        seen = {}
        for chunk in chunks():
            ids = read_ids(chunk, task)
            for row in np.flatnonzero(np.isin(hash_ids(ids), twice)).tolist():
                if ids[row] in seen:
                    raise UserError(
                        f'{chunk.where(row, task.id_column)}: the id "{ids[row]}" stands in row {seen[ids[row]]} too: '
                        "make ids unique"
                    )
                seen[ids[row]] = chunk.start + row + chunk.first_row
    return hashes


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
    labels = np.zeros((len(table.rows), len(index)), dtype=np.int8)
    for row, names in enumerate(_label_lists(table, column, task.label_delimiter)):
        for name in names:
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
