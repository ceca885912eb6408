"""Tables in .json and .jsonl files, every cell as it is written: a number stays the text that stands in the file.

Parsers of tables would guess types: ids beyond 64 bits would lose digits, and 1 become 1.0 where another row has none.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

import pyarrow as pa

from utils.core.errors import UserError
from utils.core.shown import quote
from utils.data.headers import NESTED, check_names
from utils.data.sources import Source

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
                content = _parse(source, file.read(), "")
                for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
                    yield _object(source, row, number)
                return
            number = 0
            for line in file:
                if line.strip():
                    number += 1
                    yield _object(source, _parse(source, line, f", row {number},"), number)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source.name} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{source.name} cannot be read: {error.strerror}") from error


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
