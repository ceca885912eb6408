"""What a run was trained to do: its labels, where they stood in the data, and how texts are read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils.core.files import write_json

TASK_FILE = "task.json"


@dataclass
class Task:
    """The content of a run folder's `task.json`; its labels are in the order of the model's logits.

    `label_columns` are the 0/1 columns, the same names as `labels`; or the one column that lists a row's labels, the
    names divided by `label_delimiter` (None where the file format has lists of its own).
    """

    labels: list[str]
    text_column: str
    label_columns: list[str]
    id_column: str | None = None
    label_delimiter: str | None = None
    normalize_users: bool = False
    normalize_urls: bool = False
    max_length: int = 256
    train_rows: int = 0
    train_positives: list[int] = field(default_factory=list)
    data_sha256: str = ""  # of all rows as they were read, before the split: the same for every seed and fold

    @property
    def labels_are_columns(self):
        """Whether each label has a 0/1 column of its own."""
        return self.label_columns == self.labels

    def save(self, folder):
        """Write `task.json` into `folder`."""
        write_json(Path(folder) / TASK_FILE, asdict(self))

    @classmethod
    def load(cls, folder):
        """Read `task.json` from `folder`."""
        return cls(**json.loads((Path(folder) / TASK_FILE).read_text(encoding="utf-8")))
