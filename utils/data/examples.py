"""Training and validation examples: read, split, counted."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.fingerprint import Hasher

from utils.core.errors import UserError
from utils.core.processes import local_main_first
from utils.data import columns, text
from utils.data.columns import check_unique_ids, find_task, read_ids, read_labels, read_texts
from utils.data.splits import assign_parts, near_duplicate_groups
from utils.data.tables import Table, read_hub_split, read_table

ROWS_AT_A_TIME = 10_000


def read_examples(table, task):
    """A data set with the columns id, text and labels (floats, as the loss wants them), memory-mapped.

    It lies in the cache of `datasets`, and is read again from there while file, columns and text options stay the same.

    Raises:
        UserError: for rows that cannot be read.
    """
    rows = table.rows.with_format("arrow")

    def chunks():
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            yield table.chunk(start, rows[start : start + ROWS_AT_A_TIME])

    check_unique_ids(chunks, task)
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
            }
        ),
        fn_kwargs={"name": table.name, "first_row": table.first_row, "features": table.rows.features, "task": task},
        new_fingerprint=cache_key(rows._fingerprint, asdict(task), columns, text),
        desc="reading",
    )
    return examples.with_format(None)


def cache_key(data_fingerprint, options, *modules):
    """Name of the cached result of working on a data set: from data, options, and the code that does the work."""
    code = [Path(module.__file__).read_bytes() for module in modules]
    return Hasher.hash([data_fingerprint, json.dumps(options, sort_keys=True), code])


def _read_rows(rows, indices, name, first_row, features, task):
    """Examples of some rows of a table: an Arrow table."""
    dataset = datasets.Dataset(rows, info=datasets.DatasetInfo(features=features))
    part = Table(dataset, name, first_row, start=indices[0])
    labels = pa.array(read_labels(part, task).astype(np.float32).ravel())
    return pa.table(
        {
            "id": read_ids(part, task),
            "text": read_texts(part, task),
            "labels": pa.FixedSizeListArray.from_arrays(labels, len(task.labels)),
        }
    )


def iter_texts(*data_sets):
    """The texts of data sets of examples, one after the other, without holding them all."""
    for examples in data_sets:
        for batch in examples.select_columns("text").iter(ROWS_AT_A_TIME):
            yield from batch["text"]


def label_array(examples):
    """The labels of a data set of examples: int8 array `[N, L]`."""
    names = examples.features["labels"].length
    parts = [
        batch["labels"].combine_chunks().flatten().to_numpy().astype(np.int8).reshape(-1, names)
        for batch in examples.select_columns("labels").with_format("arrow").iter(ROWS_AT_A_TIME)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, names), dtype=np.int8)


def content_hash(*data_sets):
    """SHA-256 of the ids, texts and labels of data sets of examples, as hex digits."""
    digest = hashlib.sha256()
    for examples in data_sets:
        digest.update(str(len(examples)).encode())
        for batch in examples.select_columns(["id", "text"]).iter(ROWS_AT_A_TIME):
            digest.update(json.dumps([batch["id"], batch["text"]]).encode())
        digest.update(label_array(examples).tobytes())
    return digest.hexdigest()


def read_training_data(data_args, seed, log):
    """Read training and validation examples, splitting the validation rows off where none are given.

    With folds all rows, those given for validation too, are dealt out to the folds; one of them is held out.

    Returns:
        `(train, validation, task)`: two data sets with the columns id, text, labels, and the `Task`.
    """
    if not data_args.train_file and not data_args.dataset_name:
        raise UserError("give the training data, either by --train_file or by --dataset_name")
    if data_args.dataset_name:
        where = (data_args.dataset_name, data_args.dataset_config, data_args.dataset_revision)
        train_table = read_hub_split(*where, data_args.train_split)
        validation_table = read_hub_split(*where, data_args.validation_split) if data_args.validation_split else None
    else:
        train_table = read_table(data_args.train_file, data_args.csv_quoting)
        validation_table = None
        if data_args.validation_file:
            validation_table = read_table(data_args.validation_file, data_args.csv_quoting)

    task = find_task(train_table, data_args)
    with local_main_first():  # the others find it in the cache
        train = read_examples(train_table, task)
        validation = None if validation_table is None else read_examples(validation_table, task)
    task.data_sha256 = content_hash(train) if validation is None else content_hash(train, validation)

    ignored = sorted(set(train_table.rows.column_names) - {task.id_column, task.text_column, *task.label_columns})
    log(f'text: column "{task.text_column}"; ids: {task.id_column or "row numbers"}; ignored: {ignored or "nothing"}')
    log(f"{len(task.labels)} labels: {', '.join(task.labels)}")
    if data_args.num_folds:
        rows = train if validation is None else _join(train, validation, task, train_table.name, validation_table.name)
        groups = near_duplicate_groups(iter_texts(rows))
        parts = assign_parts(label_array(rows), groups, np.full(data_args.num_folds, 1 / data_args.num_folds), seed)
        held_out = parts == data_args.fold
        if held_out.all() or not held_out.any():
            raise UserError(f"too few rows ({len(rows)}) for --num_folds {data_args.num_folds}: add rows or take less")
        train, validation = rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))
        log(
            f"fold {data_args.fold} of {data_args.num_folds}: {len(validation)} of {len(rows)} rows held out, "
            f"stratified over the labels, near-duplicates kept together; the same for all runs with this data and seed "
            f"{seed}"
        )
    elif validation is not None:
        groups = near_duplicate_groups(iter_texts(train, validation))
        shared = np.isin(groups[len(train) :], groups[: len(train)]).sum()
        log(f"{shared} of {len(validation)} validation rows have a near-duplicate in training")
    else:
        groups = near_duplicate_groups(iter_texts(train))
        fraction = data_args.validation_fraction
        parts = assign_parts(label_array(train), groups, [1 - fraction, fraction], seed)
        train, validation = train.select(np.flatnonzero(parts == 0)), train.select(np.flatnonzero(parts == 1))
        if len(train) == 0 or len(validation) == 0:
            raise UserError(
                f"{train_table.name} has too few rows ({len(parts)}) for --validation_fraction {fraction}: "
                "add rows or give a --validation_file"
            )
        log(
            f"validation split: {len(validation)} of {len(parts)} rows, stratified over the labels; the rows form "
            f"{groups.max() + 1} groups of near-duplicates, none of them on both sides"
        )
    if data_args.max_train_samples:
        train = train.select(range(min(data_args.max_train_samples, len(train))))
    if data_args.max_eval_samples:
        validation = validation.select(range(min(data_args.max_eval_samples, len(validation))))

    positives = label_array(train).sum(axis=0)
    for name, count in zip(task.labels, positives):
        if count == 0:
            log(f'warning: no training row has the label "{name}": it cannot be learnt')
    task.train_rows, task.train_positives = len(train), positives.tolist()
    return train, validation, task


def _join(first, second, task, first_name, second_name):
    """The rows of both data sets of examples in one.

    Raises:
        UserError: for an id that stands in both.
    """
    if task.id_column is None:  # row numbers, which go on
        second = second.map(lambda row, i: row | {"id": str(len(first) + i)}, with_indices=True)
    shared = set(first["id"][:]) & set(second["id"][:])
    if shared:
        raise UserError(
            f'the id "{min(shared)}" stands in {first_name} and in {second_name} ({len(shared)} such ids), whose rows '
            "are dealt out to the folds together: make ids unique"
        )
    return datasets.concatenate_datasets([first, second])


def read_evaluation_data(data_args, log):
    """Read validation examples where there is nothing to train on; the `Task` is found in their own file.

    Returns:
        `(validation, task)`: a data set with the columns id, text, labels, and the `Task`.
    """
    if not data_args.validation_file:
        raise UserError("give the rows to evaluate by --validation_file")
    table = read_table(data_args.validation_file, data_args.csv_quoting)
    task = find_task(table, data_args)
    with local_main_first():
        validation = read_examples(table, task)
    task.data_sha256 = content_hash(validation)
    log(f"{len(task.labels)} labels: {', '.join(task.labels)}")
    if data_args.max_eval_samples:
        validation = validation.select(range(min(data_args.max_eval_samples, len(validation))))
    task.train_positives = [0] * len(task.labels)
    return validation, task
