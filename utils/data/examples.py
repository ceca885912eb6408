"""Training and validation examples: read, split, counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets.fingerprint import Hasher

from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.processes import local_main_first
from utils.core.progress import show_progress_of
from utils.data import columns, label_cells, label_lists, label_rows, text
from utils.data.columns import check_unique_ids, find_task, read_ids, read_texts, title_beside
from utils.data.headers import Layout
from utils.data.label_rows import (
    annotated_rows,
    describe_labels,
    has_one_label_per_text,
    in_file,
    join_tasks,
    named_columns,
    read_labels,
    read_weights,
)
from utils.data.splits import assign_parts, near_duplicate_groups
from utils.data.tables import Table, read_hub_split, read_table
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
        return near_duplicate_groups(self.iter_texts())

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


def read_training_data(data_args: DataArguments, seed: int) -> tuple[Examples, Examples, Task]:
    """Read training and validation examples.

    Without rows for validation some of the training rows are held out. With folds all rows, those for validation too,
    are dealt out to the folds, and one fold is held out.

    Args:
        data_args: where the rows are and how they are read.
        seed: of the split.

    Returns:
        `(train, validation, task)`.

    Raises:
        UserError: for files that cannot be read, or that hold too few rows to split.
    """
    train, validation, task, names = _read_rows_of_files(data_args)
    if data_args.num_folds:
        rows = train
        if validation is not None:
            rows = _join(train, validation, task, names, "are dealt out to the folds together")
        train, validation = _hold_out_fold(rows, data_args.num_folds, data_args.fold, seed)
    elif validation is None:
        train, validation = _hold_out_fraction(train, data_args.validation_fraction, seed, names[0])
    else:
        train, validation = _part_near_duplicates(train, validation, data_args)
    if validation.leaked is None:  # our own splits keep near-duplicates together
        validation.leaked = np.zeros(len(validation), dtype=bool)
    train, validation = train.head(data_args.max_train_samples), validation.head(data_args.max_eval_samples)

    positives = (train.truth(task.single_label) == 1).sum(axis=0)
    if train.weights is not None and not train.weights.any():
        raise UserError(f"--weight_column {task.weight_column}: all training rows have the weight 0")
    if len(task.labels) == 1 and positives[0] in (0, len(train)):
        raise UserError(
            f"{'all' if positives[0] else 'none'} of the {len(train)} training rows have the only label, "
            f'"{task.labels[0]}": there is nothing to learn without rows of both kinds'
        )
    for name, count in zip(task.labels, positives):
        if count == 0:
            log(f'warning: no training row has the label "{name}": it cannot be learnt')
    task.train_rows, task.train_positives = len(train), positives.tolist()
    known = ~np.isnan(train.labels)
    if not known.all():
        task.train_annotated = known.sum(axis=0).tolist()
        for name, count in zip(task.labels, task.train_annotated):
            if count == 0:
                raise UserError(f'no training row is annotated for the label "{name}": it cannot be learnt')
    return train, validation, task


def _part_near_duplicates(train: Examples, validation: Examples, data_args: DataArguments) -> tuple[Examples, Examples]:
    """Find validation rows that have a near-duplicate in training; with `--drop_leaks`, leave the latter out.

    It is the training that loses rows: on other validation rows a score could not be compared with other runs' any
    more, and rows that are retweeted and quoted are part of what the score is meant to say.

    Args:
        train: rows to train on.
        validation: given validation rows.
        data_args: say whether leaks are dropped, and how many training rows are taken.

    Returns:
        `(train, validation)`; the validation rows know which of them have leaked into the rows trained on.

    Raises:
        UserError: where no training row would be left.
    """
    groups = near_duplicate_groups(chain(train.iter_texts(), validation.iter_texts()))
    here, there = groups[: len(train)], groups[len(train) :]
    validation.groups = pd.factorize(there)[0]
    log(f"{np.isin(there, here).sum()} of {len(validation)} validation rows have a near-duplicate in training")
    if data_args.drop_leaks:
        kept = np.flatnonzero(~np.isin(here, there))
        if len(kept) == 0:
            raise UserError("--drop_leaks leaves no training rows: each is a near-duplicate of a validation row")
        log(f"--drop_leaks: {len(train) - len(kept)} of {len(train)} training rows left out, all validation rows kept")
        train, here = train.select(kept), here[kept]
    validation.leaked = np.isin(there, here[: data_args.max_train_samples])
    return train, validation


def _read_rows_of_files(data_args: DataArguments) -> tuple[Examples, Examples | None, Task, tuple[str, str]]:
    """The rows of all files as they are, and what they are labelled with.

    Returns:
        `(train, validation, task, names)`: no validation rows where no file of them is given; names of the files for
        messages.
    """
    train_tables, validation_table = _read_tables(data_args)
    tables = [*train_tables, *filter(None, [validation_table])]
    for table in tables:
        table.unknown_labels, table.soft_labels = data_args.unknown_labels, data_args.soft_labels
    several = len(train_tables) > 1
    found = [find_task(table, named_columns(table, data_args) if several else data_args) for table in train_tables]
    task = join_tasks(found, train_tables) if several else found[0]
    in_files = [in_file(task, one) for one in found] if several else found
    if validation_table is not None:
        in_files.append(task)
    with local_main_first():  # the other processes find the examples in the cache
        read = [(table, read_examples(table, one)) for table, one in zip(tables, in_files)]
    task.single_label = has_one_label_per_text(read, task, data_args.task)
    parts = [annotated_rows(examples, table.name) for table, examples in read]
    validation = parts.pop() if validation_table is not None else None
    train, name = parts[0], train_tables[0].name
    for table, part, one in zip(train_tables[1:], parts[1:], found[1:]):
        train = _join(train, part, one, (name, table.name), "are trained on together")
        name = f"{name} and {table.name}"
    task.data_sha256 = content_hash(train) if validation is None else content_hash(train, validation)
    for table, one in zip(train_tables, found):
        labels = map(table.find, one.label_columns)
        ignored = sorted({*table.rows.column_names} - {one.id_column, *one.text_columns, one.weight_column, *labels})
        where = f"{table.name}: " if several else ""
        ids, texts = one.id_column or "row numbers", " and ".join(f'"{name}"' for name in one.text_columns)
        log(f"{where}text: column {texts}; ids: {ids}; ignored: {ignored or 'nothing'}")
        title = None if data_args.text_column else title_beside(table, one)
        if title:
            joined = f"--text_column {title} {one.text_columns[0]}"
            log(f'{where}"{title}" is not read: {joined} joins both (--text_column {one.text_columns[0]}: as it is)')
        missing = [label for label in task.labels if task.labels_are_columns and label not in one.labels]
        if missing:
            log(f"{table.name} has no column for {', '.join(missing)}: not annotated there")
    log(describe_labels(task, data_args.task))
    return train, validation, task, (name, validation_table.name if validation_table is not None else "")


def _read_tables(data_args: DataArguments) -> tuple[list[Table], Table | None]:
    """The tables of training and validation rows; None where no validation rows are given."""
    if data_args.dataset_name:
        where = (data_args.dataset_name, data_args.dataset_config, data_args.dataset_revision)
        split = data_args.validation_split
        return [read_hub_split(*where, data_args.train_split)], read_hub_split(*where, split) if split else None
    if not data_args.train_file:
        raise UserError("give the training data, either by --train_file or by --dataset_name")
    file = data_args.validation_file
    train = [read_table(name, layout_of(data_args)) for name in data_args.train_file]
    return train, read_table(file, layout_of(data_args)) if file else None


def layout_of(data_args: DataArguments) -> Layout:
    """What the flags say of how training and validation files are written."""
    names = data_args.column_names
    given = tuple(names) if names else None
    return Layout(data_args.csv_quoting, data_args.csv_separator, given, sheet=data_args.excel_sheet)


def _hold_out_fold(rows: Examples, folds: int, fold: int | None, seed: int) -> tuple[Examples, Examples]:
    """`(train, validation)`: all folds but one, and that one."""
    fractions = np.full(folds, 1 / folds)
    held_out = assign_parts(rows.labels, rows.groups, fractions, seed) == fold
    if held_out.all() or not held_out.any():
        raise UserError(f"too few rows ({len(rows)}) for --num_folds {folds}: add rows or take less")
    log(
        f"fold {fold} of {folds}: {held_out.sum()} of {len(rows)} rows held out, stratified "
        f"over the labels, near-duplicates kept together; the same for all runs with this data and seed {seed}"
    )
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def _hold_out_fraction(rows: Examples, fraction: float, seed: int, name: str) -> tuple[Examples, Examples]:
    """`(train, validation)`: the rows without a fraction of them, and that fraction."""
    parts = assign_parts(rows.labels, rows.groups, [1 - fraction, fraction], seed)
    train, validation = (rows.select(np.flatnonzero(parts == part)) for part in (0, 1))
    if len(train) == 0 or len(validation) == 0:
        raise UserError(
            f"{name} has too few rows ({len(rows)}) for --validation_fraction {fraction}: "
            "add rows or give a --validation_file"
        )
    log(
        f"validation split: {len(validation)} of {len(rows)} rows, stratified over the labels; the rows form "
        f"{rows.groups.max() + 1} groups of near-duplicates, none of them on both sides"
    )
    return train, validation


def _join(first: Examples, second: Examples, task: Task, names: tuple[str, str], why: str) -> Examples:
    """The rows of two tables in one.

    Args:
        first: rows.
        second: more rows.
        task: of the second, whose ids are row numbers where it has no column of them.
        names: of the tables.
        why: their rows are joined.

    Raises:
        UserError: for an id that stands in both.
    """
    others = second.rows
    if task.id_column is None:  # row numbers, which go on
        others = others.map(lambda row, i: row | {"id": str(len(first) + i)}, with_indices=True)
    shared = set(first.ids) & set(others["id"][:])
    if shared:
        raise UserError(
            f'the id "{min(shared)}" stands in {names[0]} and in {names[1]} ({len(shared)} such ids), whose rows '
            f"{why}: make ids unique"
        )
    return Examples(datasets.concatenate_datasets([first.rows, others]))


def read_evaluation_data(data_args: DataArguments) -> tuple[Examples, Task]:
    """Read validation examples where there is nothing to train on; the `Task` is found in their own file.

    Returns:
        `(validation, task)`.

    Raises:
        UserError: for a file that is missing or cannot be read.
    """
    if not data_args.validation_file:
        raise UserError("give the rows to evaluate by --validation_file")
    table = read_table(data_args.validation_file, layout_of(data_args))
    table.unknown_labels, table.soft_labels = data_args.unknown_labels, data_args.soft_labels
    task = find_task(table, data_args)
    with local_main_first():
        validation = read_examples(table, task)
    task.data_sha256 = content_hash(validation)
    task.single_label = has_one_label_per_text([(table, validation)], task, data_args.task)
    validation = annotated_rows(validation, table.name)
    log(describe_labels(task, data_args.task))
    task.train_positives = [0] * len(task.labels)
    return validation.head(data_args.max_eval_samples), task
