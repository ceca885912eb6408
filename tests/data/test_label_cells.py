"""Labels in every shape that people write: names in one cell, numbers, words for yes and no."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_classifier
from conftest import training_flags
from utils.core.arguments import DataArguments
from utils.core.errors import UserError
from utils.data.examples import read_examples
from utils.data.find_task import find_task
from utils.data.label_lists import parse_names
from utils.data.tables import read_table
from utils.data.task import Task
from utils.runs.submission import Part, SubmissionFormat, submission_frame

NAMES = ["anger", "joy", "sad and low"]
LISTS = [["joy"], ["anger", "sad and low"], ["sad and low"], ["joy", "anger"]]


@pytest.fixture
def names_file(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(NAMES) + "\n")
    return str(tmp_path / "labels.txt")


def read(path, **flags):
    data_args = DataArguments(train_file=str(path), **flags)
    table = read_table(path)
    task = find_task(table, data_args)
    return read_examples(table, task), task


def write(path, cells, column="labels"):
    frame = pd.DataFrame({"id": range(len(cells)), "text": [f"text {i}" for i in range(len(cells))], column: cells})
    frame.to_csv(path, index=False)
    return path


def found(examples, task):
    return [{task.labels[i] for i in np.flatnonzero(row)} for row in examples.labels]


@pytest.mark.parametrize(
    "join",
    [
        "|".join,
        "; ".join,
        ", ".join,
        json.dumps,
        repr,
        lambda names: "; ".join(names) + ";",
        lambda names: f" {' | '.join(names)} ",
        lambda names: str(np.array(names)),
    ],
    ids=["bar", "semicolon", "comma", "json", "python", "trailing", "blanks", "numpy"],
)
@pytest.mark.parametrize("column", ["labels", "Label", "emotions", "sentiment"])
def test_names_in_a_cell(tmp_path, join, column):
    examples, task = read(write(tmp_path / "d.csv", [join(names) for names in LISTS], column))
    assert (task.labels, task.label_columns) == (NAMES, [column])
    assert found(examples, task) == list(map(set, LISTS))


@pytest.mark.parametrize(
    "join",
    [
        ",".join,
        ", ".join,
        "|".join,
        " ".join,
        lambda codes: f"[{' '.join(codes)}]",
        lambda codes: f"[{', '.join(codes)}]",
    ],
)
def test_numbers_of_labels(tmp_path, capsys, names_file, join):
    cells = [join([str(NAMES.index(name)) for name in names]) for names in LISTS]
    examples, task = read(write(tmp_path / "d.csv", cells), label_names=names_file)
    assert (task.labels, task.label_codes) == (NAMES, True)
    assert found(examples, task) == list(map(set, LISTS))
    # Without the names the numbers are the names, and it is said.
    examples, task = read(write(tmp_path / "d.csv", cells))
    assert task.labels == ["0", "1", "2"]
    assert "--label_names FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "cells",
    [
        ["joy love", "joy", "love", "anger joy", "anger"],
        ["joy love", "love anger", "anger joy"],  # none alone, but in every place
        ["#joy #love", "#joy", "#sad"],
        ["0 3", "2", "3 1", ""],
    ],
)
def test_blanks_between_labels(tmp_path, capsys, cells):
    examples, task = read(write(tmp_path / "d.csv", cells))
    assert found(examples, task) == [set(cell.split()) for cell in cells]
    assert task.label_delimiter == " "
    assert "blanks divide the labels" in capsys.readouterr().err
    whole = read(write(tmp_path / "d.csv", cells), label_delimiter=",")[1]
    assert whole.labels == sorted(set(filter(None, cells)), key=lambda cell: cell)


@pytest.mark.parametrize(
    ("cells", "is_told"),
    [
        (["very happy", "sad", "quite angry"], False),
        (["very happy", "happy", "sad", "very sad"], True),  # or labels `very`, `happy` and `sad`
        (["card arrival", "card payment", "top up"], True),
        (["joy", "joy love", "love"], True),  # that one pair may be a name
    ],
)
def test_names_of_several_words_are_not_divided(tmp_path, capsys, cells, is_told):
    examples, task = read(write(tmp_path / "d.csv", cells * 2))
    assert task.labels == sorted(set(cells))
    assert examples.labels.sum(axis=1).tolist() == [1] * len(examples)
    assert ("pass --label_delimiter ' '" in capsys.readouterr().err) == is_told
    divided = read(write(tmp_path / "d.csv", cells * 2), label_delimiter=" ")[1]
    assert divided.labels == sorted({word for cell in cells for word in cell.split()})
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cells", "labels", "said"),
    [
        (["joy love", "joy", "love", "anger joy", "anger"], "3 labels: anger, joy, love", "blanks divide the labels"),
        (["very happy", "happy", "sad", "very sad"], "4 labels: happy, sad, very happy, very sad", "WARNING: "),
        ([{"joy": 1, "anger": 0}, {"joy": 0, "anger": 1}], "2 labels: joy, anger", 'text: column "data.text"'),
    ],
    ids=["blanks", "names of words", "objects"],
)
def test_what_a_training_says_of_labels(tiny, tmp_path, capsys, cells, labels, said):
    """From the command line to the preflight."""
    rows = [{"data": {"id": f"r{i}", "text": f"text number {i}"}, "labels": cells[i % len(cells)]} for i in range(40)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = {"train_file": tmp_path / "d.jsonl", "validation_file": None, "preflight_only": True}
    run_classifier.main(training_flags(tiny("roberta"), tmp_path / "run", **flags))
    shown = capsys.readouterr().err
    assert labels in shown
    assert said in shown
    assert "ids: data.id; ignored: nothing" in shown


def test_numbers_that_begin_with_one(tmp_path, capsys, names_file):
    cells = [",".join(str(NAMES.index(name) + 1) for name in names) for names in LISTS]
    examples, task = read(write(tmp_path / "d.csv", cells), label_names=names_file)
    assert found(examples, task) == list(map(set, LISTS))
    assert 'the numbers begin with 1, which is "anger"' in capsys.readouterr().err
    assert (task.first_code, task.names_in_cells) == (1, ["1", "2", "3"])
    with pytest.raises(UserError, match=r"row 2.*: 0; write numbers from 1 to 3"):
        read_examples(read_table(write(tmp_path / "other.csv", ["0", "1"])), task)
    read(write(tmp_path / "d.csv", ["1", "2", "1"]), label_names=names_file)
    assert 'no cell holds the number 0, which is "anger"' in capsys.readouterr().err


def test_numbers_up_to_ten_are_in_order(tmp_path):
    _, task = read(write(tmp_path / "d.csv", [str(i) for i in range(12)]))
    assert task.labels == list(map(str, range(12)))


def test_one_number_in_a_column(tmp_path, names_file):
    """A column of 0 and 1 among others is numbers of labels too, where their names are given."""
    examples, task = read(write(tmp_path / "d.csv", [0, 1, 1, 0], "label"), label_names=names_file)
    assert found(examples, task) == [{"anger"}, {"joy"}, {"joy"}, {"anger"}]
    write(tmp_path / "d.csv", [0, 1, 2, 1, 0, 1], "label")  # most of them 0 and 1, but not all
    assert read(tmp_path / "d.csv")[1].labels == ["0", "1", "2"]
    examples, task = read(write(tmp_path / "d.csv", [0, 1, 2], "what"), label_names=names_file, label_columns=["what"])
    assert found(examples, task) == [{"anger"}, {"joy"}, {"sad and low"}]


def test_class_labels_of_the_hub(tmp_path):
    rows = datasets.Dataset.from_dict(
        {"text": [f"text {i}" for i in range(12)], "label": [0, 1, 2, 1] * 3},
        features=datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}),
    )
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    from utils.data.tables import read_hub_split

    table = read_hub_split(str(tmp_path / "hub"), None, None, "train")
    task = find_task(table, DataArguments(dataset_name=str(tmp_path / "hub")))
    assert found(read_examples(table, task), task)[:4] == [{"anger"}, {"joy"}, {"sad and low"}, {"joy"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("anger\n\njoy\n", "write a name in each line"),
        ("anger\njoy\nanger\n", '"anger" stands twice'),
        ("anger\n", "write a name in each line"),
    ],
)
def test_label_names_that_cannot_be(refused, tmp_path, content, words):
    (tmp_path / "labels.txt").write_text(content)
    line = refused(run_classifier.main, *training_flags("m", tmp_path / "run", label_names=tmp_path / "labels.txt"))
    assert words in line


def test_what_is_refused(refused, tmp_path, names_file):
    def line(cells, column="labels", **flags):
        path = write(tmp_path / "d.csv", cells, column)
        return refused(
            run_classifier.main,
            *training_flags("m", tmp_path / "run", train_file=path, validation_file=path, **flags),
        )

    assert 'row 3, column "labels" is no list of labels: 3; write numbers from 0 to 2' in line(
        ["0", "3", "1"], label_names=names_file
    )
    assert "is no list of labels: joy" in line(["0", "joy", "1"], label_names=names_file)
    assert "is no list of labels: -1" in line(["0", "-1", "1"], label_names=names_file)
    assert "say which by --label_columns" in line(["0", "1", "1"], "what", label_names=names_file)
    assert "no such file" in line(["0", "1"], label_names=tmp_path / "none.txt").lower()
    assert "--label_delimiter" in line(["joy, mild; anger", "joy"])
    assert 'row 2, column "labels" is no list of labels' in line(["[joy anger]", "['joy']"])
    assert "lists 3 cells of 0 and 1 in each row, not the names" in line(["[0 1 0]", "[1 0 0]"])
    assert 'column "labels" is no list of labels' in line(['["joy", null]', '["joy"]'])


def test_a_column_that_would_be_dropped_is_refused(tmp_path):
    """Beside lists too, where it was ignored before."""
    frame = pd.DataFrame({"text": ["a", "b", "c", "d"], "labels": ["joy", "anger", "joy", "joy"]})
    frame.assign(sarcastic=["x", "", "1", "?"]).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(UserError, match=r'column "sarcastic" holds .*name the columns that are by --label_columns'):
        read(tmp_path / "d.csv")
    assert read(tmp_path / "d.csv", label_columns=["labels"])[1].labels == ["anger", "joy"]
    frame.assign(sarcastic=["yes", "no", "no", "yes"]).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(UserError, match="say which are the labels"):
        read(tmp_path / "d.csv")


WORDS = st.text("abcä #&'\"-", min_size=1, max_size=8).map(str.strip).filter(lambda w: w and not w.startswith("["))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_names_survive_every_shape(data):
    names = data.draw(st.lists(WORDS, min_size=1, max_size=6, unique=True))
    chosen = [name for name in names if data.draw(st.booleans())]
    delimiter = data.draw(st.sampled_from([",", ";", "|", "/"]))
    around = data.draw(st.sampled_from(["", " "]))
    assert parse_names(f"{around}{delimiter}{around}".join(chosen), delimiter) == chosen
    assert parse_names(json.dumps(chosen), None) == chosen
    assert parse_names(repr(chosen), None) == chosen
    assert parse_names(chosen, None) == chosen
    codes = [str(names.index(name)) for name in chosen]
    assert parse_names(delimiter.join(codes), delimiter, names) == chosen
    assert parse_names([float(code) for code in codes], None, names) == chosen


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_submission_of_lists_reads_back(data):
    """What a submission writes into a column of lists, reading understands: names and numbers."""
    coded, delimiter = data.draw(st.booleans()), data.draw(st.sampled_from([",", "|", "; "]))
    task = Task(NAMES, ["text"], ["labels"], label_delimiter=delimiter, label_codes=coded, id_column="id")
    rows = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=1, max_size=5))
    part = Part([str(i) for i in range(len(rows))], np.arange(len(rows)))
    frame = submission_frame(SubmissionFormat(["id", "labels"], "id"), task, part, np.array(rows))
    read_back = [parse_names(cell, delimiter, NAMES if coded else None) for cell in frame["labels"]]
    assert [[int(name in names) for name in NAMES] for names in read_back] == rows
