"""What a run was trained to do: its labels, the columns that held them, and how texts are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils.core.files import read_json_object, write_json

TASK_FILE = "task.json"


@dataclass
class Task:
    """The content of a run folder's `task.json`.

    Args:
        labels: names of the L labels, in the order of the model's logits.
        text_column: column of the texts.
        label_columns: the 0/1 columns, named like `labels`; or the one column that lists the labels of each row.
        id_column: column of the ids; None where rows are known by their number.
        label_delimiter: what separates the names in a column of label lists; None where the file format has lists.
        label_codes: whether such a column holds the numbers of the labels, from 0, in place of their names.
        normalize_users: whether mentions are replaced by `@user`.
        normalize_urls: whether links are replaced by `http`.
        single_label: whether each text has exactly one label (softmax, the likeliest label is given), instead of any
            number of them (a probability and a threshold for each label).
        max_length: tokens that a text is cut to.
        train_rows: number of training rows.
        train_positives: training rows of each label, `[L]`.
        data_sha256: hash of all rows before the split, the same for every seed and fold.
    """

    labels: list[str]
    text_column: str
    label_columns: list[str]
    id_column: str | None = None
    label_delimiter: str | None = None
    label_codes: bool = False
    normalize_users: bool = False
    normalize_urls: bool = False
    single_label: bool = False
    max_length: int = 256
    train_rows: int = 0
    train_positives: list[int] = field(default_factory=list)
    data_sha256: str = ""

    @property
    def labels_are_columns(self) -> bool:
        """Whether each label has its own 0/1 column."""
        return self.label_columns == self.labels

    def save(self, folder: str | Path) -> None:
        """Write `task.json` into `folder`."""
        write_json(Path(folder) / TASK_FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Task:
        """Read `task.json` from `folder`.

        Raises:
            ValueError, TypeError: for a file that describes no task.
        """
        task = cls(**read_json_object(Path(folder) / TASK_FILE))
        names = [task.labels, task.label_columns]
        texts = [task.text_column, task.data_sha256, *(text for text in (task.id_column, task.label_delimiter) if text)]
        if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in names):
            raise TypeError("names of labels and columns must be lists of texts")
        if len(set(task.labels)) != len(task.labels) or len(task.labels) < 1 + task.single_label or "" in task.labels:
            raise ValueError("there must be labels, two or more where each text has one, with names of their own")
        if task.label_columns != task.labels and len(task.label_columns) != 1:
            raise ValueError("label_columns are neither the labels nor one column of lists")
        counts = [task.max_length, task.train_rows, *task.train_positives]
        if not all(type(count) is int and count >= 0 for count in counts) or task.max_length < 1:
            raise ValueError("numbers of rows and tokens must be whole")
        if not all(isinstance(text, str) for text in texts) or len(task.train_positives) != len(task.labels):
            raise ValueError("columns must have names, and each label a number of rows")
        flags = [task.normalize_users, task.normalize_urls, task.label_codes, task.single_label]
        if not all(isinstance(flag, bool) for flag in flags):
            raise TypeError("normalize_users, normalize_urls, label_codes and single_label must be true or false")
        return task
