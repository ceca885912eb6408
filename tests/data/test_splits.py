import csv

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SAMPLE
from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.data import mapping
from utils.data.splits import assign_parts, near_duplicate_groups
from utils.data.text import near_duplicate_key, normalize
from utils.data.training_data import read_training_data


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 80))
@settings(deadline=None, max_examples=60)
def test_groups_stay_together_and_every_row_has_a_part(seed, parts, rows):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 2, (rows, 3)), rng.integers(0, rows // 2 + 1, rows)
    assigned = assign_parts(labels, groups, np.full(parts, 1 / parts), seed)
    assert set(assigned) <= set(range(parts))
    assert all(len(set(assigned[groups == group])) == 1 for group in groups)
    assert np.array_equal(assigned, assign_parts(labels, groups, np.full(parts, 1 / parts), seed))


def assign_parts_densely(labels, groups, fractions, seed):
    """The same algorithm over a table of all groups and labels."""
    labels = (labels >= 0.5).astype(int)
    rng = np.random.default_rng(seed)
    columns = np.column_stack([labels, labels.sum(axis=1) == 0, np.ones(len(labels), dtype=int)])
    _, group_of_row = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_of_row.max() + 1, columns.shape[1]), dtype=int)
    np.add.at(counts, group_of_row, columns)
    wanted = np.outer(fractions, counts.sum(axis=0)).astype(float)
    part_of_group, remaining = np.full(len(counts), -1), counts.sum(axis=0)
    while remaining.any():
        label = np.argmin(np.where(remaining > 0, remaining, np.iinfo(int).max))
        members = rng.permutation(np.flatnonzero((counts[:, label] > 0) & (part_of_group < 0)))
        for group in members[np.argsort(-counts[members, label], kind="stable")]:
            part = np.lexsort((rng.random(len(fractions)), wanted[:, -1], wanted[:, label]))[-1]
            part_of_group[group] = part
            wanted[part] -= counts[group]
            remaining -= counts[group]
    return part_of_group[group_of_row]


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 80), st.integers(1, 9), st.booleans())
def test_a_sparse_table_of_labels_splits_as_a_dense_one(seed, parts, rows, labels, soft):
    rng = np.random.default_rng(seed)
    cells = (rng.random((rows, labels)) < rng.random(labels)).astype(np.int8)
    if soft:
        cells = np.where(rng.random(cells.shape) < 0.1, np.nan, cells * rng.random(cells.shape))
    groups, fractions = rng.integers(0, rows // 2 + 1, rows), rng.dirichlet(np.ones(parts))
    assigned = assign_parts(cells, groups, fractions, seed)
    assert np.array_equal(assigned, assign_parts_densely(cells, groups, fractions, seed))


def test_rare_labels_are_spread_evenly():
    with open(SAMPLE / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([[int(value) for value in list(row.values())[2:]] for row in rows])
    parts = assign_parts(labels, np.arange(len(rows)), np.full(5, 0.2), seed=0)
    counts = np.array([labels[parts == part].sum(axis=0) for part in range(5)])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 2
    assert np.ptp(np.bincount(parts)) <= 0.1 * len(rows)


def test_near_duplicates():
    texts = [
        "So happy today! #joy #blessed",
        "so happy   today @friend https://t.co/abc",
        "So happy today!\\n\\n#smile",
        "So sad today! #joy",
        "#joy",
        "#sad",
        "😂😂",
        "😭",
    ]
    assert list(near_duplicate_groups(texts)) == [0, 0, 0, 1, 2, 3, 4, 5]
    assert near_duplicate_key("I'm FINE") == "i m fine"


def test_several_processes_find_the_same_near_duplicates(monkeypatch):
    data_args = DataArguments(train_file=[str(SAMPLE / "train.csv")], validation_file=str(SAMPLE / "validation.csv"))
    train, validation, _ = read_training_data(data_args, seed=1)
    alone = train.digests
    monkeypatch.setattr(mapping, "ROWS_PER_PROCESS", len(train) // 3)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert mapping.processes_for(len(train)) == 2
    assert np.array_equal(train.digests, alone)
    again = read_training_data(data_args, seed=1)[1]
    assert np.array_equal(again.leaked, validation.leaked)
    assert np.array_equal(again.groups, validation.groups)


def test_normalizing_touches_nothing_else():
    text = "@ann_b look at #this 😂 me@mail.example https://t.co/x1 www.site.example"
    assert normalize(text) == text
    assert normalize(text, users=True).startswith("@user look at #this 😂 me@mail.example https://t.co/x1")
    assert normalize(text, urls=True) == "@ann_b look at #this 😂 me@mail.example http http"


def test_folds_cover_every_row_once_and_never_split_near_duplicates(tmp_path):
    rows = pd.read_csv(SAMPLE / "train.csv", dtype=str)
    twins = rows.head(60).assign(ID=lambda frame: "twin-" + frame["ID"], Tweet=lambda frame: frame["Tweet"] + " #more")
    pd.concat([rows, twins]).to_csv(tmp_path / "train.csv", index=False)

    def read(fold, seed=7, **options):
        options = {"validation_file": str(SAMPLE / "validation.csv")} | options
        arguments = DataArguments(train_file=str(tmp_path / "train.csv"), num_folds=5, fold=fold, **options)
        return read_training_data(arguments, seed)

    held_out, fold_of, hashes = [], {}, set()
    for fold in range(5):
        train, validation, task = read(fold)
        assert not set(train.ids) & set(validation.ids)
        assert len(train) + len(validation) == len(rows) + 60 + 124
        assert task.train_rows == len(train)
        hashes.add(task.data_sha256)
        held_out += validation.ids
        fold_of |= {row_id: fold for row_id in validation.ids}
        assert list(read(fold)[1].ids) == list(validation.ids)
        counts = validation.labels.sum(axis=0)
        assert np.abs(counts - (train.labels.sum(axis=0) + counts) / 5).max() <= 4
    assert len(held_out) == len(set(held_out)) == len(rows) + 60 + 124
    assert all(fold_of[row_id] == fold_of[f"twin-{row_id}"] for row_id in rows["ID"][:60])
    assert list(read(0, seed=8)[1].ids) != list(read(0)[1].ids)
    # All of them, and other seeds, say that they are of the same data; with a row less they are of others.
    assert hashes == {read(0, seed=8)[2].data_sha256}
    pd.concat([rows, twins[1:]]).to_csv(tmp_path / "train.csv", index=False)
    assert read(0)[2].data_sha256 not in hashes
    with pytest.raises(UserError, match="stands in"):
        read(0, validation_file=str(SAMPLE / "train.csv"))


def test_folds_without_ids(tmp_path):
    for name in ("train", "validation"):
        pd.read_csv(SAMPLE / f"{name}.csv").drop(columns="ID").head(50).to_csv(tmp_path / f"{name}.csv", index=False)
    arguments = DataArguments(
        train_file=str(tmp_path / "train.csv"), validation_file=str(tmp_path / "validation.csv"), num_folds=2, fold=1
    )
    train, validation, _ = read_training_data(arguments, 1)
    assert sorted(map(int, [*train.ids, *validation.ids])) == list(range(100))


def test_folds_that_do_not_exist():
    for options, problem in (({"num_folds": 5}, "belong together"), ({"num_folds": 5, "fold": 5}, "numbered from 0")):
        with pytest.raises(UserError, match=problem):
            DataArguments(train_file="x.csv", **options)
