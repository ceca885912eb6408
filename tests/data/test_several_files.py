"""Training rows from several files, which may have other labels, columns and forms."""

import json

import numpy as np
import pandas as pd
import pytest

import run_classifier
from conftest import SAMPLE, training_flags
from utils.core.arguments import DataArguments
from utils.data.training_data import read_training_data
from utils.runs.folder import load_task
from utils.scoring.predictions import Predictions

FIRST, SECOND = ["anger", "joy", "fear"], ["joy", "love", "fear"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The sample data in two files: other labels, other names of the columns, and one without ids."""
    folder = tmp_path_factory.mktemp("several")
    rows = pd.read_csv(SAMPLE / "train.csv")
    rows.head(300)[["ID", "Tweet", *FIRST]].to_csv(folder / "a.csv", index=False)
    rows.tail(220)[["Tweet", *SECOND]].rename(columns={"Tweet": "comment_text"}).to_csv(
        folder / "b.tsv", index=False, sep="\t"
    )
    return folder / "a.csv", folder / "b.tsv"


def test_labels_that_a_file_lacks_are_unknown_there(files, tiny, tmp_path, capsys):
    flags = training_flags(
        tiny("roberta"), tmp_path / "run", train_file=files[0], unknown_labels=True, validation_file=None, bf16=False,
        num_train_epochs=1,
    )  # fmt: skip
    place = flags.index("--train_file") + 2
    run_classifier.main([*flags[:place], str(files[1]), *flags[place:]])
    said = capsys.readouterr().err
    assert "a.csv has no column for love: not annotated there" in said
    assert "b.tsv has no column for anger: not annotated there" in said
    task = load_task(tmp_path / "run")
    assert task.labels == task.label_columns == ["anger", "joy", "fear", "love"]
    assert (task.id_column, task.text_columns) == ("ID", ["Tweet"])
    first, second = pd.read_csv(files[0]), pd.read_csv(files[1], sep="\t")
    expected = pd.concat([first.rename(columns={"Tweet": "text"}), second.rename(columns={"comment_text": "text"})])
    held = Predictions.load(tmp_path / "run", task.labels)
    truth = expected.set_index("text").loc[held.texts, task.labels].to_numpy(dtype=float)
    assert np.array_equal(held.truth, truth, equal_nan=True)
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["eval_annotated/love"] == (~np.isnan(truth[:, 3])).sum() < len(held)
    assert json.loads((tmp_path / "run" / "run_args.json").read_text())["train_file"] == [str(file) for file in files]


def read(*names, **more):
    return read_training_data(DataArguments(train_file=[str(name) for name in names], **more), seed=0)


def test_rows_and_ids_of_all_files_are_there(files):
    train, validation, task = read(*files, unknown_labels=True, validation_fraction=0.2)
    ids = set(train.ids) | set(validation.ids)
    assert len(ids) == 520
    assert {"300", "519"} <= ids  # rows of the second file, which has no ids, go on after the first's
    assert task.train_rows == len(train)
    assert not np.isnan(train.labels).all(axis=1).any()


def test_a_file_with_other_labels_is_refused_without_the_flag(files, tiny, tmp_path, refused):
    flags = training_flags(tiny("roberta"), tmp_path / "run", train_file=files[0])
    place = flags.index("--train_file") + 2
    message = refused(run_classifier.main, *flags[:place], files[1], *flags[place:])
    assert 'a.csv has no column "love"' in message
    assert "--unknown_labels" in message
    message = refused(run_classifier.main, *flags[:place], files[0], *flags[place:])
    assert "named twice" in message
    message = refused(run_classifier.main, *flags[:place], tmp_path / "none.csv", *flags[place:])
    assert "no such file" in message


def test_lists_of_labels_are_put_together(tmp_path, refused, tiny):
    for name, labels in (("a", ["joy, love", "joy"] * 5), ("b", ["fear", "joy, fear"] * 5)):
        frame = pd.DataFrame({"id": [f"{name}{i}" for i in range(10)], "text": [f"{name} text {i}" for i in range(10)]})
        frame.assign(labels=labels).to_csv(tmp_path / f"{name}.csv", index=False)
    train, validation, task = read(tmp_path / "a.csv", tmp_path / "b.csv", validation_fraction=0.3)
    assert task.labels == ["fear", "joy", "love"]
    together = {**dict(zip(train.ids, train.labels.tolist())), **dict(zip(validation.ids, validation.labels.tolist()))}
    assert together["a0"] == [0, 1, 1]
    assert together["b1"] == [1, 1, 0]
    frame.drop(columns="labels", errors="ignore").assign(joy=1, fear=[0, 1] * 5).to_csv(
        tmp_path / "columns.csv", index=False
    )
    flags = training_flags(tiny("roberta"), tmp_path / "run", train_file=tmp_path / "a.csv", validation_file=None)
    place = flags.index("--train_file") + 2
    message = refused(run_classifier.main, *flags[:place], tmp_path / "columns.csv", *flags[place:])
    assert "write both in one form" in message
    message = refused(run_classifier.main, *flags[:place], tmp_path / "again.csv", *flags[place:])
    assert "no such file" in message
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "again.csv", index=False)
    message = refused(run_classifier.main, *flags[:place], tmp_path / "again.csv", *flags[place:])
    assert 'the id "a0" stands in' in message
    assert "are trained on together" in message
