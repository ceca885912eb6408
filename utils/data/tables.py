"""Reading tables from files or the hub, whole or in chunks.

A whole file becomes a memory-mapped Arrow table through `datasets`; in chunks it is read in memory that does not grow
with it. All cells of a CSV are read as text, so that an id such as `007` stays what it is and a label cell that is not
0 or 1 is seen.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from utils.core.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass
class Table:
    """Rows of one file or hub split, or a chunk of them, and what a person calls them."""

    rows: datasets.Dataset
    name: str
    first_row: int  # number of the file's first row of data: 2 below a header line, as a spreadsheet counts
    start: int = 0  # how many rows of the file come before this chunk

    def where(self, row, column=None):
        """The place of a cell in words, for error messages; `row` counts from 0 in this chunk."""
        place = f"{self.name}, row {self.start + row + self.first_row}"
        return place if column is None else f'{place}, column "{column}"'

    def column(self, name):
        """A column as a pyarrow ChunkedArray, without copying it out of the memory map."""
        return self.rows.with_format("arrow")[:][name] if self.rows._indices else self.rows.data.column(name)

    def strings(self, name):
        """A column as a ChunkedArray of strings, empty for null, without blanks at the ends."""
        return pc.fill_null(pc.utf8_trim_whitespace(self.column(name).cast(pa.string())), "")

    def chunk(self, start, rows):
        """The Arrow table `rows` as the chunk of this table that begins at its row `start`."""
        dataset = datasets.Dataset(rows, info=datasets.DatasetInfo(features=self.rows.features))
        return Table(dataset, self.name, self.first_row, start)


def read_table(path, csv_quoting=None):
    """Read a .csv, .tsv, .txt (SemEval: tab-separated), .jsonl or .parquet file.

    Args:
        path: the file.
        csv_quoting: `standard` or `none`: whether quotes in delimited files enclose cells. Left out: `none` for .txt,
            whose texts may begin with a quote, else `standard`.

    Raises:
        UserError: for a file that is missing, empty, or not of its format.
    """
    path, kind = _check_path(path)
    header_rows = 1
    if kind in DELIMITERS:
        options = _delimited_options(kind, csv_quoting)
        features = datasets.Features({name: datasets.Value("string") for name in _read_header(path, options)})
        rows = _load(path, "csv", features=features, **options)
        _check_cells(Table(rows, str(path), first_row=2), path, kind, csv_quoting)
    else:
        rows, header_rows = _load(path, "parquet" if kind == ".parquet" else "json"), 0
    if len(rows) == 0:
        raise UserError(f"{path} has no rows: add rows")
    return Table(rows, str(path), first_row=1 + header_rows)


def read_chunks(path, rows_per_chunk, csv_quoting=None, max_rows=None):
    """Read a file as `read_table` does, chunk by chunk, in memory that does not grow with the file.

    .json and .jsonl alone go through the memory-mapped table: the type of a column shows only when all of it is read.

    Yields:
        `Table`s of `rows_per_chunk` rows, the last one shorter; with `max_rows` of the first so many rows only.

    Raises:
        UserError: as `read_table`, and for a chunk with a mistake when that chunk is reached.
    """
    path, kind = _check_path(path)
    if kind in DELIMITERS:
        parts = _delimited_parts(path, kind, rows_per_chunk, csv_quoting)
    elif kind == ".parquet":
        parts = _parquet_parts(path, rows_per_chunk)
    else:
        table = read_table(path)
        rows = table.rows.with_format("arrow")
        parts = (
            table.chunk(start, rows[start : start + rows_per_chunk]) for start in range(0, len(rows), rows_per_chunk)
        )
    left = math.inf if max_rows is None else max_rows
    empty = True
    for part in parts:
        if len(part.rows) > left:
            part.rows = part.rows.select(range(left))
        left -= len(part.rows)
        empty = False
        yield part
        if not left:
            return
    if empty:
        raise UserError(f"{path} has no rows: add rows")


def _delimited_parts(path, kind, rows_per_chunk, csv_quoting):
    options = _delimited_options(kind, csv_quoting)
    names = _read_header(path, options)
    schema = pa.schema({name: pa.string() for name in names})
    start, complete = 0, False
    try:
        with pd.read_csv(path, dtype=str, chunksize=rows_per_chunk, **options) as frames:
            for frame in frames:
                rows = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata()
                part = Table(datasets.Dataset(rows), str(path), first_row=2, start=start)
                # Looking for short rows reads the whole file: once is enough.
                complete = _check_cells(part, path, kind, csv_quoting, complete)
                yield part
                start += len(rows)
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(_reading_problem(path, error)) from error


def _parquet_parts(path, rows_per_chunk):
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows_per_chunk):
                rows = pa.Table.from_batches([batch])
                yield Table(datasets.Dataset(rows), str(path), first_row=1, start=start)
                start += len(rows)
    except (pa.ArrowException, OSError) as error:
        raise UserError(_reading_problem(path, error)) from error


def _check_path(path):
    """`(path, suffix)` of a file to read."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: it needs a header line and rows")
    kind = path.suffix.lower()
    if kind not in (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet"):
        raise UserError(f"{path}: unknown kind of file: give .csv, .tsv, .txt, .jsonl or .parquet")
    return path, kind


def _delimited_options(kind, csv_quoting):
    """Options of `pandas.read_csv` for a delimited file of this kind."""
    quoting = csv_quoting or ("none" if kind == ".txt" else "standard")
    return {
        "sep": DELIMITERS[kind],
        "quoting": csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
        "keep_default_na": False,
        "na_filter": False,
    }


def _read_header(path, options):
    """Column names of a delimited file.

    Raises:
        UserError: for a name that stands twice, and a header that is shorter than the row below it.
    """
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
    return header


def _check_cells(table, path, kind, csv_quoting, complete=False):
    """Refuse rows of a delimited file that pandas reads as something else, without a word.

    Returns:
        whether the rows of the file are known to be complete, which is not checked again when `complete` says so.
    """
    names = table.rows.column_names
    if not complete and pc.any(pc.equal(table.rows.data.column(names[-1]), "")).as_py():
        options = _delimited_options(kind, csv_quoting)
        _check_short_rows(path, options["sep"], options["quoting"], len(names))
        complete = True
    if kind != ".txt" and csv_quoting is None:
        _check_swallowed_rows(table, DELIMITERS[kind])
    return complete


def _check_short_rows(path, delimiter, quoting, cells):
    """Refuse a row with fewer cells than the header has: pandas fills it up with empty ones, without a word."""
    csv.field_size_limit(2**31 - 1)  # texts may be longer than the 128 KiB it allows
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file, delimiter=delimiter, quoting=quoting) if row)
        for number, row in enumerate(rows, start=1):
            if len(row) < cells:
                raise UserError(f"{path}, row {number} has {len(row)} cells, its header {cells}: complete the row")


def _check_swallowed_rows(table, delimiter):
    """Two texts that begin with a quote are read as one cell, with line breaks and delimiters: refuse that.

    A text may well have several lines and commas; one with the end of a row in it has not.
    """
    end_of_row = re.compile(rf"(?:{delimiter}(?:0|1|NONE))+\r?\n")
    for name in table.rows.column_names:
        cells = table.rows.data.column(name)
        suspects = pc.and_(pc.match_substring(cells, "\n"), pc.match_substring(cells, delimiter))
        for row in np.flatnonzero(suspects.to_numpy()):
            cell = cells[int(row)].as_py()
            if end_of_row.search(cell) and cell.count(delimiter) >= len(table.rows.column_names) - 1:
                raise UserError(
                    f"{table.where(int(row), name)} has swallowed the row after it, as it begins with a "
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
