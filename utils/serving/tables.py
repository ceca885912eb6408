"""A table that is dropped on the demo page, and comes back with probabilities and labels."""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd

from utils.core.errors import UserError
from utils.data.columns import read_ids, read_texts
from utils.data.headers import Layout
from utils.data.tables import Table, read_chunks
from utils.data.task import Task
from utils.serving.predictor import Predictor

ROWS_AT_A_TIME = 200
FORMATS = [".csv", ".tsv", ".txt", ".jsonl", ".parquet"]
# First bytes of files that unpack to any size: gzip, and zip, which an Excel workbook is too.
PACKED = (b"\x1f\x8b", b"PK\x03\x04")


def predict_file(
    predictor: Predictor,
    path: str,
    target: str | Path,
    most_rows: int,
    most_characters: int,
    told: Callable[[int], None],
) -> int:
    """Predict the texts of a file; id, text, labels and probabilities are written to another.

    Args:
        predictor: whose run says what the column of texts is called.
        path: of the file; messages name it without its folder.
        target: .csv to write.
        most_rows: more are refused, before any is predicted.
        most_characters: of a text; longer ones are refused likewise.
        told: called with the number of rows predicted so far.

    Returns:
        number of rows.

    Raises:
        UserError: for a file that cannot be read, that is packed or has no column of texts, with too many rows or too
            long a text.
    """
    with _named_without_folder(path):
        layout = Layout().as_trained(predictor.task)
        task = _check_rows(predictor.task, path, layout, most_rows, most_characters)
        done = 0
        for chunk in read_chunks(path, ROWS_AT_A_TIME, layout):
            frame = _predict_rows(predictor, path, chunk, task)
            # In quotes, as pandas does not see that a carriage return ends a row.
            mode = "w" if done == 0 else "a"
            frame.to_csv(target, mode=mode, header=done == 0, index=False, quoting=csv.QUOTE_NONNUMERIC)
            done += len(frame)
            told(done)
        return done


@contextmanager
def _named_without_folder(path: str) -> Generator[None]:
    """Name a file in what is wrong with it as the person at the page knows it, without the folder of this machine."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(path, Path(path).name)) from error


def _check_rows(task: Task, path: str, layout: Layout, most_rows: int, most_characters: int) -> Task:
    """Refuse what `predict_file` does; returns the task, without an id column where the file has none."""
    with open(path, "rb") as file:
        if file.read(4).startswith(PACKED):
            raise UserError(f"{path} is packed, or an Excel workbook: give it unpacked, as .csv or .jsonl")
    rows = 0
    for chunk in read_chunks(path, ROWS_AT_A_TIME, layout):
        missing = [name for name in task.text_columns if chunk.find(name) is None]
        if missing:
            raise UserError(
                f'{path} has no column "{missing[0]}", which holds the texts; its columns are: '
                f"{', '.join(chunk.rows.column_names)}. Rename one"
            )
        if task.id_column is not None and chunk.find(task.id_column) is None:
            task = replace(task, id_column=None)
        longest = max(map(len, read_texts(chunk, task)))  # which refuses rows without a text
        if longest > most_characters:
            raise UserError(
                f"{path} has a text of {longest:,} characters, and this page takes {most_characters:,}: shorten it"
            )
        rows += len(chunk.rows)
        if rows > most_rows:
            raise UserError(f"{path} has more than {most_rows:,} rows: cut it up, or use make_submission.py")
    return task


def _predict_rows(predictor: Predictor, path: str, chunk: Table, task: Task) -> pd.DataFrame:
    """Id, text, labels and probabilities of some rows of the file at `path`.

    Raises:
        UserError: for a row that cannot be predicted.
    """
    raw = replace(task, normalize_users=False, normalize_urls=False)  # what comes back is what was sent
    texts, ids, together = read_texts(chunk, raw), read_ids(chunk, raw), []
    for name, answer in zip(ids, predictor.predict(texts)):
        if isinstance(answer, str):
            raise UserError(f'{path}, the row with id "{name}": {answer}')
        together.append(predictor.together(answer))
    probabilities, given = zip(*together)
    columns = {task.id_column or "id": ids, task.text_columns[0]: texts}
    columns["labels"] = [", ".join(x for x, yes in zip(predictor.labels, row) if yes) for row in given]
    for i, label in enumerate(predictor.labels):
        columns[f"probability/{label}"] = [round(float(row[i]), 6) for row in probabilities]
    return pd.DataFrame(columns)
