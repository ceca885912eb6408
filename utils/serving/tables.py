"""A table that is dropped on the demo page, and comes back with probabilities and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from utils.core.errors import UserError
from utils.data.columns import read_ids, read_texts
from utils.data.headers import Layout
from utils.data.tables import read_chunks
from utils.serving.predictor import Predictor

ROWS_AT_A_TIME = 200
FORMATS = [".csv", ".tsv", ".txt", ".jsonl", ".parquet", ".xlsx"]


def predict_file(
    predictor: Predictor, path: str, target: str | Path, most_rows: int, told: Callable[[int], None]
) -> int:
    """Predict the texts of a file; id, text, labels and probabilities are written to another.

    Args:
        predictor: whose run says what the column of texts is called.
        path: of the file; messages name it without its folder.
        target: .csv to write.
        most_rows: more are refused, before any is predicted.
        told: called with the number of rows predicted so far.

    Returns:
        number of rows.

    Raises:
        UserError: for a file that cannot be read, without a column of texts, or with too many rows.
    """
    try:
        return _predict_file(predictor, path, target, most_rows, told)
    except UserError as error:
        raise UserError(str(error).replace(path, Path(path).name)) from error


def _predict_file(
    predictor: Predictor, path: str, target: str | Path, most_rows: int, told: Callable[[int], None]
) -> int:
    task, rows = predictor.task, 0
    layout = Layout().as_trained(task)
    for chunk in read_chunks(path, ROWS_AT_A_TIME, layout):
        missing = [name for name in task.text_columns if chunk.find(name) is None]
        if missing:
            raise UserError(
                f'{path} has no column "{missing[0]}", which holds the texts; its columns are: '
                f"{', '.join(chunk.rows.column_names)}. Rename one"
            )
        if task.id_column is not None and chunk.find(task.id_column) is None:
            task = replace(task, id_column=None)
        read_texts(chunk, task)  # refuses rows without a text
        rows += len(chunk.rows)
        if rows > most_rows:
            raise UserError(f"{path} has more than {most_rows:,} rows: cut it up, or use make_submission.py")
    raw = replace(task, normalize_users=False, normalize_urls=False)  # what comes back is what was sent
    done = 0
    for chunk in read_chunks(path, ROWS_AT_A_TIME, layout):
        texts = read_texts(chunk, raw)
        answers = predictor.predict(texts)
        probabilities, given = zip(*(predictor.together(answer) for answer in answers))
        columns = {task.id_column or "id": read_ids(chunk, raw), task.text_columns[0]: texts}
        columns["labels"] = [", ".join(x for x, yes in zip(predictor.labels, row) if yes) for row in given]
        for i, label in enumerate(predictor.labels):
            columns[f"probability/{label}"] = [round(float(row[i]), 6) for row in probabilities]
        frame = pd.DataFrame(columns)
        frame.to_csv(target, mode="w" if done == 0 else "a", header=done == 0, index=False)
        done += len(frame)
        told(done)
    return done
