"""Examples: rows of a table with what is derived from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets.fingerprint import Hasher

from utils.core.log import log
from utils.core.progress import show_progress_of
from utils.data import columns, label_cells, label_lists, label_rows, splits, text
from utils.data.columns import check_unique_ids, read_ids, read_texts
from utils.data.label_rows import read_labels, read_weights
from utils.data.mapping import map_rows, processes_for
from utils.data.splits import near_duplicate_digests, number_groups
from utils.data.tables import Table
from utils.data.task import Task

ROWS_AT_A_TIME = 10_000


class Examples:
    """N texts with ids and L labels each, memory-mapped; what is derived from them is worked out once.

    Args:
        rows: data set with the columns id, text and labels (floats, as the loss wants them; NaN where not known), and
            weight, where rows have weights.
        groups: `[N]`, equal for near-duplicates; left out: found from the texts when asked for.

    Validation rows also know which of them have `leaked`: whether a training row is a near-duplicate, booleans `[N]`.
    """

    leaked: np.ndarray | None = None

    def __init__(self, rows: datasets.Dataset, groups: np.ndarray | None = None):
        self.rows = rows
        if groups is not None:
            self.groups = groups

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        """Ids of the rows, `[N]`."""
        return self.rows["id"][:]

    @property
    def texts(self) -> list[str]:
        """Texts of the rows, `[N]`."""
        return self.rows["text"][:]

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the rows, `[N, L]`: 0/1 as int8, or as float32 where any are shares, or not known (NaN)."""
        names = self.rows.features["labels"].length
        parts = [
            _compact(batch["labels"].combine_chunks().flatten().to_numpy().reshape(-1, names))
            for batch in self.rows.select_columns("labels").with_format("arrow").iter(ROWS_AT_A_TIME)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, names), dtype=np.int8)

    @property
    def weights(self) -> np.ndarray | None:
        """Weights of the rows in the loss, `[N]`; None where all count the same."""
        return np.array(self.rows["weight"][:]) if "weight" in self.rows.column_names else None

    def truth(self, single_label: bool = False) -> np.ndarray:
        """What scores take for true, `[N, L]`: 0/1 as int8, or as float32 with NaN in cells that are not known.

        Args:
            single_label: whether that is the largest share of a row, instead of all shares of 0.5 or more.
        """
        labels = self.labels
        if labels.dtype == np.int8:
            return labels
        if single_label:
            return (np.arange(labels.shape[1]) == labels.argmax(axis=1)[:, None]).astype(np.int8)
        return _compact(np.where(np.isnan(labels), np.nan, labels >= 0.5).astype(np.float32))

    @cached_property
    def groups(self) -> np.ndarray:
        """Numbers of the groups of near-duplicates, in the order of their first row: int array `[N]`."""
        return number_groups(self.digests)

    @property
    def digests(self) -> np.ndarray:
        """64 bits of each text, uint64 `[N]`: the same for near-duplicates."""
        return digest_texts(self)

    def iter_texts(self) -> Iterator[str]:
        """The texts one after the other, without holding them all."""
        for batch in self.rows.select_columns("text").iter(ROWS_AT_A_TIME):
            yield from batch["text"]

    def select(self, rows: np.ndarray | range) -> Examples:
        """Some of the rows; what is known about them stays known."""
        selected = Examples(self.rows.select(rows))
        if "labels" in self.__dict__:
            selected.labels = self.labels[rows]
        if "groups" in self.__dict__:
            selected.groups = pd.factorize(self.groups[rows])[0]  # in the order of their first row again
        if self.leaked is not None:
            selected.leaked = self.leaked[rows]
        return selected

    def head(self, most: int | None) -> Examples:
        """The first rows, `most` at most; all of them for None."""
        return self if most is None else self.select(range(min(most, len(self))))


def digest_texts(examples: Examples) -> np.ndarray:
    """64 bits of each text, uint64 `[N]`: the same for near-duplicates. Of many texts by all cores, and cached."""
    if processes_for(len(examples)) == 1:
        return near_duplicate_digests(examples.iter_texts())

    def digest_batch(batch: dict[str, list]) -> dict[str, np.ndarray]:
        return {"digest": near_duplicate_digests(batch["text"])}

    texts = examples.rows.select_columns("text")
    key = cache_key(texts._fingerprint, {}, splits, text)
    digests = map_rows(texts, digest_batch, key, "grouping", batch_size=ROWS_AT_A_TIME, remove_columns=["text"])
    return digests.with_format("arrow")[:]["digest"].to_numpy()


def _compact(labels: np.ndarray) -> np.ndarray:
    """Labels as int8 where all cells are 0 or 1, else as they are."""
    return labels.astype(np.int8) if ((labels == 0) | (labels == 1)).all() else labels


def log_samples(examples: Examples, labels: list[str], seed: int) -> None:
    """Show two rows drawn at random.

    Args:
        examples: to draw from.
        labels: names of the labels, `[L]`.
        seed: of the draw.
    """
    for row in np.random.default_rng(seed).choice(len(examples), min(2, len(examples)), replace=False):
        cells = examples.labels[row]
        names = [name for name, value in zip(labels, cells) if value >= 0.5]
        unknown = np.isnan(cells).sum()
        note = f"; {unknown} not annotated" if unknown else ""
        log(f"  {examples.rows[int(row)]['text']!r}: {', '.join(names) or '(none)'}{note}")


def read_examples(table: Table, task: Task) -> Examples:
    """The rows of a table as examples.

    They lie in the cache of `datasets`, and are read from there again while file, columns and text options stay the
    same.

    Raises:
        UserError: for rows that cannot be read.
    """
    rows = table.rows.with_format("arrow")

    def chunks() -> Iterator[Table]:
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            yield table.chunk(start, rows[start : start + ROWS_AT_A_TIME])

    check_unique_ids(chunks, task)
    show_progress_of(datasets.utils.tqdm)
    examples = rows.map(
        _read_rows,
        with_indices=True,
        batched=True,
        batch_size=ROWS_AT_A_TIME,
        remove_columns=rows.column_names,
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "text": datasets.Value("string"),
                "labels": datasets.List(datasets.Value("float32"), length=len(task.labels)),
                **({"weight": datasets.Value("float32")} if task.weight_column else {}),
            }
        ),
        fn_kwargs={"name": table.name, "first_row": table.first_row, "features": table.rows.features, "task": task},
        new_fingerprint=cache_key(rows._fingerprint, asdict(task), columns, label_cells, label_lists, label_rows, text),
        desc="reading",
    )
    return Examples(examples.with_format(None))


def cache_key(data_fingerprint: str, options: dict[str, Any], *modules: ModuleType) -> str:
    """Name of the cached result of working on a data set.

    Args:
        data_fingerprint: of the data set.
        options: what the result depends on besides the data.
        modules: whose code does the work.
    """
    code = [Path(str(module.__file__)).read_bytes() for module in modules]
    return Hasher.hash([data_fingerprint, json.dumps(options, sort_keys=True), code])


def _read_rows(
    rows: pa.Table, indices: list[int], name: str, first_row: int, features: datasets.Features, task: Task
) -> pa.Table:
    """Examples of some rows of a table."""
    dataset = datasets.Dataset(rows, info=datasets.DatasetInfo(features=features))
    part = Table(dataset, name, first_row, indices[0], task.unknown_labels, task.soft_labels)
    labels = pa.array(read_labels(part, task).astype(np.float32).ravel())
    return pa.table(
        {
            "id": read_ids(part, task),
            "text": read_texts(part, task),
            "labels": pa.FixedSizeListArray.from_arrays(labels, len(task.labels)),
            **({"weight": read_weights(part, task)} if task.weight_column else {}),
        }
    )


def content_hash(*parts: Examples) -> str:
    """SHA-256 of ids, texts and labels, as hex digits."""
    digest = hashlib.sha256()
    for examples in parts:
        digest.update(str(len(examples)).encode())
        for batch in examples.rows.select_columns(["id", "text"]).iter(ROWS_AT_A_TIME):
            digest.update(json.dumps([batch["id"], batch["text"]]).encode())
        digest.update(examples.labels.tobytes())
        if examples.weights is not None:
            digest.update(examples.weights.tobytes())
    return digest.hexdigest()
