"""Cells that list labels, one or several in each: what they say is decided in `parse_names`."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.shown import join_names, quote
from utils.data.label_cells import BINARY_CELLS, distinct_cells, is_plain, is_text
from utils.data.tables import Table

DELIMITERS = (",", ";", "|")
BLANK = " "
_STRINGS_AND_NUMBERS = {tokenize.STRING, tokenize.NUMBER}


@dataclass(frozen=True)
class ListedLabels:
    """What a column of label lists holds.

    Args:
        names: of the labels.
        delimiter: between them in a cell; None where the file format has lists.
        first_code: number of the first label, where cells hold numbers.
    """

    names: list[str]
    delimiter: str | None
    first_code: int = 0


def class_label(table: Table, column: str) -> datasets.ClassLabel | None:
    """The names behind a column that gives labels as numbers, as data sets on the hub do; None for other columns."""
    feature = table.rows.features[column]
    inner = getattr(feature, "feature", feature)
    return inner if isinstance(inner, datasets.ClassLabel) else None


def parse_names(
    cell: Any, delimiter: str | None, names: Sequence[str] | None = None, first_code: int = 0
) -> list[str] | None:
    """Names of the labels that a cell lists; None where it is no list of labels.

    Args:
        cell: a list, the text form `["joy", "love"]`, names with a delimiter between them, or one name.
        delimiter: between the names of a text.
        names: of the labels, where the cells hold their numbers; None where they hold names.
        first_code: number of the first label.
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
    if not all(0 <= number - first_code < len(names) for number in numbers):
        return None
    return [names[number - first_code] for number in numbers]


def _parse_list(text: str) -> Any:
    """The list that a text writes as JSON, Python or NumPy does; None where it writes none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        kinds = [token.type for token in tokens]
        # NumPy prints no commas: Python would join names without them, and refuse numbers.
        if any({kind, following} <= _STRINGS_AND_NUMBERS for kind, following in pairwise(kinds)):
            return _parse_printed_array(tokens)
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return None


def _parse_printed_array(tokens: list[tokenize.TokenInfo]) -> list[Any] | None:
    """What an array held that NumPy has printed, `['joy' 'love']` or `[4 27]`; None for other texts."""
    ends = (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    first, *inner, last = [token for token in tokens if token.type not in ends]
    if first.string != "[" or last.string != "]" or not {token.type for token in inner} <= _STRINGS_AND_NUMBERS:
        return None
    return [ast.literal_eval(token.string) for token in inner]


def holds_codes(table: Table, name: str) -> bool:
    """Whether the cells are numbers of labels, one or several each, and not 0 and 1 alone."""
    if class_label(table, name) is not None:
        return True
    if not is_plain(table.column(name).type):
        return False
    numbers = {part for cell in distinct_cells(table, name) for part in re.split(r"[\[\],;|\s]+", cell)} - {""}
    return all(part.isdecimal() for part in numbers) and bool(numbers - {"0", "1"})


def read_label_names(path: str) -> list[str]:
    """Names of labels from a file with a name in each line, the first of them that of the lowest number.

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
    table: Table, column: str, delimiter: str | None, names: Sequence[str] | None = None, first_code: int = 0
) -> Iterator[list[str]]:
    """Label names of each row of a column of label lists.

    Args:
        table: rows.
        column: of the label lists.
        delimiter: between names.
        names: of the labels, where the cells hold their numbers.
        first_code: number of the first of them.

    Raises:
        UserError: for a cell that is not such a list.
    """
    classes = class_label(table, column)
    names, first_code = (names, first_code) if classes is None else (classes.names, 0)
    for row, cell in enumerate(table.rows[column]):
        found = parse_names(cell, delimiter, names, first_code)
        if found is None:
            what = 'write "joy, love"'
            if names is not None:
                what = f"write numbers from {first_code} to {first_code + len(names) - 1}"
            raise UserError(f"{table.where(row, column)} is no list of labels: {quote(cell)}; {what}")
        yield found


def find_listed_labels(
    table: Table, column: str, delimiter: str | None, names: list[str] | None = None
) -> ListedLabels:
    """What a column of label lists holds.

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
        return ListedLabels(list(classes.names), None)
    if delimiter is None and is_text(table, column):
        delimiter = _find_delimiter(table, column)
    if names is not None:
        return ListedLabels(names, delimiter, _find_first_code(table, column, delimiter, names))
    rows = list(label_lists(table, column, delimiter))
    labels = sorted({name for row in rows for name in row})
    if {label.lower() for label in labels} <= set(BINARY_CELLS):
        what = join_names(labels) or "nothing"
        lengths = {len(row) for row in rows}
        if len(lengths) == 1 and max(lengths) > 1:  # [0, 1, 0]
            what = f"{max(lengths)} cells of 0 and 1 in each row"
        raise UserError(
            f'{table.name}, column "{column}" lists {what}, not the names of labels: '
            "give lists of names, or a 0/1 column for each label"
        )
    if all(label.isdecimal() for label in labels) and len(labels) > 2:
        labels.sort(key=int)
        log(f'{table.name}, column "{column}": the labels are numbers; a file with a name in each line, that of '
            f"{labels[0]} first, names them: --label_names FILE")  # fmt: skip
    return ListedLabels(labels, delimiter)


def _find_delimiter(table: Table, column: str) -> str:
    """What separates the names in the cells of a text column.

    Raises:
        UserError: where several signs may.
    """
    cells = table.strings(column)
    cells = cells.filter(pc.invert(pc.starts_with(cells, "[")))
    used = [d for d in DELIMITERS if pc.any(pc.match_substring(cells, d)).as_py()]
    if len(used) > 1:
        raise UserError(
            f'{table.name}, column "{column}": both {" and ".join(used)} may separate the labels: '
            "say which with --label_delimiter"
        )
    if used:
        return used[0]
    cells = set(pc.unique(cells).to_pylist()) - {""}
    divided = blanks_divide(cells)
    example = quote(max(cells, key=lambda cell: (len(cell.split()), cell), default=""))
    if divided:
        log(f'{table.name}, column "{column}": blanks divide the labels, as in "{example}" '
            "(--label_delimiter ',' keeps them whole)")  # fmt: skip
        return BLANK
    if divided is None:
        log(f'WARNING: {table.name}, column "{column}": "{example}" is taken for the name of one label. If blanks '
            "divide labels, pass --label_delimiter ' '; if not, --label_delimiter ',' says so")  # fmt: skip
    return DELIMITERS[0]


def blanks_divide(cells: Collection[str]) -> bool | None:
    """Whether blanks divide the names of labels in some different cells, `joy love`; None where that cannot be told.

    They do between hashtags, between numbers, and where words come together in several ways and each stands alone too,
    or now before and now behind others: `very`, in names such as `very happy`, does neither.
    """
    several = [words for words in map(str.split, cells) if len(words) > 1]
    if not several:
        return False
    if all(all(word[0] == "#" for word in cell.split()) for cell in cells):
        return True
    if all(word.isdecimal() for cell in cells for word in cell.split()):
        return True
    alone = {cell for cell in cells if len(cell.split()) == 1}
    count = Counter(word for words in several for word in set(words))
    if not any(word in alone or number > 1 for word, number in count.items()):
        return False  # no word is used twice: names of several words
    first, behind = ({words[0] for words in several}, {word for words in several for word in words[1:]})
    if len(several) > 1 and all(word in alone or word in first & behind for word in count):
        return True
    return None


def _find_first_code(table: Table, column: str, delimiter: str | None, names: list[str]) -> int:
    """Whether cells number the labels from 0 or from 1: the latter where the number of names stands there, and no 0."""
    numbers = {number for row in label_lists(table, column, delimiter) for number in row}
    numbers = {int(number.removesuffix(".0")) for number in numbers if number.removesuffix(".0").isdecimal()}
    if 0 in numbers or not numbers:
        return 0
    if max(numbers) == len(names):
        log(f'{table.name}, column "{column}": the numbers begin with 1, which is "{names[0]}"')
        return 1
    log(f'WARNING: {table.name}, column "{column}": no cell holds the number 0, which is "{names[0]}"; if the numbers '
        f'begin with 1, put a line above it in the file of --label_names')  # fmt: skip
    return 0
