"""Names of a table's columns: in its first row, or given where it has none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from utils.core.errors import UserError
from utils.core.shown import join_names, quote
from utils.data.task import Task

# Column names that are recognised, the preferred ones first. A column with one of the first two names of a list is
# taken even if its cells are 0 and 1.
ID_NAMES = ("id", "tweet_id", "tweetid", "example_id", "guid", "uuid", "idx", "index", "unnamed: 0", "")
TEXT_NAMES = (
    *("text", "tweet", "sentence", "comment_text", "comment", "content", "message", "document", "body"),
    *("review", "utterance", "post", "question"),
)
# Columns of texts that people join to those of TEXT_NAMES.
TITLE_NAMES = ("title", "subject", "headline", "heading", "summary")
LABEL_LIST_NAMES = ("labels", "label", "emotions", "emotion", "tags", "categories", "genres", "classes")
# Taken for a column of labels where nothing else is one; elsewhere such columns are often metadata.
WEAK_LABEL_NAMES = ("sentiment", "category", "class", "target", "topic", "topics", "genre", "intent", "annotations")
KNOWN_NAMES = {*ID_NAMES, *TEXT_NAMES, *LABEL_LIST_NAMES, *WEAK_LABEL_NAMES} - {""}
# Metadata of a column that is part of an object, as `data.text`.
NESTED = {b"part_of": b"object"}
# What tells a number, or several of them, from a name.
_NUMBERS = re.compile(r"[-+]?\d+(\.\d+)?([,;| ]+[-+]?\d+(\.\d+)?)*")


@dataclass(frozen=True)
class Layout:
    """What the user says of how a table is written, where the file itself does not.

    Args:
        quoting: whether quotes enclose cells in a delimited file: `standard` (yes) or `none` (no). None: `none` for
            .txt with tabs, where a text may begin with a quote, otherwise `standard`.
        separator: between the cells of a delimited file; None: by its name, or what its rows agree on.
        column_names: of a file without a header; None where the first row has them.
        optional_names: whether a file with a header, or with another number of columns, is read without them.
        sheet: of an Excel workbook; None for the first.
    """

    quoting: str | None = None
    separator: str | None = None
    column_names: tuple[str, ...] | None = None
    optional_names: bool = False
    sheet: str | None = None

    def as_trained(self, task: Task) -> Layout:
        """The layout of rows to predict: what is left out is as in training, as far as it fits the file."""
        names = tuple(task.column_names) if task.column_names else None
        return replace(
            self,
            quoting=self.quoting or task.csv_quoting,
            column_names=self.column_names or names,
            optional_names=self.column_names is None,
        )


@dataclass
class Header:
    """Names of the columns, and whether they stand in the file's first row."""

    names: list[str]
    in_file: bool

    @property
    def first_row(self) -> int:
        """Number of the file's first row of data, as a spreadsheet counts."""
        return 2 if self.in_file else 1


def find_header(name: str, rows: Sequence[Sequence[str]], layout: Layout) -> Header:
    """The names of the columns.

    Args:
        name: of the file, for messages.
        rows: its first rows, the very first of them included.
        layout: what the user says of it.

    Raises:
        UserError: where the first row is a row of data and no names are given, or not as many.
    """
    first = [cell.strip() for cell in rows[0]] if rows else []
    given = layout.column_names
    if given is not None:
        written = [cell.lower() for cell in first]
        if written == [cell.strip().lower() for cell in given]:
            return Header(list(rows[0]), in_file=True)
        has_header = len(first) != len(given) or bool(set(written) & KNOWN_NAMES)
        if not (layout.optional_names and has_header):
            if len(first) != len(given):
                raise UserError(
                    f"{name}, row 1 has {len(first)} cells, and --column_names {' '.join(given)} names {len(given)} "
                    "columns: name each column"
                )
            return Header(list(given), in_file=False)
    if _is_data(first, [[cell.strip() for cell in row] for row in rows[1:]]):
        raise UserError(
            f"{name} seems to have no header: its first row, {join_names(first, 5)}, is like the rows below. Name the "
            f"columns, for instance --column_names {' '.join(example_names(rows))}; if that row holds their names, "
            "repeat those"
        )
    return Header(list(rows[0]) if rows else [], in_file=True)


def _is_data(first: list[str], below: list[list[str]]) -> bool:
    """Whether the first row is one of data: a cell of it stands in its column again, or is a number among numbers."""
    if {cell.lower() for cell in first} & KNOWN_NAMES or first in below or first == [*map(str, range(len(first)))]:
        return False
    for column, cell in enumerate(first):
        cells = [row[column] for row in below if column < len(row) and row[column]]
        numbers = sum(bool(_NUMBERS.fullmatch(other)) for other in cells)
        if cell and (cell in cells or (_NUMBERS.fullmatch(cell) and cells and numbers >= 0.9 * len(cells))):
            return True
    return False


def example_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names that the columns may be given: the longest cells are texts, different ones ids, others labels."""
    columns = [[row[i] for row in rows if i < len(row)] for i in range(len(rows[0]))]
    text = max(range(len(columns)), key=lambda i: sum(map(len, columns[i])))
    different = [i for i, cells in enumerate(columns) if i != text and len(set(cells)) == len(cells) > 2]
    words = [i for i in different if not all(_NUMBERS.fullmatch(cell.strip()) for cell in columns[i])]
    ids = (words or different)[:1]
    names, used = [], {"text": 0, "id": 0, "labels": 0}
    for i in range(len(columns)):
        kind = "text" if i == text else "id" if i in ids else "labels"
        used[kind] += 1
        names.append(kind if used[kind] == 1 else f"{kind}{used[kind]}")
    if used["labels"] > 1:  # a 0/1 column for each label, say
        names = ["label1" if column == "labels" else column.replace("labels", "label") for column in names]
    return names


def check_names(name: str, names: Sequence[str]) -> None:
    """Refuse a column name that stands twice, or holds a null character.

    Args:
        name: of the file.
        names: of its columns.

    Raises:
        UserError: for the first such name.
    """
    repeated = [column for column in names if column and names.count(column) > 1]
    if repeated:
        raise UserError(f'{name} has two columns named "{quote(repeated[0])}": rename one')
    for number, column in enumerate(names, start=1):
        if "\0" in str(column):  # Arrow ends the name there
            raise UserError(f'{name}, column {number}: its name "{quote(column)}" holds a null character: rename it')
