"""Submission files: rows checked before anything is predicted, predicted run after run, written chunk by chunk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from utils.core.errors import UserError
from utils.core.files import atomic_path, quoting_for, unwritable_as_user_error
from utils.core.log import log
from utils.core.progress import Progress
from utils.core.shown import join_names, quote
from utils.core.tables import format_table
from utils.data.columns import check_test_columns, check_unique_ids, hash_ids, read_ids, read_texts
from utils.data.headers import ID_NAMES
from utils.data.label_cells import ALL_BINARY_CELLS
from utils.data.tables import Table, read_chunks
from utils.data.task import Task
from utils.doctor.drift import NewRows, Reference, compare, drift_text
from utils.doctor.finding import DOCTOR_FILE
from utils.runs.folder import load_task

# Rows of a sample submission whose cells say whether it asks for probabilities, and how these are written.
SAMPLE_ROWS = 1000
LOOKS_LIKE_FLOAT = re.compile(r"\d*[.,]\d+([eE][+-]?\d+)?|\d+[.,]\d*|\d+[eE][+-]?\d+")

if TYPE_CHECKING:  # loading it takes torch
    from utils.runs.inference import ProbabilityFile
    from utils.scoring.thresholds import Thresholds


def load_tasks(folders: list[str]) -> list[Task]:
    """The tasks of the runs that are averaged.

    Raises:
        UserError: for a run that is named twice, is not finished, or has other labels than the first.
    """
    resolved = [Path(folder).resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if resolved[i] in resolved[:i]:
            raise UserError(f"--model {folder} is named twice: name each run once, and weigh it by --weights")
    tasks = [load_task(folder) for folder in folders]
    for folder, task in zip(folders[1:], tasks[1:]):
        if set(task.labels) != set(tasks[0].labels):
            raise UserError(
                f"{folders[0]} and {folder} have different labels ({', '.join(tasks[0].labels)} and "
                f"{', '.join(task.labels)}): average runs of the same labels only"
            )
        if task.single_label != tasks[0].single_label:
            one, several = (folders[0], folder) if tasks[0].single_label else (folder, folders[0])
            raise UserError(
                f"{one} gives each text one label, {several} any number of them, and their probabilities mean other "
                "things: average runs of one kind only"
            )
    return tasks


# The test file


def check_rows(chunks: Callable[[], Iterator[Table]], tasks: list[Task]) -> np.ndarray:
    """Read the whole test file once, before anything is predicted.

    Args:
        chunks: gives an iterator over the chunks of the file.
        tasks: of the runs that are to predict it.

    Returns:
        hashes of the ids (`utils.data.columns.hash_ids`), one for each row.

    Raises:
        UserError: for rows that cannot be predicted.
    """
    by_columns = {(task.id_column, *task.text_columns): task for task in tasks}

    def checked_chunks() -> Iterator[Table]:
        for chunk in chunks():
            for task in by_columns.values():
                check_test_columns(chunk, task)
                read_texts(chunk, task)
            yield chunk

    return check_unique_ids(checked_chunks, tasks[0])


@dataclass
class RowsToPredict:
    """The rows to predict, which may be too many to hold.

    Args:
        name: of the file.
        chunks: gives an iterator over its chunks.
        id_hashes: one for each row.
        whole: whether it is predicted whole, not its first rows only.
    """

    name: str
    chunks: Callable[[], Iterator[Table]]
    id_hashes: np.ndarray
    whole: bool

    def __len__(self) -> int:
        return len(self.id_hashes)

    def find(self, ids: list[str]) -> np.ndarray:
        """Numbers of the rows with these ids `[n]`, -1 for what is not there: int array `[n]`."""
        hashes = hash_ids(ids)
        place = np.minimum(np.searchsorted(self.id_hashes, hashes, sorter=self._in_order), len(self) - 1)
        rows = self._in_order[place]
        return np.where(self.id_hashes[rows] == hashes, rows, -1)

    @cached_property
    def _in_order(self) -> np.ndarray:
        return np.argsort(self.id_hashes)


@dataclass
class Part:
    """Some rows of a submission.

    Args:
        ids: `[n]`.
        rows: their numbers in the test file, `[n]`.
        copied: cells of columns that are taken over from the sample file as they are, `[n]` each.
    """

    ids: list[str]
    rows: np.ndarray
    copied: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class SubmissionFormat:
    """Columns, ids and order of a submission: those of a sample file, or of the test file.

    Args:
        columns: names of its columns.
        id_column: that of the ids.
        copied: columns that are neither ids nor labels, taken over from the sample file.
        sample: gives an iterator over the chunks of the sample file; None without one.
    """

    columns: list[str]
    id_column: str
    copied: list[str] = field(default_factory=list)
    sample: Callable[[], Iterator[Table]] | None = None

    def has_column(self, label: str) -> bool:
        """Whether there is a column of this name, in this case or another."""
        return label.strip().lower() in {name.strip().lower() for name in self.columns}

    def parts(self, test: RowsToPredict, task: Task) -> Iterator[Part]:
        """The rows to write, chunk by chunk; of a sample file those that are predicted."""
        if self.sample is None:
            for chunk in test.chunks():
                ids = read_ids(chunk, task)
                yield Part(ids, np.arange(chunk.start, chunk.start + len(ids)))
            return
        for chunk in self.sample():
            ids = read_ids(chunk, replace(task, id_column=self.id_column))
            rows = test.find(ids)
            found = np.flatnonzero(rows >= 0)
            cells = {name: chunk.column(name).cast("string").to_pylist() for name in self.copied}
            copied = {name: [column[i] for i in found] for name, column in cells.items()}
            if len(found):
                yield Part([ids[i] for i in found], rows[found], copied)


def with_ids_of(table: Table, task: Task, sample_file: str | None) -> Task:
    """The task with an id column of the test file, where training had none and the sample file has that column.

    Args:
        table: rows of the test file.
        task: of the runs.
        sample_file: sample submission, or None.

    Raises:
        UserError: for a sample file that cannot be read.
    """
    if task.id_column is not None or sample_file is None:
        return task
    sample = next(read_chunks(sample_file, 1))
    names = [name for name in table.rows.column_names if sample.find(name) and name.strip().lower() in ID_NAMES]
    return replace(task, id_column=names[0]) if names else task


def submission_format(
    test: RowsToPredict,
    task: Task,
    sample_file: str | None,
    chunk_rows: int,
    as_probabilities: bool = False,
    copy_columns: Sequence[str] = (),
) -> SubmissionFormat:
    """Columns, ids and order of the submission: the sample file's where given, else the id and one column a label, or
    the one column of training where that names the one label of each text.

    Args:
        test: the rows to predict.
        task: of the runs.
        sample_file: sample submission, or None.
        chunk_rows: rows of it to read at a time.
        as_probabilities: whether there must be a column for each label.
        copy_columns: of the sample file that are taken over although they look like labels.

    Raises:
        UserError: where the sample file lacks the ids or a label, has ids that the test file has not, or a label that
            the runs do not know.
    """
    id_name = task.id_column or "id"
    if sample_file is None:
        names = task.label_columns if task.single_label and not as_probabilities else task.labels
        return SubmissionFormat([id_name, *names], id_name)

    def sample_chunks() -> Iterator[Table]:
        return read_chunks(sample_file, chunk_rows)

    sample = next(sample_chunks())
    names = sample.rows.column_names
    known = [name.strip().lower() for name in ID_NAMES if name]
    id_column = sample.find(id_name) or next((name for name in names if name.strip().lower() in known), None)
    labels = {label: sample.find(label) for label in task.labels}
    # A column each label, also where training had one column of lists; or that column.
    wanted = labels if any(labels.values()) else {name: sample.find(name) for name in task.label_columns}
    missing = [name for name, found in {id_name: id_column, **wanted}.items() if found is None]
    if missing or id_column is None:
        raise UserError(
            f"{sample.name} has no column {join_names(missing)}; it has: {join_names(names)}: give one with the ids "
            f"and labels of the runs ({id_name}, {join_names(task.label_columns)})"
        )
    copied = [name for name in names if name not in {id_column, *wanted.values()}]
    for name in copy_columns:
        if name not in copied:
            raise UserError(
                f"--copy_columns {name}: {sample.name} has no such column beside ids and labels: leave it out"
            )
    unknown = [name for name in copied if name not in copy_columns and _looks_like_a_label(sample_chunks, name)]
    if unknown:
        raise UserError(
            f"{sample.name}: {join_names(unknown)} looks like a label that the runs do not know, and the sample's own "
            "cells would be handed in: train with it, take it out of the sample, or pass --copy_columns "
            f"{' '.join(map(quote, unknown))} if it is to be copied"
        )
    if copied:
        log(f"{sample.name}: {join_names(copied)} is no label of the runs: its cells are copied as they are")
    form = SubmissionFormat(names, id_column, copied, sample_chunks)
    with_ids = replace(task, id_column=id_column)
    sample_hashes = check_unique_ids(sample_chunks, with_ids)
    if test.whole:
        _refuse_extra_ids(sample.name, test.name, sample_chunks, with_ids, np.setdiff1d(sample_hashes, test.id_hashes))
        if len(sample_hashes) < len(test):
            log(
                f"{sample.name} has {len(sample_hashes)} of the {len(test)} ids of {test.name}: those alone are written"
            )
    return form


def _looks_like_a_label(chunks: Callable[[], Iterator[Table]], name: str) -> bool:
    """Whether a column of a sample file stands for a label: its cells are all blank, 0 or 1, or probabilities."""
    return all(
        all(_may_be_predicted(cell) for cell in pc.unique(chunk.strings(name)).to_pylist()) for chunk in chunks()
    )


def _may_be_predicted(cell: str) -> bool:
    if cell == "" or cell.lower() in ALL_BINARY_CELLS:
        return True
    return bool(LOOKS_LIKE_FLOAT.fullmatch(cell)) and 0 <= float(cell.replace(",", ".")) <= 1


def wants_probabilities(sample_file: str | None, task: Task) -> bool:
    """Whether a sample submission asks for probabilities: a cell of a label has a decimal point or comma."""
    if sample_file is None:
        return False
    sample = next(read_chunks(sample_file, SAMPLE_ROWS))
    labels = [column for label in task.labels if (column := sample.find(label))]
    return any(LOOKS_LIKE_FLOAT.fullmatch(cell) for label in labels for cell in sample.strings(label).to_pylist())


def _refuse_extra_ids(
    here: str, there: str, chunks: Callable[[], Iterator[Table]], task: Task, extra: np.ndarray
) -> None:
    """Refuse ids of the file `here` that are not in the file `there`, given by their hashes."""
    if len(extra):
        ids = (value for chunk in chunks() for value in read_ids(chunk, task))
        first = next(value for value in ids if hash_ids([value])[0] in extra)
        raise UserError(
            f'{here}: the id "{first}" is not in {there} ({len(extra)} such ids): give files that belong together'
        )


# Predicting and writing


def predict_runs(
    folders: list[str],
    weights: np.ndarray,
    task: Task,
    test: RowsToPredict,
    batch_size: int,
    output_file: str,
    trust_remote_code: bool = False,
) -> ProbabilityFile | None:
    """Weighted mean of the runs' probabilities of the rows.

    Run after run, so that only one model is in memory.

    Args:
        folders: of R finished runs.
        weights: of the runs, `[R]`; those with weight 0 are not predicted.
        task: of the first run, whose order of labels the result has.
        test: the rows.
        batch_size: rows predicted at a time by one process.
        output_file: in its folder the sums of probabilities are kept until they are written.
        trust_remote_code: whether the code of an adapter's base model may run.

    Returns:
        the means in the main process, None in others.

    Raises:
        UserError: for a run that cannot be loaded, or predicts NaN.
    """
    from utils.core.processes import this_process
    from utils.runs.inference import ProbabilityFile, load_run, predict_table

    main_process = this_process().is_main_process
    average = None
    used = [(folder, weight) for folder, weight in zip(folders, weights) if weight > 0]
    rows = len(test) * len(used)
    with Progress("predicting", rows, "rows") as bar:
        for folder, weight in used:
            run = load_run(folder, trust_remote_code)
            for chunk in test.chunks():
                predictions = predict_table(run, chunk, batch_size).in_order(task.labels)
                if main_process:
                    if average is None:
                        with unwritable_as_user_error(output_file):
                            Path(output_file).parent.mkdir(parents=True, exist_ok=True)
                        average = ProbabilityFile(Path(output_file).parent, len(task.labels))
                    average.add(chunk.start, predictions.probabilities * weight)
                bar.update(len(predictions))
    return average


class SubmissionWriter:
    """Writes a submission, and the probabilities behind it, chunk by chunk; both appear when they are complete.

    A context manager: leave its block to complete the files; an error in it leaves what was there before.

    Args:
        submission: path of the submission.
        probabilities_file: path of a .csv or .parquet file for the probabilities, or None.
        form: columns of the submission.
        task: of the runs.
        as_probabilities: whether its cells are probabilities instead of 0 and 1.
    """

    def __init__(
        self,
        submission: str,
        probabilities_file: str | None,
        form: SubmissionFormat,
        task: Task,
        as_probabilities: bool = False,
    ):
        self.form, self.task, self.as_probabilities = form, task, as_probabilities
        self.paths = {"submission": submission} | ({"probabilities": probabilities_file} if probabilities_file else {})
        self.stack = ExitStack()
        self.parquet: Any = None  # its writer, from the first rows on
        self.rows, self.positives, self.without_label = 0, np.zeros(len(task.labels), dtype=int), 0

    def __enter__(self) -> SubmissionWriter:
        self.stack.__enter__()
        self.files = {name: self.stack.enter_context(atomic_path(path)) for name, path in self.paths.items()}
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def add(self, part: Part, probabilities: np.ndarray, predictions: np.ndarray) -> None:
        """Write some rows.

        Args:
            part: n rows.
            probabilities: `[n, L]`.
            predictions: 0/1 array `[n, L]`.
        """
        # To the end of the file; the header above the first chunk only.
        appending: dict[str, Any] = {"mode": "a", "header": self.rows == 0, "index": False}
        cells = probabilities if self.as_probabilities else predictions
        frame = submission_frame(self.form, self.task, part, cells)
        frame.to_csv(self.files["submission"], quoting=quoting_for(frame), **appending)
        if "probabilities" in self.files:
            frame = pd.DataFrame({self.form.id_column: part.ids} | dict(zip(self.task.labels, probabilities.T)))
            if self.paths["probabilities"].endswith(".csv"):
                frame.to_csv(self.files["probabilities"], quoting=quoting_for(frame), **appending)
            else:
                self._add_parquet(frame)
        self.rows += len(part.ids)
        self.positives += predictions.sum(axis=0)
        self.without_label += int((predictions.sum(axis=1) == 0).sum())

    def _add_parquet(self, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pa.Table.from_pandas(frame, preserve_index=False)
        if self.parquet is None:
            self.parquet = self.stack.enter_context(pq.ParquetWriter(self.files["probabilities"], rows.schema))
        self.parquet.write_table(rows)

    def rates_table(self) -> str:
        """Table of the share of rows with each label, predicted and in training."""
        task = self.task
        shares = [
            # A model scored as it is was not trained on any rows.
            [label, f"{predicted / self.rows:.1%}", f"{rate:.1%}" if task.train_rates else ""]
            for label, predicted, rate in zip(task.labels, self.positives, task.train_rates or task.train_positives)
        ]
        without = [] if task.single_label else [["(no label)", f"{self.without_label / self.rows:.1%}", ""]]
        return format_table(["label", "predicted", "training"], shares + without)


def compare_with_training(
    folder: str,
    reference: Reference | None,
    test: RowsToPredict,
    task: Task,
    average: ProbabilityFile,
    thresholds: Thresholds,
) -> str:
    """What the doctor says of rows that were predicted: all of them, also where the sample file has fewer.

    Args:
        folder: of the first run.
        reference: what they are compared with.
        test: the rows.
        task: of the first run.
        average: their probabilities.
        thresholds: of the labels.
    """
    if reference is None:
        return f"The rows were not compared with those of the training: {folder} has no {DOCTOR_FILE}."

    from utils.models.loading import load_tokenizer

    new = NewRows(len(test))
    for chunk in test.chunks():
        rows = np.arange(chunk.start, chunk.start + len(chunk.rows))
        new.add(read_texts(chunk, task), thresholds.apply(average.read(rows)))
    return drift_text(compare(reference, new, load_tokenizer(folder)), new.rows)


def submission_frame(form: SubmissionFormat, task: Task, part: Part, cells: np.ndarray) -> pd.DataFrame:
    """Rows of a submission.

    Args:
        form: its columns.
        task: of the runs.
        part: n rows.
        cells: 0 and 1, or probabilities where there is a column for each label, `[n, L]`.
    """
    values: dict[str, Any] = {label: cells[:, i] for i, label in enumerate(task.labels)}
    if not task.labels_are_columns:
        # As in training: numbers where it had numbers.
        lists = [[name for name, yes in zip(task.names_in_cells, row) if yes] for row in cells]
        values[task.label_columns[0]] = [(task.label_delimiter or ",").join(row) for row in lists]
    by_lower = {name.strip().lower(): column for name, column in values.items()}
    values |= part.copied | {form.id_column: part.ids}
    # The sample file may write a name in other case.
    return pd.DataFrame(
        {name: values[name] if name in values else by_lower[name.strip().lower()] for name in form.columns}
    )
