"""Reading tables from files or the hub, whole or in chunks.

A whole file becomes a memory-mapped Arrow table through `datasets`; reading in chunks needs memory for one chunk only.
All cells of a CSV are read as text, so that an id such as `007` stays as it is and a label cell that is not 0 or 1 is
noticed.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Rows of one file or hub split, or a chunk of them.

    Args:
        rows: the rows themselves.
        name: what error messages call the file or split.
        first_row: number of the file's first row of data: 2 below a header line, as a spreadsheet counts.
        start: how many rows of the file come before this chunk.
    """

    rows: datasets.Dataset
    name: str
    first_row: int
    start: int = 0

    def where(self, row: int, column: str | None = None) -> str:
        """Name the place of a row or cell for an error message; `row` counts from 0 in this chunk."""
        place = f"{self.name}, row {self.start + row + self.first_row}"
        return place if column is None else f'{place}, column "{column}"'

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as Arrow data, without copying it out of the memory map."""
        return self.rows.with_format("arrow")[:][name] if self.rows._indices else self.rows.data.column(name)

    def strings(self, name: str) -> pa.ChunkedArray:
        """A column as strings without whitespace around them; empty for null."""
        return pc.fill_null(pc.utf8_trim_whitespace(self.column(name).cast(pa.string())), "")

    def chunk(self, start: int, rows: pa.Table) -> Table:
        """The Arrow table `rows` as the chunk of this table that begins at its row `start`."""
        dataset = datasets.Dataset(rows, info=datasets.DatasetInfo(features=self.rows.features))
        return Table(dataset, self.name, self.first_row, start)


def read_table(path: str | Path, csv_quoting: str | None = None) -> Table:
    """Read a .csv, .tsv, .txt (SemEval: tab-separated), .jsonl or .parquet file.

    Args:
        path: the file.
        csv_quoting: whether quotes enclose cells in a delimited file: `standard` (yes) or `none` (no). None: `none` for
            .txt, where a text may begin with a quote, otherwise `standard`.

    Raises:
        UserError: for a file that is missing, empty, or not of its format.
    """
    path, kind = _check_path(path)
    if kind in DELIMITERS:
        file = _DelimitedFile(path, kind, csv_quoting)
        features = datasets.Features({name: datasets.Value("string") for name in file.read_header()})
        table = Table(_load(path, "csv", features=features, **file.options), str(path), first_row=2)
        file.check_complete(table)
        file.check_swallowed_rows(table)
    else:
        table = Table(_load(path, "parquet" if kind == ".parquet" else "json"), str(path), first_row=1)
    if len(table.rows) == 0:
        raise UserError(f"{path} has no rows: add rows")
    return table


def read_chunks(
    path: str | Path, rows_per_chunk: int, csv_quoting: str | None = None, max_rows: int | None = None
) -> Iterator[Table]:
    """Read a file as `read_table` does, chunk by chunk, in memory that does not grow with the file.

    .json and .jsonl go through the memory-mapped table, because only the whole file shows the type of a column.

    Args:
        path: the file.
        rows_per_chunk: rows in each chunk; the last one may be shorter.
        csv_quoting: as in `read_table`.
        max_rows: stop after this many rows; None reads all.

    Yields:
        `Table`s, one for each chunk.

    Raises:
        UserError: as `read_table`; for a mistake in a chunk when that chunk is reached.
    """
    path, kind = _check_path(path)
    if kind in DELIMITERS:
        chunks = _delimited_chunks(_DelimitedFile(path, kind, csv_quoting), rows_per_chunk)
    elif kind == ".parquet":
        chunks = _parquet_chunks(path, rows_per_chunk)
    else:
        table = read_table(path)
        rows = table.rows.with_format("arrow")
        chunks = (
            table.chunk(start, rows[start : start + rows_per_chunk]) for start in range(0, len(rows), rows_per_chunk)
        )
    left = math.inf if max_rows is None else max_rows
    empty = True
    for chunk in chunks:
        if len(chunk.rows) > left:
            chunk.rows = chunk.rows.select(range(int(left)))
        left -= len(chunk.rows)
        empty = False
        yield chunk
        if not left:
            return
    if empty:
        raise UserError(f"{path} has no rows: add rows")


def _delimited_chunks(file: _DelimitedFile, rows_per_chunk: int) -> Iterator[Table]:
    """`read_chunks` of a .csv, .tsv or .txt file."""
    schema = pa.schema({name: pa.string() for name in file.read_header()})
    start, complete = 0, False
    try:
        with pd.read_csv(file.path, dtype=str, chunksize=rows_per_chunk, **file.options) as frames:
            for frame in frames:
                rows = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata()
                chunk = Table(datasets.Dataset(rows), str(file.path), first_row=2, start=start)
                complete = complete or file.check_complete(chunk)
                file.check_swallowed_rows(chunk)
                yield chunk
                start += len(rows)
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(_reading_problem(file.path, error)) from error


def _parquet_chunks(path: Path, rows_per_chunk: int) -> Iterator[Table]:
    """`read_chunks` of a .parquet file."""
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows_per_chunk):
                rows = pa.Table.from_batches([batch])
                yield Table(datasets.Dataset(rows), str(path), first_row=1, start=start)
                start += len(rows)
    except (pa.ArrowException, OSError) as error:
        raise UserError(_reading_problem(path, error)) from error


def _check_path(path: str | Path) -> tuple[Path, str]:
    """`(path, suffix)` of a file to read, which must exist and be of a known kind."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: it needs a header line and rows")
    kind = path.suffix.lower()
    if kind not in (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet"):
        raise UserError(f"{path}: unknown kind of file: give .csv, .tsv, .txt, .jsonl or .parquet")
    return path, kind


@dataclass
class _DelimitedFile:
    """A .csv, .tsv or .txt file, and the checks for what pandas reads differently from what was meant, silently."""

    path: Path
    kind: str  # the suffix
    csv_quoting: str | None

    @property
    def options(self) -> dict[str, Any]:
        """Options of `pandas.read_csv` for this file."""
        quoting = self.csv_quoting or ("none" if self.kind == ".txt" else "standard")
        return {
            "sep": DELIMITERS[self.kind],
            "quoting": csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
            "keep_default_na": False,
            "na_filter": False,
        }

    def read_header(self) -> list[str]:
        """Column names.

        Raises:
            UserError: for a repeated name, and a header that is shorter than the row below it.
        """
        try:
            header = list(pd.read_csv(self.path, nrows=0, **self.options).columns)
            as_written = pd.read_csv(self.path, nrows=1, header=None, **self.options).iloc[0].tolist()
            # If the header is shorter than the rows, pandas silently takes the first column as an index.
            first = pd.read_csv(self.path, nrows=1, header=None, skiprows=1, **self.options)
        except pd.errors.EmptyDataError as error:
            raise UserError(f"{self.path} has no rows below its header: add rows") from error
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise UserError(_reading_problem(self.path, error)) from error
        repeated = [name for name in as_written if name and as_written.count(name) > 1]
        if repeated:
            raise UserError(f'{self.path} has two columns named "{repeated[0]}": rename one')
        if first.shape[1] > len(header):
            raise UserError(
                f"{self.path}, row 2 has {first.shape[1]} cells, its header {len(header)}: make the numbers equal"
            )
        return header

    def check_complete(self, table: Table) -> bool:
        """Refuse rows with fewer cells than the header: pandas silently fills them up with empty ones.

        All rows of the file are checked, but only if a row in `table`, a chunk of it, has an empty last cell.

        Returns:
            whether the file was checked.

        Raises:
            UserError: for the first such row.
        """
        names = table.rows.column_names
        if not pc.any(pc.equal(table.rows.data.column(names[-1]), "")).as_py():
            return False
        csv.field_size_limit(2**31 - 1)  # texts may be longer than the default of 128 KiB
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.options["sep"], quoting=self.options["quoting"])
            for number, row in enumerate((row for row in reader if row), start=1):
                if len(row) < len(names):
                    raise UserError(
                        f"{self.path}, row {number} has {len(row)} cells, its header {len(names)}: complete the row"
                    )
        return True

    def check_swallowed_rows(self, table: Table) -> None:
        """Refuse a cell that contains the end of a row: two texts that begin with a quote are read as one cell.

        A text may contain line breaks and delimiters. Nothing is refused if the user chose the quoting.

        Raises:
            UserError: for the first such cell.
        """
        if self.kind == ".txt" or self.csv_quoting is not None:
            return
        delimiter = DELIMITERS[self.kind]
        end_of_row = re.compile(rf"(?:{delimiter}(?:0|1|NONE))+\r?\n")
        for name in table.rows.column_names:
            cells = table.rows.data.column(name)
            suspects = pc.and_(pc.match_substring(cells, "\n"), pc.match_substring(cells, delimiter))
            for row in np.flatnonzero(suspects.to_numpy()):
                cell = cells[int(row)].as_py()
                if end_of_row.search(cell) and cell.count(delimiter) >= len(table.rows.column_names) - 1:
                    raise UserError(
                        f"{table.where(int(row), name)} has swallowed the next row because it begins with a quote: "
                        "pass --csv_quoting none if quotes are ordinary characters in this file, otherwise "
                        "--csv_quoting standard"
                    )


def _load(path: Path, builder: str, **options: Any) -> datasets.Dataset:
    """Load a file with one of the builders of `datasets`: csv, json or parquet."""
    try:
        return datasets.load_dataset(builder, data_files=str(path), split="train", **options)
    except Exception as error:  # `datasets` wraps the errors of its parsers
        raise UserError(_reading_problem(path, error.__cause__ or error)) from error


def _reading_problem(path: Path, error: BaseException) -> str:
    """What is wrong with a file that a parser refuses."""
    if isinstance(error, UnicodeDecodeError):
        return f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
    if "corresponds to no data" in str(error):  # how `datasets` reports a file without rows
        return f"{path} has no rows: add rows"
    return f"{path} cannot be read: {error}"


def read_hub_split(name: str, config: str | None, revision: str | None, split: str) -> Table:
    """Read one split of a data set on the hub, or in a local folder of Parquet files.

    Args:
        name: hub name or folder.
        config: configuration of the data set; None for its default.
        revision: branch, tag or commit on the hub; None for its default.
        split: name of the split.

    Raises:
        UserError: if it cannot be loaded; the message has a remedy for data sets that are a loading script.
    """
    try:
        rows = datasets.load_dataset(name, config, revision=revision, split=split)
    except Exception as error:  # the network, the hub and builders raise many kinds
        message = f"{name}, split {split!r}, cannot be loaded: {error}"
        if "script" in str(error):
            message += " (its Parquet conversion may load: --dataset_revision refs/convert/parquet)"
        raise UserError(message) from error
    return Table(rows, f"{name}/{split}", first_row=1)
