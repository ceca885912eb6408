"""What a run was trained to do: its labels, the columns that held them, and how texts are read."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

from utils.core.errors import UserError
from utils.core.files import read_json_object, write_json
from utils.core.shown import join_names

TASK_FILE = "task.json"


@dataclass
class Task:
    """The content of a run folder's `task.json`.

    Args:
        labels: names of the L labels, in the order of the model's logits.
        text_columns: column of the texts, or several whose cells are joined to one.
        label_columns: the 0/1 columns, named like `labels`; or the one column that lists the labels of each row.
        id_column: column of the ids; None where rows are known by their number.
        label_delimiter: what separates the names in a column of label lists; None where the file format has lists.
        label_codes: whether such a column holds the numbers of the labels in place of their names.
        first_code: number of the first label there, 0 or 1.
        text_separator: between the joined cells.
        column_names: of files without a header; None where they have one.
        csv_quoting: whether quotes enclose cells, where the user said so.
        normalize_users: whether mentions are replaced by `@user`.
        normalize_urls: whether links are replaced by `http`.
        long_texts: what is done with longer texts than `max_length`: `cut`, `middle` or `windows`.
        window_pooling: how the logits of a text's windows become one: `mean` or `max`.
        window_overlap: tokens that a window shares with the one before it.
        single_label: whether each text has exactly one label (softmax, the likeliest label is given), instead of any
            number of them (a probability and a threshold for each label).
        unknown_labels: whether label cells may be blank or -1, for not annotated.
        soft_labels: whether they may be shares between 0 and 1.
        weight_column: column of the rows' weights in the loss; None where all count the same.
        max_length: tokens of a text that the model sees at a time.
        train_rows: number of training rows.
        train_positives: training rows of each label, `[L]`.
        train_annotated: training rows in which each label is known, `[L]`; empty where that is all of them.
        data_sha256: hash of all rows before the split, the same for every seed and fold.
    """

    labels: list[str]
    text_columns: list[str]
    label_columns: list[str]
    id_column: str | None = None
    label_delimiter: str | None = None
    label_codes: bool = False
    first_code: int = 0
    text_separator: str = "\n"
    column_names: list[str] | None = None
    csv_quoting: str | None = None
    normalize_users: bool = False
    normalize_urls: bool = False
    long_texts: str = "cut"
    window_pooling: str = "mean"
    window_overlap: int = 32
    single_label: bool = False
    unknown_labels: bool = False
    soft_labels: bool = False
    weight_column: str | None = None
    max_length: int = 256
    train_rows: int = 0
    train_positives: list[int] = field(default_factory=list)
    train_annotated: list[int] = field(default_factory=list)
    data_sha256: str = ""

    @property
    def labels_are_columns(self) -> bool:
        """Whether each label has its own 0/1 column."""
        return self.label_columns == self.labels

    @property
    def names_in_cells(self) -> list[str]:
        """How a column of label lists writes the labels: their names, or their numbers, `[L]`."""
        codes = range(self.first_code, self.first_code + len(self.labels))
        return list(map(str, codes)) if self.label_codes else self.labels

    @property
    def train_rates(self) -> list[float]:
        """Share of the training rows with each label, among those in which it is known: `[L]`; empty without any."""
        annotated = self.train_annotated or [self.train_rows] * len(self.labels)
        return [count / max(1, of) for count, of in zip(self.train_positives, annotated)] if self.train_rows else []

    def save(self, folder: str | Path) -> None:
        """Write `task.json` into `folder`."""
        write_json(Path(folder) / TASK_FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Task:
        """Read `task.json` from `folder`.

        What an earlier version of the project did not write has its default.

        Raises:
            ValueError, TypeError: for a file that describes no task.
            UserError: for one with more in it than this version knows.
        """
        content = read_json_object(Path(folder) / TASK_FILE)
        if "text_column" in content and "text_columns" not in content:  # before several could be joined
            content["text_columns"] = [content.pop("text_column")]
        unknown = sorted(set(content) - {field.name for field in fields(cls)})
        needed = {field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING}
        if unknown and needed <= set(content):  # else it describes something else
            raise UserError(
                f"the run in {folder} was made by another version of this project, whose {TASK_FILE} says more "
                f"({join_names(unknown)}): use that version, or train again"
            )
        task = cls(**content)
        names = [task.labels, task.label_columns, task.text_columns, task.column_names or []]
        texts = [task.text_separator, task.data_sha256]
        texts += [text for text in (task.id_column, task.label_delimiter, task.csv_quoting) if text]
        if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in names):
            raise TypeError("names of labels and columns must be lists of texts")
        if len(set(task.labels)) != len(task.labels) or len(task.labels) < 1 + task.single_label or "" in task.labels:
            raise ValueError("there must be labels, two or more where each text has one, with names of their own")
        if task.label_columns != task.labels and len(task.label_columns) != 1:
            raise ValueError("label_columns are neither the labels nor one column of lists")
        counts = [
            task.max_length,
            task.window_overlap,
            task.first_code,
            task.train_rows,
            *task.train_positives,
            *task.train_annotated,
        ]
        if not all(type(count) is int and count >= 0 for count in counts) or task.max_length < 1:
            raise ValueError("numbers of rows and tokens must be whole")
        if task.long_texts not in ("cut", "middle", "windows") or task.window_pooling not in ("mean", "max"):
            raise ValueError("long_texts or window_pooling is none that a run knows")
        texts += [task.weight_column] if task.weight_column is not None else []
        if not all(isinstance(text, str) for text in texts) or len(task.train_positives) != len(task.labels):
            raise ValueError("columns must have names, and each label a number of rows")
        if len(task.train_annotated) not in (0, len(task.labels)):
            raise ValueError("train_annotated must have a number for each label, or none")
        flags = ("normalize_users", "normalize_urls", "label_codes", "single_label", "unknown_labels", "soft_labels")
        if not all(isinstance(getattr(task, flag), bool) for flag in flags):
            raise TypeError(f"{', '.join(flags)} must be true or false")
        return task
