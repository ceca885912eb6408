"""Right labels for texts that a run got wrong, in a file that --train_file reads as it is."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from filelock import FileLock

from utils.core.errors import UserError
from utils.core.files import check_length, unwritable_as_user_error, write_text
from utils.data.task import Task

# What becomes of a correction, before its labels.
NEW, CHANGED, KNOWN = "Saved with", "Changed to", "Saved already with"


class Corrections:
    """A .csv file with the columns of a run's training data, to which rows are added.

    Args:
        path: of the file, which may exist.
        task: of the run.

    Raises:
        UserError: for a file that is no .csv, or has other columns.
    """

    def __init__(self, path: str | Path, task: Task):
        self.path, self.task = Path(path), task
        self.columns = [task.id_column or "id", *task.text_columns, *task.label_columns]
        # Several pages may add to one file, which is the default of all.
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        check_length("corrections_file", self.path)
        if self.path.suffix.lower() != ".csv":
            raise UserError(f"--corrections_file {path}: must end in .csv")
        self.read()

    def read(self) -> pd.DataFrame:
        """The rows so far.

        Raises:
            UserError: for a file with other columns, or that is none.
        """
        if not self.path.exists():
            return pd.DataFrame(columns=self.columns, dtype=str)
        try:
            rows = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"--corrections_file {self.path} cannot be read: {error}") from error
        if list(rows.columns) != self.columns:
            raise UserError(
                f"--corrections_file {self.path} has other columns than this run's data "
                f"({', '.join(self.columns)}): name another file"
            )
        return rows

    def add(self, text: str, labels: list[str]) -> tuple[int, str]:
        """Write a text with its labels: as another row, or over the labels of the row that has the text already.

        Args:
            text: as it was given.
            labels: names of those that are right; none is an answer too.

        Returns:
            `(number of its row, NEW or CHANGED or KNOWN)`.

        Raises:
            UserError: where each text has one label, for several or none.
        """
        task = self.task
        if task.single_label and len(labels) != 1:
            raise UserError("each text has one label: tick the right one")
        if task.labels_are_columns:
            cells = [str(int(label in labels)) for label in task.labels]
        else:
            names = task.names_in_cells
            cells = [(task.label_delimiter or ",").join(n for n, label in zip(names, task.labels) if label in labels)]
        more = [""] * (len(task.text_columns) - 1)  # the whole text stands in the first of several columns
        with unwritable_as_user_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            rows = self.read()
            same = rows.index[rows[task.text_columns[0]] == text]
            number, done = (int(same[-1]), CHANGED) if len(same) else (len(rows), NEW)
            if len(same) and rows.loc[number, task.label_columns].tolist() == cells:
                return number + 1, KNOWN
            name = f"correction-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            rows.loc[number] = [name, text, *more, *cells]
            # In quotes, as pandas does not see that a carriage return ends a row.
            write_text(self.path, rows.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL))
            return number + 1, done
        finally:
            self._lock.release()
