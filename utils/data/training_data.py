"""Training and validation examples: read from files or the hub, joined, split, counted."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd

from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.processes import local_main_first
from utils.data.examples import Examples, content_hash, read_examples
from utils.data.find_task import column_of_ids, find_task, title_beside
from utils.data.headers import Layout
from utils.data.label_rows import (
    annotated_rows,
    describe_labels,
    has_one_label_per_text,
    in_file,
    join_tasks,
    named_columns,
)
from utils.data.splits import assign_parts, number_groups
from utils.data.tables import Table, read_hub_split, read_table
from utils.data.task import Task


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
    groups = number_groups(np.concatenate([train.digests, validation.digests]))
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
        ids_in = None if one.id_column or data_args.id_column else column_of_ids(table, ignored)
        if ids_in:
            log(f'{where}"{ids_in}" is another in each row: --id_column {ids_in} takes it for the ids')
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
