"""Texts to predict as people hand them over: words of a command line, lines, or a table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.shown import join_names
from utils.data.headers import ID_NAMES, Layout
from utils.data.sources import KINDS, not_utf8
from utils.data.task import Task

ROWS_AT_A_TIME = 1000
PACKED = (".gz", ".zip")


@dataclass
class TextsToPredict:
    """Some texts as they were given, `[n]`, and their ids where they have any."""

    texts: list[str]
    ids: list[str] | None = None


def in_parts(lines: Iterable[str]) -> Iterator[TextsToPredict]:
    """Texts in parts, as they come."""
    lines = iter(lines)
    while texts := list(islice(lines, ROWS_AT_A_TIME)):
        yield TextsToPredict(texts)


def read_lines(file: str | None) -> Iterator[str]:
    """The lines of a file, or of standard input, one by one. Empty ones are skipped, and counted at the end.

    Raises:
        UserError: for a file that cannot be read.
    """
    if file:
        name = file
        try:
            lines = open(file, encoding="utf-8-sig")  # noqa: SIM115 (read to its end below)
        except OSError as error:
            raise UserError(f"--file {file}: {error.strerror}") from error
    else:
        name = "standard input"
        lines: Any = sys.stdin
        if lines is None:
            raise UserError("standard input is closed: give texts, or --file")
        lines.reconfigure(encoding="utf-8-sig", errors="strict")  # -sig: without a byte order mark
    empty = 0
    try:
        for line in lines:
            text = line.rstrip("\r\n")
            if text.strip():
                yield text
            else:
                empty += 1
    except UnicodeDecodeError as error:
        raise UserError(not_utf8(name, file) if file else f"{name} is not UTF-8: {error}") from error
    if empty:
        log(f"{name}: {empty} empty {'line' if empty == 1 else 'lines'} skipped")


def is_table(file: str, task: Task) -> bool:
    """Whether a file is a table, by its name; a .txt is one where its first line names the run's column of texts.

    Args:
        file: the path.
        task: of the run.
    """
    kind = Path(file).suffix.lower()
    if kind != ".txt":
        return kind in (*KINDS, *PACKED)
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        cells = next(lines, "").rstrip("\r\n").lower().split("\t")
    return len(cells) > 1 and task.text_columns[0].lower() in cells


def table_task(task: Task, file: str, layout: Layout, text_columns: Sequence[str] | None) -> Task:
    """The task of a run with the columns that a table has.

    Args:
        task: of the run.
        file: the table.
        layout: how it is written.
        text_columns: that the user named; None for those of the training.

    Raises:
        UserError: for a table that cannot be read, or has no such column.
    """
    from utils.data.columns import check_test_columns
    from utils.data.tables import read_chunks

    table = next(read_chunks(file, ROWS_AT_A_TIME, layout))
    found = None if task.id_column is None else table.find(task.id_column)
    known = [name for name in table.rows.column_names if name.strip().lower() in ID_NAMES]
    named = replace(
        task, id_column=found or next(iter(known), None), text_columns=list(text_columns or task.text_columns)
    )
    missing = [name for name in named.text_columns if table.find(name) is None]
    if missing and (text_columns or layout.column_names):
        raise UserError(f'{file} has no column "{missing[0]}"; it has: {join_names(table.rows.column_names)}')
    try:
        check_test_columns(table, replace(named, label_columns=[]))
    except UserError as error:
        raise UserError(
            f"{error}. Name it by --text_column; a file with a text in every line goes to standard input"
        ) from error
    return named


def read_rows(file: str, layout: Layout, task: Task) -> Iterator[TextsToPredict]:
    """The rows of a table, in parts.

    Args:
        file: the table.
        layout: how it is written.
        task: of `table_task`.

    Raises:
        UserError: for a row without a text or an id.
    """
    from utils.data.columns import read_ids, read_texts
    from utils.data.tables import read_chunks

    as_given = replace(task, normalize_users=False, normalize_urls=False)
    for chunk in read_chunks(file, ROWS_AT_A_TIME, layout):
        yield TextsToPredict(read_texts(chunk, as_given), read_ids(chunk, as_given))
