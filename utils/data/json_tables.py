"""Tables in .json and .jsonl files, every cell as it is written: a number stays the text that stands in the file.

Parsers of tables would guess types: ids beyond 64 bits would lose digits, and 1 become 1.0 where another row has none.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, TypeAlias

import pyarrow as pa

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.shown import join_names, quote
from utils.data.headers import NESTED, TEXT_NAMES, check_names
from utils.data.sources import Source, not_utf8

Path: TypeAlias = tuple[str, ...]  # of a value in objects in objects
MOST_PARTS = 200  # of an object that becomes columns; one with more names is a table of its own
TYPES = {"list": pa.list_(pa.string()), "lists": pa.binary(), "object": pa.binary(), "mixed": pa.binary()}


def json_chunks(source: Source, rows_per_chunk: int) -> Iterator[pa.Table]:
    """The rows of a file of JSON objects, one in each line or all in one list, in parts.

    Columns are texts, lists of texts, or bytes for what holds lists of lists, or now this and now that: it is no label,
    id or text, and refused where it is named as one. Objects in objects become columns such as `data.text`.

    Args:
        source: the file.
        rows_per_chunk: rows in each part; the last may be shorter.

    Raises:
        UserError: for a line that is no such object.
    """
    kinds: dict[Path, str] = {}
    lengths, lines = [], _rows(source)
    # The types are known after the last line only. Every line is parsed once all the same: the parts wait in a file.
    with tempfile.TemporaryFile() as waiting:
        while rows := [dict(_fields(row)) for row in islice(lines, rows_per_chunk)]:
            of_part = _kinds(rows)
            part = _as_table(source, rows, of_part)
            with pa.ipc.new_stream(waiting, part.schema) as writer:
                writer.write_table(part)
            lengths.append(len(rows))
            for path, kind in of_part.items():
                kinds[path] = _joined(kind, kinds.get(path, ""))
        columns = {path: _field(".".join(path), kinds[path], nested=len(path) > 1) for path in _columns(kinds)}
        check_names(source.name, [field.name for field in columns.values()])
        waiting.seek(0)
        for length in lengths:
            yield _widened(pa.ipc.open_stream(waiting).read_all(), length, columns)


def _fields(row: dict[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Paths and values of an object, and of those in it: `("data",)`, then `("data", "text")`."""
    for name, value in row.items():
        yield (*above, name), value
        if isinstance(value, dict):
            yield from _fields(value, (*above, name))


def _columns(kinds: dict[Path, str]) -> list[Path]:
    """Paths of the columns. Objects that are objects in every row, and not too large, give way to their parts."""
    parts = Counter(path[:-1] for path in kinds)
    opened = {path for path, kind in kinds.items() if kind == "object" and 0 < parts[path] <= MOST_PARTS}
    return [path for path in kinds if path not in opened and all(path[:i] in opened for i in range(1, len(path)))]


def _field(name: str, kind: str, nested: bool = False) -> pa.Field:
    return pa.field(name, TYPES.get(kind, pa.string()), metadata=NESTED if nested else None)


def _rows(source: Source) -> Iterator[dict[str, Any]]:
    """The objects of a file one by one."""
    try:
        with open(source.path, encoding="utf-8-sig") as file:
            first = next((character for character in iter(lambda: file.read(1), "") if not character.isspace()), "")
            file.seek(0)
            if first == "[":
                yield from _objects(source, _parse(source, file.read(), ""))
                return
            lines = (line for line in file if line.strip())
            start = list(islice(lines, 2))
            row = _if_json(source, start[0]) if len(start) == 2 else None
            if row is None:  # one object in all, in a line of its own or in several
                yield from _objects(source, _unwrapped(source, "".join([*start, *lines])))
                return
            yield _object(source, row, 1)
            for number, line in enumerate(chain(start[1:], lines), start=2):
                yield _object(source, _parse(source, line, f", row {number},"), number)
    except UnicodeDecodeError as error:
        raise UserError(not_utf8(source.name, source.path)) from error
    except OSError as error:
        raise UserError(f"{source.name} cannot be read: {error.strerror}") from error


def _objects(source: Source, content: Any) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
        yield _object(source, row, number)


def _if_json(source: Source, line: str) -> Any:
    """What a line holds, if it is JSON by itself; else None."""
    try:
        return _parse(source, line, "")
    except UserError:
        return None


def _unwrapped(source: Source, text: str) -> Any:
    """The rows of a file that is one object: those of the only list in it, `{"data": [...]}`; the object itself without
    any.

    Raises:
        UserError: for columns in place of rows, as pandas writes them unless told otherwise, and for several lists.
    """
    first = text.lstrip().partition("\n")[0].rstrip()
    if first.endswith("}"):  # a line that should be an object
        _parse(source, first, ", row 1,")
    content = _parse(source, text, "")
    if not isinstance(content, dict):
        return content
    lists = [name for name, value in content.items() if _is_list_of_rows(value)]
    is_row = bool({name.lower() for name in content} & {*TEXT_NAMES})
    if len(lists) == 1 and not is_row:
        log(f'{source.name}: its rows are those of "{quote(lists[0])}"')
        return content[lists[0]]
    if lists and not is_row:
        raise UserError(
            f"{source.name} holds several lists of rows, {join_names(lists)}: save the one that is meant as a file"
        )
    shapes = {_shape_of_column(value) for value in content.values()}
    if len(shapes) == 1 and shapes != {None}:
        raise UserError(
            f"{source.name} holds columns, not rows, as pandas writes them if it is not told otherwise: save it by "
            'to_json(..., orient="records", lines=True)'
        )
    return content


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _shape_of_column(value: Any) -> tuple[str, ...] | None:
    """The numbers of the rows where a value is a column of several, `{"0": "text", "1": "text"}`; None elsewhere."""
    if isinstance(value, dict) and len(value) > 1 and all(name.isdecimal() for name in value):
        return tuple(value)
    return tuple(map(str, range(len(value)))) if isinstance(value, list) and len(value) > 1 else None


def _parse(source: Source, text: str, where: str) -> Any:
    try:
        # Numbers stay texts; what JSON does not have, NaN and infinities, is an empty cell.
        return json.loads(
            text, parse_int=str, parse_float=str, parse_constant=lambda name: None, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        reason = "nests too deeply" if isinstance(error, RecursionError) else f"is no JSON: {error}"
        raise UserError(f"{source.name}{where} {reason}: correct it, or save the rows as .csv") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return row


def _object(source: Source, row: Any, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{source.name}, row {number} is no object with names and values: write one for each row")
    return row


def _kinds(rows: list[dict[Path, Any]]) -> dict[Path, str]:
    """The kind of each path: `text`, `list`, `lists` (of lists or objects), `object`, or empty where no row says."""
    kinds = dict.fromkeys((path for row in rows for path in row), "")
    for path in kinds:
        cells = [row.get(path) for row in rows]
        if set(map(type, cells)) <= {str, bool, type(None)}:  # most columns
            kinds[path] = "text" if any(cell is not None and cell != "" for cell in cells) else ""
        else:
            for cell in cells:
                kinds[path] = _joined(_kind(cell), kinds[path])
    return kinds


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "lists" if any(isinstance(item, list | dict) for item in value) else "list"
    return "object" if isinstance(value, dict) else "" if value is None or value == "" else "text"


def _joined(kind: str, other: str) -> str:
    return "mixed" if kind and other and kind != other else kind or other


def _as_table(source: Source, rows: list[dict[Path, Any]], kinds: dict[Path, str]) -> pa.Table:
    """Rows with a column for each path, under a name that is its own also where names have points in them."""
    columns, schema = [], pa.schema([_field(json.dumps(path), kind) for path, kind in kinds.items()])
    for path, field in zip(kinds, schema):
        cells = [row.get(path) for row in rows]
        if not pa.types.is_string(field.type) or bool in set(map(type, cells)):
            cells = [_cell(cell, field.type) for cell in cells]
        try:
            columns.append(pa.array(cells, type=field.type))
        except (UnicodeEncodeError, pa.ArrowException) as error:
            name = quote(".".join(path))
            raise UserError(f'{source.name}, column "{name}" holds text that is not Unicode: {error}') from error
    return pa.table(columns, schema=schema)


def _cell(value: Any, kind: pa.DataType) -> Any:
    if value is None or (value == "" and not pa.types.is_string(kind)):
        return None
    if pa.types.is_binary(kind):
        return value if isinstance(value, bytes) else json.dumps(value).encode()
    if isinstance(value, list):
        return [None if item is None else _text(item) for item in value]
    return _text(value)


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _widened(part: pa.Table, length: int, columns: dict[Path, pa.Field]) -> pa.Table:
    """A part of `_as_table` with the columns and types of the whole file.

    Args:
        part: some rows.
        length: their number, also where they hold nothing.
        columns: of the whole file, by the paths of their values.
    """
    arrays = []
    for path, field in columns.items():
        name = json.dumps(path)
        if name not in part.column_names:
            arrays.append(pa.nulls(length, field.type))
        elif part.schema.field(name).type == field.type:
            arrays.append(part.column(name))
        else:  # other rows hold lists or objects
            cells = part.column(name).to_pylist()
            arrays.append(pa.array([_cell(cell, field.type) for cell in cells], type=field.type))
    return pa.table(arrays, schema=pa.schema(list(columns.values())))
