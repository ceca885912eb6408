"""Tables in .csv, .tsv and .txt files, and checks for what pandas reads differently from what was meant, silently."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.data.headers import Header, Layout, check_names, find_header
from utils.data.sources import Source, not_utf8

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
OTHER_SEPARATORS = (",", ";", "\t", "|")
SHOWN = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a |"}
# A sample of the file says what separates its cells and whether it has a header.
SAMPLE_CHARACTERS, SAMPLE_ROWS = 2**18, 1000
_TEXT_BEHIND_QUOTE = re.compile(r'(?:^|\t)"[^"\t\r\n]+"[^"\t\r\n]', re.MULTILINE)
UNREADABLE = (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError, OverflowError)


@dataclass
class DelimitedFile:
    """A .csv, .tsv or .txt file.

    Args:
        source: the file.
        layout: what the user says of it.
        separator: between cells.
        quoting: whether quotes enclose cells, as the csv module has it.
        header: names of the columns.
        remarks: what to say of how the file is read.
        known: what is known of the cells of columns, as far as it was asked for.
        closed: whether each quote that closes a cell is known to be followed by the next one.
    """

    source: Source
    layout: Layout
    separator: str
    quoting: Literal[0, 3]
    header: Header
    remarks: list[str] = field(default_factory=list)
    known: dict[tuple[int, str], tuple[set[str], bool]] = field(default_factory=dict)
    closed: bool = False

    @classmethod
    def open(cls, source: Source, layout: Layout) -> DelimitedFile:
        """Find out what separates the cells of a file, and what its columns are called.

        Raises:
            UserError: for a file without rows or without a header, a repeated name, or a row 2 with too many cells.
        """
        sample = _read_sample(source)
        separator = layout.separator or _find_separator(sample, source.kind, layout)
        quoting = _quoting(source.kind, separator, layout)
        ordinary = quoting != csv.QUOTE_NONE and layout.quoting is None and _quotes_are_ordinary(sample, separator)
        quoting = csv.QUOTE_NONE if ordinary else quoting
        rows = _split(sample, separator, quoting, SAMPLE_ROWS)
        file = cls(source, layout, separator, quoting, Header([], in_file=True))
        if separator != SEPARATORS[source.kind] and not layout.separator:
            file.remarks.append(f"{source.name}: its cells are separated by {SHOWN[separator]}")
        if ordinary:
            file.remarks.append(
                f"{source.name}: quotes are ordinary characters, as words stand behind closing ones "
                "(--csv_quoting standard: they enclose cells)"
            )
        if not rows or not any(cell.strip() for row in rows for cell in row):
            raise UserError(f"{source.name} has no rows: add rows")
        file.header = find_header(source.name, rows, layout)
        if file.header.in_file:
            file.header.names = file._read_names()
        check_names(source.name, file.header.names)
        return file

    @property
    def options(self) -> dict[str, Any]:
        """Options of `pandas.read_csv` for this file."""
        return {"sep": self.separator, "quoting": self.quoting, "keep_default_na": False, "na_filter": False}

    def _read_names(self) -> list[str]:
        """The names in the first row, as pandas reads them.

        Raises:
            UserError: for a repeated name, and a header that is shorter than the row below it.
        """
        path, name = self.source.path, self.source.name
        try:
            header = list(pd.read_csv(path, nrows=0, **self.options).columns)
            as_written = pd.read_csv(path, nrows=1, header=None, **self.options).iloc[0].tolist()
            # If the header is shorter than the rows, pandas silently takes the first column as an index.
            first = pd.read_csv(path, nrows=1, header=None, skiprows=1, **self.options)
        except pd.errors.EmptyDataError as error:
            raise UserError(f"{name} has no rows below its header: add rows") from error
        except UNREADABLE as error:
            raise UserError(reading_problem(self.source, error)) from error
        check_names(name, as_written)
        if first.shape[1] > len(header):
            raise UserError(
                f"{name}, row 2 has {first.shape[1]} cells, its header {len(header)}: make the numbers equal"
            )
        return header

    def chunks(self, rows_per_chunk: int) -> Iterator[pa.Table]:
        """The rows in parts, every cell a text; the last part may be shorter.

        Raises:
            UserError: for rows that cannot be read, or that pandas would read differently from what was meant.
        """
        names = self.header.names
        schema = pa.schema({name: pa.string() for name in names})
        columns: dict[str, Any] = {} if self.header.in_file else {"header": None, "names": names}
        start, complete = 0, False
        try:
            options = {**self.options, **columns}
            with pd.read_csv(self.source.path, dtype=str, chunksize=rows_per_chunk, **options) as frames:
                for frame in frames:
                    rows = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata()
                    complete = complete or self._check_complete(rows)
                    self._check_swallowed_rows(rows, start)
                    yield rows
                    start += len(rows)
        except UNREADABLE as error:
            raise UserError(reading_problem(self.source, error)) from error

    def _where(self, row: int, column: str) -> str:
        return f'{self.source.name}, row {row + self.header.first_row}, column "{column}"'

    def _check_complete(self, rows: pa.Table) -> bool:
        """Refuse rows with fewer cells than there are columns: pandas silently fills them up with empty ones.

        All rows of the file are checked, but only if a row in `rows`, a part of it, has an empty last cell.

        Returns:
            whether the file was checked.

        Raises:
            UserError: for the first such row.
        """
        names = self.header.names
        if not pc.any(pc.equal(rows.column(names[-1]), "")).as_py():
            return False
        csv.field_size_limit(2**31 - 1)  # texts may be longer than the default of 128 KiB
        with open(self.source.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.separator, quoting=self.quoting)
            for number, row in enumerate((row for row in reader if row), start=1):
                if len(row) < len(names):
                    whose = "its header" if self.header.in_file else "--column_names"
                    raise UserError(
                        f"{self.source.name}, row {number} has {len(row)} cells, {whose} {len(names)}: complete the row"
                    )
        return True

    def _check_swallowed_rows(self, rows: pa.Table, start: int) -> None:
        """Refuse a cell that contains the end of a row: two texts that begin with a quote are read as one cell.

        A text may contain line breaks and separators. Nothing is refused if the user chose the quoting.

        Args:
            rows: a part of the file.
            start: rows of the file before it.

        Raises:
            UserError: for the first such cell.
        """
        if self.quoting == csv.QUOTE_NONE or self.layout.quoting is not None:
            return
        names = self.header.names
        for column, name in enumerate(names):
            cells = rows.column(name)
            suspects = pc.and_(pc.match_substring_regex(cells, "[\r\n]"), pc.match_substring(cells, self.separator))
            for row in np.flatnonzero(suspects.to_numpy()):
                self._check_closing_quotes()
                swallowed = self._swallowed_cells(cells[int(row)].as_py(), column, len(names))
                fits = [self._fit(rows, start, names[i], text) for i, text in swallowed]
                if all(fits) and "surely" in fits:
                    raise UserError(
                        f"{self._where(start + int(row), name)} has swallowed the next row because it begins with a "
                        "quote: pass --csv_quoting none if quotes are ordinary characters in this file, otherwise "
                        "--csv_quoting standard"
                    )

    def _check_closing_quotes(self) -> None:
        """Refuse words behind the quote that closes a cell, which no program writes, where cells have several lines.

        Raises:
            UserError: for the first such cell of the whole file, which is read once.
        """
        if self.closed:
            return
        csv.field_size_limit(2**31 - 1)
        with open(self.source.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.separator, strict=True)
            number = 0
            try:
                for row in reader:
                    number += bool(row)
            except csv.Error:
                raise UserError(
                    f"{self.source.name}, row {number + 1}: words stand behind the quote that closes a cell of several "
                    "lines, which may have swallowed rows: pass --csv_quoting none if quotes are ordinary characters "
                    "in this file, otherwise --csv_quoting standard"
                ) from None
        self.closed = True

    def _swallowed_cells(self, cell: str, column: int, columns: int) -> list[tuple[int, str]]:
        """What stands in a cell with line breaks where, if it had swallowed rows, the end of its own row and the
        beginning of the last one would stand: `(column, text)` of each, without the text of the column itself."""
        first, *inner, last = re.split(r"\r\n|\r|\n", cell)
        after, before = first.split(self.separator), last.split(self.separator)
        short = len(after) < columns - column or len(before) < column + 1
        if columns == 1 or short or any(line.count(self.separator) < columns - 1 for line in inner if line):
            return []
        # A cell that has swallowed a row holds the quote that began the other one, or several cells of theirs.
        if '"' not in cell and columns < 3:
            return []
        ends = [(column + 1 + i, text) for i, text in enumerate(after[len(after) - (columns - column - 1) :])]
        return [*enumerate(before[:column]), *ends]

    def _fit(self, rows: pa.Table, start: int, name: str, text: str) -> str:
        """Whether a text could be a cell of a column: `surely`, `perhaps`, or not (empty).

        In a column of few values it must be one of them. Elsewhere only shapes are compared: those of numbers and
        ids tell something, while nearly any word looks like another.
        """
        if (start, name) not in self.known:
            cells = [_bare(cell) for cell in rows.column(name).to_pylist()]
            few = len(cells) >= 4 and len(set(cells)) <= len(cells) / 2
            self.known[start, name] = set(cells) if few else set(map(_shape, cells)), few
        known, few = self.known[start, name]
        if few:
            return "surely" if _bare(text) in known else ""
        shape = _shape(text)
        return "" if shape not in known else "surely" if "0" in shape and " " not in shape else "perhaps"


def _bare(text: str) -> str:
    return text.strip().strip('"')


def _shape(text: str) -> str:
    """A text with its runs of digits as one, and of letters as another: `tweet-0017` and `tweet-3` have one shape."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", _bare(text)))[:200]


def _quoting(kind: str, separator: str, layout: Layout) -> Literal[0, 3]:
    """Whether quotes enclose cells, as the csv module has it."""
    quoting = layout.quoting or ("none" if kind == ".txt" and separator == "\t" else "standard")
    return csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL


def _quotes_are_ordinary(sample: str, separator: str) -> bool:
    """Whether no quote encloses a cell of a tab-separated file: words stand behind a closing one, which no program
    writes that encloses cells, and each line is a row."""
    if separator != "\t" or not _TEXT_BEHIND_QUOTE.search(sample):
        return False
    return _agree([len(row) for row in _split(sample, separator, csv.QUOTE_NONE, SAMPLE_ROWS)], None)


def _read_sample(source: Source) -> str:
    """The beginning of a file, as whole lines; what is no text in it is replaced."""
    try:
        with open(source.path, encoding="utf-8-sig", errors="replace", newline="") as file:
            sample = file.read(SAMPLE_CHARACTERS)
            if file.read(1):
                sample = sample[: max(sample.rfind("\n"), sample.rfind("\r")) + 1] or sample
    except OSError as error:
        raise UserError(f"{source.name} cannot be read: {error.strerror}") from error
    return sample


def _split(sample: str, separator: str, quoting: int, most: int) -> list[list[str]]:
    """The first rows of a sample, without blank lines."""
    csv.field_size_limit(2**31 - 1)
    rows = []
    try:
        for row in csv.reader(sample.splitlines(keepends=True), delimiter=separator, quoting=quoting):  # ty: ignore
            if row:
                rows.append(row)
            if len(rows) == most:
                break
    except csv.Error:  # what is wrong is told by pandas, which reads the whole file
        pass
    return rows


def _find_separator(sample: str, kind: str, layout: Layout) -> str:
    """What separates the cells: what the file's name says, unless its rows agree on another only."""
    own = SEPARATORS[kind]
    wanted = len(layout.column_names) if layout.column_names and not layout.optional_names else 0
    wanted = wanted if wanted > 1 else None  # any sign divides a line into one cell
    widths = {}
    for separator in {own: None} | dict.fromkeys(OTHER_SEPARATORS):
        rows = _split(sample, separator, _quoting(kind, separator, layout), SAMPLE_ROWS)
        widths[separator] = [len(row) for row in rows]
    if not widths[own] or _agree(widths[own], wanted):
        return own
    others = [separator for separator in OTHER_SEPARATORS if separator != own and _agree(widths[separator], wanted)]
    if widths[own][0] == 1:  # the first row has no such separator: rather one that some row disagrees on
        others = others or [separator for separator in OTHER_SEPARATORS if widths[separator][:1] > [1]]
    return max(others, key=lambda separator: widths[separator][0], default=own)


def _agree(widths: Sequence[int], wanted: int | None) -> bool:
    """Whether rows have the same number of cells, two or more, or as many as are wanted."""
    return len(set(widths)) == 1 and (widths[0] > 1 if wanted is None else widths[0] == wanted)


def reading_problem(source: Source, error: BaseException) -> str:
    """What is wrong with a file that a parser refuses, given what the parser says."""
    name = source.name
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(name, source.path)
    unbalanced = re.search(r"EOF inside string starting at row (\d+)", str(error))
    if unbalanced:  # pandas counts from 0
        return (
            f"{name}, row {int(unbalanced[1]) + 1}: a cell begins with a quote that is never closed, and would swallow "
            "the rows below: close it, or pass --csv_quoting none if quotes are ordinary characters in this file"
        )
    return f"{name} cannot be read: {error}"
