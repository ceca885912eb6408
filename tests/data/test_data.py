"""Every kind of file and label gives the same rows."""

import csv

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SAMPLE
from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.data.columns import read_ids, read_texts
from utils.data.examples import read_examples
from utils.data.find_task import find_task
from utils.data.tables import read_table
from utils.data.training_data import layout_of, read_training_data

FRAME = pd.DataFrame(
    {
        "id": ["007", "2017-En-1", "x"],
        "text": ['"Quoted" from the start', "comma, ; and 😂 #tag @user", "two\nlines"],
        "joy": [1, 0, 0],
        "sad and low": [0, 1, 0],
        "anger": [1, 1, 0],
    }
)
LABELS = ["joy", "sad and low", "anger"]


def read(path, **flags):
    data_args = DataArguments(train_file=str(path), **flags)
    table = read_table(path, layout_of(data_args))
    task = find_task(table, data_args)
    return read_examples(table, task), task


def check(examples, task, frame=FRAME, labels=LABELS):
    assert examples.ids == list(frame["id"].astype(str))
    assert examples.texts == list(frame["text"])
    order = [task.labels.index(label) for label in labels]
    assert examples.labels[:, order].tolist() == frame[labels].to_numpy().tolist()


def test_csv_and_parquet_and_json_lines(tmp_path):
    FRAME.to_csv(tmp_path / "d.csv", index=False)
    FRAME.to_csv(tmp_path / "d.tsv", index=False, sep="\t")
    FRAME.to_parquet(tmp_path / "d.parquet")
    FRAME.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    for suffix in ("csv", "tsv", "parquet", "jsonl"):
        examples, task = read(tmp_path / f"d.{suffix}")
        assert task.labels == LABELS
        check(examples, task)


@pytest.mark.parametrize("cells", [("0", "1"), ("0.0", "1.0"), ("False", "True"), (" 0", "1 ")])
def test_ways_to_write_a_label(tmp_path, cells):
    frame = FRAME.copy()
    frame[LABELS] = frame[LABELS].replace({0: cells[0], 1: cells[1]}).astype(str)
    frame.to_csv(tmp_path / "d.csv", index=False)
    check(*read(tmp_path / "d.csv"))


def test_semeval_text_file(tmp_path):
    """Tab-separated without quoting: a tweet may begin with a quote, and two of them must stay two rows."""
    lines = ["ID\tTweet\tjoy\tfear", '1\t"so it begins\t1\t0', '2\t"again\t0\t1', "3\tit's \\n fine\t0\t0"]
    (tmp_path / "d.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    examples, _ = read(tmp_path / "d.txt")
    assert examples.texts == ['"so it begins', '"again', "it's \\n fine"]
    (tmp_path / "d.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    examples, _ = read(tmp_path / "d.tsv", csv_quoting="none")
    assert len(examples) == 3


def test_byte_order_mark_and_crlf(tmp_path):
    (tmp_path / "d.csv").write_bytes("﻿id,text,joy,fear\r\n1,a,0,1\r\n2,b,1,0\r\n".encode())
    examples, task = read(tmp_path / "d.csv")
    assert (task.id_column, examples.ids) == ("id", ["1", "2"])


@pytest.mark.parametrize(
    ("cells", "delimiter"),
    [
        (["joy, anger", "sad and low,anger", ""], None),
        (["joy;anger", "sad and low; anger", ""], None),
        (["joy|anger", "sad and low|anger", ""], None),
        (["joy/anger", "sad and low/anger", ""], "/"),
        (['["joy", "anger"]', "['sad and low', 'anger']", "[]"], None),
    ],
)
def test_delimited_label_lists(tmp_path, cells, delimiter):
    FRAME[["id", "text"]].assign(emotions=cells).to_csv(tmp_path / "d.csv", index=False)
    flags = {} if delimiter is None else {"label_delimiter": delimiter}
    examples, task = read(tmp_path / "d.csv", **flags)
    assert task.labels == sorted(LABELS)
    check(examples, task)


def test_real_lists_and_class_labels(tmp_path):
    lists = [["joy", "anger"], ["sad and low", "anger"], []]
    FRAME[["id", "text"]].assign(labels=lists).to_parquet(tmp_path / "d.parquet")
    check(*read(tmp_path / "d.parquet"))
    numbers = [[LABELS.index(name) for name in row] for row in lists]
    rows = datasets.Dataset.from_dict(
        {"text": [f"{text} {i}" for i in range(5) for text in FRAME["text"]], "labels": numbers * 5},
        features=datasets.Features(
            {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=LABELS))}
        ),
    )
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    args = DataArguments(dataset_name=str(tmp_path / "hub"), validation_fraction=0.4)
    train, validation, task = read_training_data(args, 0)
    assert task.labels == LABELS
    assert sorted(map(int, train.ids + validation.ids)) == list(range(15))
    assert 4 <= len(validation) <= 8
    with pytest.raises(UserError, match="no-such/set"):
        read_training_data(DataArguments(dataset_name="no-such/set"), 0)


def test_columns_that_are_neither(tmp_path, capsys):
    frame = FRAME.assign(source=["web", "app", "web"], likes=[3, 0, 12])
    frame.to_csv(tmp_path / "d.csv", index=False)
    args = DataArguments(train_file=str(tmp_path / "d.csv"), validation_file=str(tmp_path / "d.csv"))
    _, _, task = read_training_data(args, 0)
    assert task.labels == LABELS
    assert "ignored: ['likes', 'source']" in capsys.readouterr().err
    _, task = read(tmp_path / "d.csv", label_columns=["anger", "joy"])
    assert task.labels == ["anger", "joy"]
    renamed = FRAME.rename(columns={"text": "what they wrote", "id": "key"})
    renamed.to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(UserError, match="--text_column"):
        read(tmp_path / "d.csv")
    _, task = read(tmp_path / "d.csv", text_column=["what they wrote"], id_column="key")
    assert task.labels == LABELS


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": "ab", "comment_text": ["x y", "z"], "toxic": "01", "content": "10"}, ("id", "comment_text")),
        ({"Unnamed: 0": "01", "id": "78", "text": ["x", "y"], "a": "01", "b": "10"}, ("id", "text")),
        ({"id": "78", "index": "01", "text": ["x", "y"], "a": "01"}, ("id", "text")),
        ({"key": "78", "utterance": ["x y", "z"], "a": "01", "b": "10", "score": ["0.5", "7"]}, (None, "utterance")),
        ({"id": "01", "message": ["u", "v"], "text": ["p", "q"], "a": "01", "b": "10"}, ("id", "text")),
    ],
)
def test_which_column_is_which(tmp_path, columns, expected):
    pd.DataFrame({name: list(values) for name, values in columns.items()}).to_csv(tmp_path / "d.csv", index=False)
    _, task = read(tmp_path / "d.csv")
    assert (task.id_column, task.text_columns[0]) == expected
    assert set(task.labels) == {name for name in columns if list(columns[name]) in (["0", "1"], ["1", "0"])} - {
        "id",
        "Unnamed: 0",
    }


def test_sparse_label_columns_do_not_drop_out(tmp_path):
    rows = FRAME.assign(joy=["1", "", ""])
    rows.to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(UserError, match='column "joy" is empty'):
        read(tmp_path / "d.csv")


def test_columns_of_other_types_are_no_labels(tmp_path):
    FRAME.assign(vector=[[1.0, 2.0]] * 3, raw=[b"x"] * 3).to_parquet(tmp_path / "d.parquet")
    _, task = read(tmp_path / "d.parquet")
    assert task.labels == LABELS


def test_many_labels(tmp_path):
    labels = (np.random.default_rng(0).random((50, 300)) < 0.1).astype(int)
    frame = pd.DataFrame({"text": [f"row {i}" for i in range(50)]} | {f"l{i}": labels[:, i] for i in range(300)})
    frame.to_csv(tmp_path / "d.csv", index=False)
    examples, task = read(tmp_path / "d.csv")
    assert len(task.labels) == 300
    assert examples.ids[:3] == ["0", "1", "2"]
    assert (examples.labels == labels).all()


def test_texts_are_raw_unless_asked(tmp_path):
    FRAME.assign(text=["@a_b hi", "see https://t.co/x #tag", "😂"]).to_csv(tmp_path / "d.csv", index=False)
    assert read(tmp_path / "d.csv")[0].texts == ["@a_b hi", "see https://t.co/x #tag", "😂"]
    examples, _ = read(tmp_path / "d.csv", normalize_users=True, normalize_urls=True)
    assert examples.texts == ["@user hi", "see http #tag", "😂"]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=8), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_any_text_survives_a_csv(tmp_path_factory, texts, seed):
    path = tmp_path_factory.mktemp("csv") / "d.csv"
    labels = np.random.default_rng(seed).integers(0, 2, (len(texts), 2))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "a", "b"])
        writer.writerows([i, text, *row] for i, (text, row) in enumerate(zip(texts, labels)))
    table = read_table(path)
    task = find_task(table, DataArguments(train_file=str(path)))
    assert read_texts(table, task) == texts
    assert read_ids(table, task) == [str(i) for i in range(len(texts))]


def test_sample_data():
    counts = {}
    for name in ("train", "validation"):
        examples, task = read(SAMPLE / f"{name}.csv")
        counts[name] = examples.labels
        assert counts[name].sum(axis=1).max() <= 4
    assert len(counts["train"]) >= 480
    assert len(counts["validation"]) >= 120
    test, held = (pd.read_csv(SAMPLE / name, dtype=str) for name in ("test.csv", "test_labels.csv"))
    assert len(test) >= 120
    assert set(test[task.labels].to_numpy().ravel()) == {"NONE"}
    assert list(test["ID"]) == list(held["ID"])
    texts = [text for name in ("train", "validation", "test") for text in pd.read_csv(SAMPLE / f"{name}.csv")["Tweet"]]
    assert len(set(texts)) == len(texts)
