"""Reading tables from files or the hub.

Files become memory-mapped Arrow tables through `datasets`. All cells of a CSV are read as text, so that an id such as
`007` stays what it is and a label cell that is not 0 or 1 is seen.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from utils.errors import UserError


@dataclass
class Table:
    """Rows of one file or hub split, and what a person calls them."""

    rows: datasets.Dataset
    name: str
    first_row: int  # 2 for files with a header line, as a spreadsheet counts

    def where(self, row, column=None):
        """The place of a cell in words, for error messages."""
        place = f"{self.name}, row {row + self.first_row}"
        return place if column is None else f'{place}, column "{column}"'

    def column(self, name):
        """A column as a pyarrow ChunkedArray, without copying it out of the memory map."""
        return self.rows.with_format("arrow")[:][name] if self.rows._indices else self.rows.data.column(name)

    def strings(self, name):
        """A column as a ChunkedArray of strings, empty for null, without blanks at the ends."""
        return pc.fill_null(pc.utf8_trim_whitespace(self.column(name).cast(pa.string())), "")


def read_table(path, csv_quoting=None):
    """Read a .csv, .tsv, .txt (SemEval: tab-separated), .jsonl or .parquet file.

    Args:
        path: the file.
        csv_quoting: `standard` or `none`: whether quotes in delimited files enclose cells. Left out: `none` for .txt,
            whose texts may begin with a quote, else `standard`.

    Raises:
        UserError: for a file that is missing, empty, or not of its format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: it needs a header line and rows")
    kind = path.suffix.lower()
    header_rows = 1
    if kind in (".csv", ".tsv", ".txt"):
        rows = _read_delimited(path, "," if kind == ".csv" else "\t", csv_quoting or _default_quoting(kind))
        if kind != ".txt" and csv_quoting is None:
            _check_swallowed_rows(rows, path, "," if kind == ".csv" else "\t")
    elif kind in (".jsonl", ".ndjson", ".json"):
        rows, header_rows = _load(path, "json"), 0
    elif kind == ".parquet":
        rows, header_rows = _load(path, "parquet"), 0
    else:
        raise UserError(f"{path}: unknown kind of file: give .csv, .tsv, .txt, .jsonl or .parquet")
    if len(rows) == 0:
        raise UserError(f"{path} has no rows: add rows")
    return Table(rows, str(path), first_row=1 + header_rows)


def _default_quoting(kind):
    return "none" if kind == ".txt" else "standard"


def _read_delimited(path, delimiter, quoting):
    options = {
        "sep": delimiter,
        "quoting": csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
        "keep_default_na": False,
        "na_filter": False,
    }
    try:
        header = list(pd.read_csv(path, nrows=0, **options).columns)
        named = pd.read_csv(path, nrows=1, header=None, **options).iloc[0].tolist()
        # A first line that is shorter than the rows makes pandas take the first column for an index, without a word.
        first = pd.read_csv(path, nrows=1, header=None, skiprows=1, **options)
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path} has no rows below its header: add rows") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(_reading_problem(path, error)) from error
    twice = [name for name in named if name and named.count(name) > 1]
    if twice:
        raise UserError(f'{path} has two columns named "{twice[0]}": rename one')
    if first.shape[1] > len(header):
        raise UserError(f"{path}, row 2 has {first.shape[1]} cells, its header {len(header)}: make them the same")
    features = datasets.Features({name: datasets.Value("string") for name in header})
    rows = _load(path, "csv", features=features, **options)
    if pc.any(pc.equal(rows.data.column(header[-1]), "")).as_py():
        _check_short_rows(path, options["sep"], options["quoting"], len(header))
    return rows


def _check_short_rows(path, delimiter, quoting, cells):
    """Refuse a row with fewer cells than the header has: pandas fills it up with empty ones, without a word."""
    csv.field_size_limit(2**31 - 1)  # texts may be longer than the 128 KiB it allows
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file, delimiter=delimiter, quoting=quoting) if row)
        for number, row in enumerate(rows, start=1):
            if len(row) < cells:
                raise UserError(f"{path}, row {number} has {len(row)} cells, its header {cells}: complete the row")


def _check_swallowed_rows(rows, path, delimiter):
    """Two texts that begin with a quote are read as one cell, with line breaks and delimiters: refuse that.

    A text may well have several lines and commas; one with the end of a row in it has not.
    """
    end_of_row = re.compile(rf"(?:{delimiter}(?:0|1|NONE))+\r?\n")
    for name in rows.column_names:
        cells = rows.data.column(name)
        suspects = pc.and_(pc.match_substring(cells, "\n"), pc.match_substring(cells, delimiter))
        for row in np.flatnonzero(suspects.to_numpy()):
            cell = cells[int(row)].as_py()
            if end_of_row.search(cell) and cell.count(delimiter) >= len(rows.column_names) - 1:
                raise UserError(
                    f'{path}, row {row + 2}, column "{name}" has swallowed the row after it, as it begins with a '
                    "quote: pass --csv_quoting none if quotes are ordinary characters in this file, else standard"
                )


def _load(path, builder, **options):
    try:
        return datasets.load_dataset(builder, data_files=str(path), split="train", **options)
    except Exception as error:  # `datasets` wraps whatever the parsers raise
        raise UserError(_reading_problem(path, error.__cause__ or error)) from error


def _reading_problem(path, error):
    if isinstance(error, UnicodeDecodeError):
        return f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
    if "corresponds to no data" in str(error):  # what `datasets` says of a file without rows
        return f"{path} has no rows: add rows"
    return f"{path} cannot be read: {error}"


def read_hub_split(name, config, revision, split):
    """Read one split of a data set of the hub, or of a local folder of Parquet files.

    Raises:
        UserError: where it cannot be loaded, with the remedy for data sets that are a script.
    """
    try:
        rows = datasets.load_dataset(name, config, revision=revision, split=split)
    except Exception as error:  # network, hub and builder errors of many kinds
        message = f"{name}, split {split!r}, cannot be loaded: {error}"
        if "script" in str(error):
            message += " (its Parquet conversion may load: --dataset_revision refs/convert/parquet)"
        raise UserError(message) from error
    return Table(rows, f"{name}/{split}", first_row=1)
