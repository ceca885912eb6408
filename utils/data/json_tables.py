"""Tables in .json and .jsonl files, every cell as it is written: a number stays the text that stands in the file.

Parsers of tables would guess types: ids beyond 64 bits would lose digits, and 1 become 1.0 where another row has none.
"""

from __future__ import annotations

import json
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
    for row in _rows(source):
        for path, value in _fields(row):
            kind, known = _kind(value), kinds.get(path, "")
            kinds[path] = "mixed" if kind and known and kind != known else known or kind
    paths = _columns(kinds)
    names = [".".join(path) for path in paths]
    check_names(source.name, names)
    types = {"list": pa.list_(pa.string()), "lists": pa.binary(), "object": pa.binary(), "mixed": pa.binary()}
    schema = pa.schema(
        pa.field(name, types.get(kinds[path], pa.string()), metadata=NESTED if len(path) > 1 else None)
        for name, path in zip(names, paths)
    )
    rows = _rows(source)
    while part := [dict(_fields(row)) for row in islice(rows, rows_per_chunk)]:
        yield _as_table(source, [[fields.get(path) for fields in part] for path in paths], schema)


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


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "lists" if any(isinstance(item, list | dict) for item in value) else "list"
    return "object" if isinstance(value, dict) else "text" if value else ""


def _as_table(source: Source, columns: list[list[Any]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field, values in zip(schema, columns):
        try:
            arrays.append(pa.array([_cell(value, field) for value in values], type=field.type))
        except (UnicodeEncodeError, pa.ArrowException) as error:
            name = quote(field.name)
            raise UserError(f'{source.name}, column "{name}" holds text that is not Unicode: {error}') from error
    return pa.table(arrays, schema=schema)


def _cell(value: Any, field: pa.Field) -> Any:
    if value is None or (value == "" and not pa.types.is_string(field.type)):
        return None
    if pa.types.is_binary(field.type):
        return json.dumps(value).encode()
    if isinstance(value, list):
        return [None if item is None else _text(item) for item in value]
    return _text(value)


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
