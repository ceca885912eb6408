"""Reading tables from files or the hub, whole or in chunks.

A whole file becomes a memory-mapped Arrow table in the cache of `datasets`, under the hash of its content; reading in
chunks needs memory for one chunk only. All cells are read as text, also those of JSON, so that an id such as `007`
stays as it is and a label cell that is not 0 or 1 is noticed.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.shown import join_names
from utils.data import json_tables

ROWS_AT_A_TIME = 10_000
UNREADABLE = (pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError, OverflowError)
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass
class Table:
    """Rows of one file or hub split, or a chunk of them.

    Args:
        rows: the rows themselves.
        name: what error messages call the file or split.
        first_row: number of the file's first row of data: 2 below a header line, as a spreadsheet counts.
        start: how many rows of the file come before this chunk.
        unknown_labels: whether label cells may be blank or -1, for not annotated.
    """

    rows: datasets.Dataset
    name: str
    first_row: int
    start: int = 0
    unknown_labels: bool = False

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

    def require(self, name: str, role: str) -> None:
        """Refuse a table without the column `name`, which was the `role` column in training."""
        if name not in self.rows.column_names:
            raise UserError(
                f'{self.name} has no column "{name}", the {role} column in training; it has: '
                f"{join_names(self.rows.column_names)}"
            )

    def chunk(self, start: int, rows: pa.Table) -> Table:
        """The Arrow table `rows` as the chunk of this table that begins at its row `start`."""
        dataset = datasets.Dataset(rows, info=datasets.DatasetInfo(features=self.rows.features))
        return replace(self, rows=dataset, start=start)


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
    # Not under its name and time: a file may be written anew within a tick of the clock, with as many bytes.
    key = _content_key(path, kind, csv_quoting)
    cached = Path(datasets.config.HF_DATASETS_CACHE) / "tables" / key / "table.arrow"
    rows = _open_cached(cached, key)
    if rows is None:
        with atomic_path(cached) as temporary:
            _write_arrow(temporary, _chunks(path, kind, csv_quoting, ROWS_AT_A_TIME))
        rows = _open_cached(cached, key)
    if rows is None:
        raise UserError(f"{cached}, the cached copy of {path}, cannot be read: delete it")
    return Table(rows, str(path), first_row=2 if kind in DELIMITERS else 1)


def _content_key(path: Path, kind: str, csv_quoting: str | None) -> str:
    """Name of a file in the cache: hash of its content, how it is read, and by which code."""
    digest = hashlib.sha256(f"{kind} {csv_quoting} ".encode())
    for module in (__file__, json_tables.__file__):
        digest.update(Path(str(module)).read_bytes())
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:32]


def _open_cached(cached: Path, key: str) -> datasets.Dataset | None:
    """The cached rows, memory-mapped; None where there are none, or they are damaged."""
    try:
        return datasets.Dataset(datasets.table.MemoryMappedTable.from_file(str(cached)), fingerprint=key)
    except (OSError, pa.ArrowException):
        return None


def _write_arrow(path: Path, chunks: Iterator[Table]) -> None:
    """Write chunks of a file as one Arrow stream, as `datasets` maps it."""
    first = next(chunks)
    schema = first.rows.data.schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for chunk in chain([first], chunks):
            writer.write_table(chunk.rows.data.table.cast(schema))


def read_chunks(
    path: str | Path, rows_per_chunk: int, csv_quoting: str | None = None, max_rows: int | None = None
) -> Iterator[Table]:
    """Read a file as `read_table` does, chunk by chunk, in memory that does not grow with the file.

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
    left = math.inf if max_rows is None else max_rows
    for chunk in _chunks(path, kind, csv_quoting, rows_per_chunk):
        if len(chunk.rows) > left:
            chunk.rows = chunk.rows.select(range(int(left)))
        left -= len(chunk.rows)
        yield chunk
        if not left:
            return


def _chunks(path: Path, kind: str, csv_quoting: str | None, rows_per_chunk: int) -> Iterator[Table]:
    """The chunks of a file with rows.

    Raises:
        UserError: as `read_table`.
    """
    if kind in DELIMITERS:
        chunks = _delimited_chunks(_DelimitedFile(path, kind, csv_quoting), rows_per_chunk)
    elif kind == ".parquet":
        chunks = _parquet_chunks(path, rows_per_chunk)
    else:
        chunks = _json_chunks(path, rows_per_chunk)
    empty = True
    for chunk in chunks:
        empty = False
        yield chunk
    if empty:
        raise UserError(f"{path} has no rows: add rows")


def _json_chunks(path: Path, rows_per_chunk: int) -> Iterator[Table]:
    """`read_chunks` of a .json or .jsonl file."""
    start = 0
    for rows in json_tables.json_chunks(path, rows_per_chunk):
        yield Table(datasets.Dataset(rows), str(path), first_row=1, start=start)
        start += len(rows)


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
    except UNREADABLE as error:
        raise UserError(_reading_problem(file.path, error)) from error


def _parquet_chunks(path: Path, rows_per_chunk: int) -> Iterator[Table]:
    """`read_chunks` of a .parquet file."""
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows_per_chunk):
                rows = _plain_columns(pa.Table.from_batches([batch]))
                yield Table(datasets.Dataset(rows), str(path), first_row=1, start=start)
                start += len(rows)
    except (pa.ArrowException, OSError) as error:
        raise UserError(_reading_problem(path, error)) from error


def _plain_columns(rows: pa.Table) -> pa.Table:
    """Rows with the values of columns that Parquet keeps as codes (pandas' categories) in their place."""
    for i, column in enumerate(rows.schema):
        if pa.types.is_dictionary(column.type):
            rows = rows.set_column(i, column.name, rows.column(i).cast(column.type.value_type))
    return rows.replace_schema_metadata()


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
    known: dict[tuple[int, str], tuple[set[str], bool]] = field(default_factory=dict)

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
        except UNREADABLE as error:
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
        delimiter, names = DELIMITERS[self.kind], table.rows.column_names
        for column, name in enumerate(names):
            cells = table.rows.data.column(name)
            suspects = pc.and_(pc.match_substring_regex(cells, "[\r\n]"), pc.match_substring(cells, delimiter))
            for row in np.flatnonzero(suspects.to_numpy()):
                swallowed = self._swallowed_cells(cells[int(row)].as_py(), column, len(names))
                fits = [self._fit(table, names[i], text) for i, text in swallowed]
                if all(fits) and "surely" in fits:
                    raise UserError(
                        f"{table.where(int(row), name)} has swallowed the next row because it begins with a quote: "
                        "pass --csv_quoting none if quotes are ordinary characters in this file, otherwise "
                        "--csv_quoting standard"
                    )

    def _swallowed_cells(self, cell: str, column: int, columns: int) -> list[tuple[int, str]]:
        """What stands in a cell with line breaks where, if it had swallowed rows, the end of its own row and the
        beginning of the last one would stand: `(column, text)` of each, without the text of the column itself."""
        delimiter = DELIMITERS[self.kind]
        first, *inner, last = re.split(r"\r\n|\r|\n", cell)
        after, before = first.split(delimiter), last.split(delimiter)
        short = len(after) < columns - column or len(before) < column + 1
        if columns == 1 or short or any(line.count(delimiter) < columns - 1 for line in inner if line):
            return []
        # A cell that has swallowed a row holds the quote that began the other one, or several cells of theirs.
        if '"' not in cell and columns < 3:
            return []
        ends = [(column + 1 + i, text) for i, text in enumerate(after[len(after) - (columns - column - 1) :])]
        return [*enumerate(before[:column]), *ends]

    def _fit(self, table: Table, name: str, text: str) -> str:
        """Whether a text could be a cell of a column: `surely`, `perhaps`, or not (empty).

        In a column of few values it must be one of them. Elsewhere only shapes are compared: those of numbers and
        ids tell something, while nearly any word looks like another.
        """
        if (table.start, name) not in self.known:
            cells = [_bare(cell) for cell in table.rows.data.column(name).to_pylist()]
            few = len(cells) >= 4 and len(set(cells)) <= len(cells) / 2
            self.known[table.start, name] = set(cells) if few else set(map(_shape, cells)), few
        known, few = self.known[table.start, name]
        if few:
            return "surely" if _bare(text) in known else ""
        shape = _shape(text)
        return "" if shape not in known else "surely" if "0" in shape and " " not in shape else "perhaps"


def _bare(text: str) -> str:
    return text.strip().strip('"')


def _shape(text: str) -> str:
    """A text with its runs of digits as one, and of letters as another: `tweet-0017` and `tweet-3` have one shape."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", _bare(text)))[:200]


def _reading_problem(path: Path, error: BaseException) -> str:
    """What is wrong with a file that a parser refuses."""
    if isinstance(error, UnicodeDecodeError):
        return f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
    unbalanced = re.search(r"EOF inside string starting at row (\d+)", str(error))
    if unbalanced:  # pandas counts from 0
        return (
            f"{path}, row {int(unbalanced[1]) + 1}: a cell begins with a quote that is never closed, and would swallow "
            "the rows below: close it, or pass --csv_quoting none if quotes are ordinary characters in this file"
        )
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
