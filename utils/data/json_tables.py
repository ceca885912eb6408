"""Tables in .json and .jsonl files, every cell as it is written: a number stays the text that stands in the file.

Parsers of tables would guess types: ids beyond 64 bits would lose digits, and 1 become 1.0 where another row has none.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from utils.core.errors import UserError
from utils.core.shown import quote


def json_chunks(path: Path, rows_per_chunk: int) -> Iterator[pa.Table]:
    """The rows of a file of JSON objects, one in each line or all in one list, in parts.

    Columns are texts, lists of texts, or bytes for what holds objects, lists of lists, or now this and now that: it is
    no label, id or text, and refused where it is named as one.

    Args:
        path: the file.
        rows_per_chunk: rows in each part; the last may be shorter.

    Raises:
        UserError: for a line that is no such object.
    """
    kinds: dict[str, str] = {}
    lengths, lines = [], _rows(path)
    # The types are known after the last line only. Every line is parsed once all the same: the parts wait in a file.
    with tempfile.TemporaryFile() as waiting:
        while rows := list(islice(lines, rows_per_chunk)):
            of_part = _kinds(rows)
            part = _as_table(path, rows, _schema(of_part))
            with pa.ipc.new_stream(waiting, part.schema) as writer:
                writer.write_table(part)
            lengths.append(len(rows))
            for name, kind in of_part.items():
                kinds[name] = _joined(kind, kinds.get(name, ""))
        waiting.seek(0)
        for length in lengths:
            yield _widened(pa.ipc.open_stream(waiting).read_all(), length, _schema(kinds))


def _schema(kinds: dict[str, str]) -> pa.Schema:
    types = {"list": pa.list_(pa.string()), "object": pa.binary()}
    return pa.schema({name: types.get(kind, pa.string()) for name, kind in kinds.items()})


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file one by one."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = next((character for character in iter(lambda: file.read(1), "") if not character.isspace()), "")
            file.seek(0)
            if first == "[":
                content = _parse(path, file.read(), "")
                for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
                    yield _object(path, row, number)
                return
            number = 0
            for line in file:
                if line.strip():
                    number += 1
                    yield _object(path, _parse(path, line, f", row {number},"), number)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _parse(path: Path, text: str, where: str) -> Any:
    try:
        # Numbers stay texts; what JSON does not have, NaN and infinities, is an empty cell.
        return json.loads(
            text, parse_int=str, parse_float=str, parse_constant=lambda name: None, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        reason = "nests too deeply" if isinstance(error, RecursionError) else f"is no JSON: {error}"
        raise UserError(f"{path}{where} {reason}: correct it, or save the rows as .csv") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return row


def _object(path: Path, row: Any, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{path}, row {number} is no object with names and values: write one for each row")
    return row


def _kinds(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The kind of each column: `text`, `list`, `object`, or empty where no row says."""
    kinds = dict.fromkeys((name for row in rows for name in row), "")
    for name in kinds:
        cells = [row.get(name) for row in rows]
        if set(map(type, cells)) <= {str, bool, type(None)}:  # most columns
            kinds[name] = "text" if any(cell is not None and cell != "" for cell in cells) else ""
        else:
            for cell in cells:
                kinds[name] = _joined(_kind(cell), kinds[name])
    return kinds


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "object" if any(isinstance(item, list | dict) for item in value) else "list"
    return "object" if isinstance(value, dict) else "" if value is None or value == "" else "text"


def _joined(kind: str, other: str) -> str:
    return "object" if kind and other and kind != other else kind or other


def _as_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        cells = [row.get(field.name) for row in rows]
        if not pa.types.is_string(field.type) or bool in set(map(type, cells)):
            cells = [_cell(cell, field.type) for cell in cells]
        try:
            columns.append(pa.array(cells, type=field.type))
        except (UnicodeEncodeError, pa.ArrowException) as error:
            name = quote(field.name)
            raise UserError(f'{path}, column "{name}" holds text that is not Unicode: {error}') from error
    return pa.table(columns, schema=schema)


def _cell(value: Any, kind: pa.DataType) -> Any:
    if value is None or (value == "" and not pa.types.is_string(kind)):
        return None
    if pa.types.is_binary(kind):
        return json.dumps(value).encode()
    if isinstance(value, list):
        return [None if item is None else _text(item) for item in value]
    return _text(value)


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _widened(part: pa.Table, length: int, schema: pa.Schema) -> pa.Table:
    """A part with the columns and types of the whole file; `length`: its rows, also where they hold nothing."""
    columns = []
    for field in schema:
        if field.name not in part.column_names:
            columns.append(pa.nulls(length, field.type))
        elif part.schema.field(field.name).type == field.type:
            columns.append(part.column(field.name))
        else:  # other rows hold lists or objects
            cells = part.column(field.name).to_pylist()
            columns.append(pa.array([_cell(cell, field.type) for cell in cells], type=field.type))
    return pa.table(columns, schema=schema)
