"""Reading tables from files or the hub, whole or in chunks.

A whole file becomes a memory-mapped Arrow table in the cache of `datasets`, under the hash of its content; reading in
chunks needs memory for one chunk only. All cells are read as text, also those of JSON, so that an id such as `007`
stays as it is and a label cell that is not 0 or 1 is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.shown import join_names
from utils.data import delimited, excel, json_tables
from utils.data.delimited import SEPARATORS, DelimitedFile
from utils.data.excel import Workbook
from utils.data.headers import NESTED, Layout, check_names
from utils.data.sources import Source, content_hash, open_source

ROWS_AT_A_TIME = 10_000


@dataclass
class Table:
    """Rows of one file or hub split, or a chunk of them.

    Args:
        rows: the rows themselves.
        name: what error messages call the file or split.
        first_row: number of the file's first row of data: 2 below a header line, as a spreadsheet counts.
        start: how many rows of the file come before this chunk.
        unknown_labels: whether label cells may be blank or -1, for not annotated.
        soft_labels: whether they may be shares between 0 and 1.
    """

    rows: datasets.Dataset
    name: str
    first_row: int
    start: int = 0
    unknown_labels: bool = False
    soft_labels: bool = False

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

    @property
    def nested(self) -> list[str]:
        """Names of the columns that are parts of objects, as `data.text`."""
        return [field.name for field in self.rows.data.schema if NESTED.items() <= (field.metadata or {}).items()]

    def find(self, name: str) -> str | None:
        """The column called `name`, or the only one that differs from it in case or blanks alone, or else the only
        part of an object that is called so, as `joy` in `labels.joy`; None for none."""
        names, wanted = self.rows.column_names, name.strip().lower()
        if name in names:
            return name
        alike = [other for other in names if other.strip().lower() == wanted]
        alike = alike or [other for other in self.nested if other.rsplit(".", 1)[-1].strip().lower() == wanted]
        return alike[0] if len(alike) == 1 else None

    def require(self, name: str, role: str) -> str:
        """The column that was the `role` column `name` in training; see `find`.

        Raises:
            UserError: where there is none.
        """
        found = self.find(name)
        if found is None:
            raise UserError(
                f'{self.name} has no column "{name}", the {role} column in training; it has: '
                f"{join_names(self.rows.column_names)}"
            )
        return found

    def chunk(self, start: int, rows: pa.Table) -> Table:
        """The Arrow table `rows` as the chunk of this table that begins at its row `start`."""
        dataset = datasets.Dataset(rows, info=datasets.DatasetInfo(features=self.rows.features))
        return replace(self, rows=dataset, start=start)


def read_table(path: str | Path, layout: Layout | None = None) -> Table:
    """Read a .csv, .tsv, .txt (SemEval: tab-separated), .jsonl, .parquet or .xlsx file, packed or not.

    Args:
        path: the file.
        layout: what the user says of how it is written.

    Raises:
        UserError: for a file that is missing, empty, or not of its format.
    """
    file = _open(path, layout or Layout())
    # Not under its name and time: a file may be written anew within a tick of the clock, with as many bytes.
    key = _content_key(file)
    cached = Path(datasets.config.HF_DATASETS_CACHE) / "tables" / key / "table.arrow"
    rows = _open_cached(cached, key)
    if rows is None:
        with atomic_path(cached) as temporary:
            _write_arrow(temporary, _chunks(file, ROWS_AT_A_TIME))
        rows = _open_cached(cached, key)
    if rows is None:
        raise UserError(f"{cached}, the cached copy of {path}, cannot be read: delete it")
    return Table(rows, file.source.name, file.first_row)


@dataclass
class _File:
    """A file to read, and how: rows a chunk to chunks of rows.

    Args:
        source: the file.
        chunks: called with the number of rows in each chunk.
        columns: names of its columns and how they were found, for the cache; None where the file says it all.
        first_row: number of its first row of data.
        remarks: what to say of how it is read.
    """

    source: Source
    chunks: Callable[[int], Iterator[pa.Table]]
    columns: str = ""
    first_row: int = 1
    remarks: Sequence[str] = ()


def _open(path: str | Path, layout: Layout) -> _File:
    """Find out what a file is and how it is written; say it where that is not as its name says.

    Raises:
        UserError: as `read_table`.
    """
    source = open_source(path)
    if source.kind in SEPARATORS or source.kind == ".xlsx":
        table = Workbook(source, layout) if source.kind == ".xlsx" else DelimitedFile.open(source, layout)
        columns = f"{table.header} {getattr(table, 'options', getattr(table, 'sheet', ''))}"
        file = _File(source, table.chunks, columns, table.header.first_row, table.remarks)
    else:
        chunks = _parquet_chunks if source.kind == ".parquet" else json_tables.json_chunks
        file = _File(source, partial(chunks, source))
    for remark in file.remarks:
        _log_once(remark)
    return file


_log_once = cache(log)  # a file may be opened several times


def _content_key(file: _File) -> str:
    """Name of a file in the cache: hash of its content, how it is read, and by which code."""
    code = [Path(str(module.__file__)).read_bytes() for module in (json_tables, delimited, excel)]
    code.append(Path(__file__).read_bytes())
    try:
        return content_hash(file.source.path, f"{file.source.kind} {file.columns}".encode(), *code)
    except OSError as error:
        raise UserError(f"{file.source.name} cannot be read: {error.strerror}") from error


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
    path: str | Path, rows_per_chunk: int, layout: Layout | None = None, max_rows: int | None = None
) -> Iterator[Table]:
    """Read a file as `read_table` does, chunk by chunk, in memory that does not grow with the file.

    Args:
        path: the file.
        rows_per_chunk: rows in each chunk; the last one may be shorter.
        layout: as in `read_table`.
        max_rows: stop after this many rows; None reads all.

    Yields:
        `Table`s, one for each chunk.

    Raises:
        UserError: as `read_table`; for a mistake in a chunk when that chunk is reached.
    """
    left = math.inf if max_rows is None else max_rows
    for chunk in _chunks(_open(path, layout or Layout()), rows_per_chunk):
        if len(chunk.rows) > left:
            chunk.rows = chunk.rows.select(range(int(left)))
        left -= len(chunk.rows)
        yield chunk
        if not left:
            return


def _chunks(file: _File, rows_per_chunk: int) -> Iterator[Table]:
    """The chunks of a file with rows.

    Raises:
        UserError: as `read_table`.
    """
    start = 0
    for rows in file.chunks(rows_per_chunk):
        yield Table(datasets.Dataset(rows), file.source.name, file.first_row, start)
        start += len(rows)
    if start == 0:
        raise UserError(f"{file.source.name} has no rows: add rows")


def _parquet_chunks(source: Source, rows_per_chunk: int) -> Iterator[pa.Table]:
    """The rows of a .parquet file, in parts."""
    try:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(batch_size=rows_per_chunk):
                rows = _plain_columns(pa.Table.from_batches([batch]))
                check_names(source.name, rows.column_names)
                yield rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source.name} cannot be read: {error}") from error


def _plain_columns(rows: pa.Table) -> pa.Table:
    """Rows with the values of columns that Parquet keeps as codes (pandas' categories) in their place, and with the
    parts of objects as columns such as `data.text`."""
    whole = rows.column_names
    while any(pa.types.is_struct(column.type) for column in rows.schema):
        rows = rows.flatten()
    for i, column in enumerate(rows.schema):
        if column.name not in whole:
            rows = rows.set_column(i, column.with_metadata(NESTED), rows.column(i))
    for i, column in enumerate(rows.schema):
        if pa.types.is_dictionary(column.type):
            rows = rows.set_column(i, column.name, rows.column(i).cast(column.type.value_type))
    return rows.replace_schema_metadata()


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
    if any(isinstance(feature, dict) for feature in rows.features.values()):
        rows = rows.flatten()  # the parts of objects as columns such as `data.text`
    return Table(rows, f"{name}/{split}", first_row=1)
