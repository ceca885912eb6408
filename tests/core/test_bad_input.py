"""Mistakes of the user: one line on stderr, exit status 2, nothing written."""

import json
import shutil

import pandas as pd
import pytest

import make_submission
import run_classifier
from conftest import SAMPLE, run_script, training_flags

ROWS = {"id": ["a", "b", "c", "d"], "text": ["one", "two", "three", "four"], "joy": [1, 0, 1, 0], "fear": [0, 1, 0, 1]}


@pytest.fixture
def train_on(refused, tmp_path):
    """Train on a data frame (or bytes) that must be refused; returns the line that says why."""

    def call(train, validation=None, suffix=".csv", **flags):
        for name, content in (("train", train), ("validation", validation)):
            path = tmp_path / f"{name}{suffix}"
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content is not None:
                pd.DataFrame(content).to_csv(path, index=False)
        flags = {
            "train_file": tmp_path / f"train{suffix}",
            "validation_file": None if validation is None else tmp_path / f"validation{suffix}",
        } | flags
        line = refused(run_classifier.main, *training_flags("no-such-model", tmp_path / "run", **flags))
        assert not (tmp_path / "run").exists()
        return line

    return call


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"joy": [1, 0, 2, 0]}, ['train.csv, row 4, column "joy"', 'is "2"', "must be 0 or 1"]),
        ({"joy": [1, "", 1, 0]}, ['row 3, column "joy" is empty']),
        ({"id": ["a", "b", "a", "d"]}, ['row 4, column "id"', '"a"', "row 2"]),
        ({"id": ["a", "", "c", "d"]}, ['row 3, column "id" is empty']),
        ({"text": ["one", "  ", "three", "four"]}, ['row 3, column "text" has no text', "take the row out"]),
        ({"joy": ["p"] * 4, "fear": ["q"] * 4}, ["no label column", "--label_columns"]),
    ],
)
def test_training_rows(train_on, change, words):
    line = train_on(ROWS | change)
    assert all(word in line for word in words), line


def test_training_files(train_on, tmp_path):
    assert "is empty" in train_on(b"")
    assert "has no rows" in train_on(b"id,text,joy,fear\n")
    assert "not UTF-8" in train_on("id,text,joy,fear\n1,caf\xe9,0,1\n".encode("latin-1"))
    assert "row 2: a cell begins with a quote that is never closed" in train_on(
        b'id,text,joy,fear\n1,"never closed,0,1\n2,b,0,1\n'
    )
    assert "row 2 has 5 cells, its header 4" in train_on(b"id,text,joy,fear\n1,a,0,1,0\n2,b,0,1,0\n")
    assert "row 3 has 3 cells, its header 5" in train_on(b"id,text,joy,fear,src\n1,a,0,1,x\n2,b,1\n3,c,1,1,\n")
    assert "unknown kind of file" in train_on(b"x", suffix=".dat")
    assert "no such file" in train_on(ROWS, train_file=tmp_path / "missing.csv")
    no_text = {key: value for key, value in ROWS.items() if key != "text"}
    assert "--text_column" in train_on(no_text)
    assert 'no column "body"' in train_on(ROWS, text_column="body")
    assert "too few rows" in train_on({key: value[:1] for key, value in ROWS.items()})


def test_swallowed_row(train_on):
    content = b'id\ttext\tjoy\tfear\n1\t"so it begins\t1\t0\n2\t"again\t0\t1\n3\tx\t0\t1\n'
    line = train_on(content, suffix=".tsv")
    assert "row 2" in line
    assert "--csv_quoting none" in line


def test_swallowed_rows_in_a_csv(train_on):
    content = b'id,text,joy,fear\n1,"so it begins,1,0\n2,x,0,1\n3,"again,0,1\n4,x,0,0\n5,y,1,0\n'
    assert "--csv_quoting none" in train_on(content)


def test_columns_that_could_be_several_things(train_on):
    assert "say which are the labels" in train_on(ROWS | {"labels": ["joy", "fear", "joy", ""]})
    listed = {"id": ["a", "b"], "text": ["one", "two"]}
    assert "not the names of labels" in train_on(listed | {"labels": ["[0, 1]", "[1, 0]"]})
    assert "is no list of labels" in train_on(listed | {"labels": ["[joy love]", "['fear']"]})
    assert "is no list of labels" in train_on(listed | {"labels": ["[joy, love]", "['fear']"]})
    assert "--label_delimiter" in train_on(listed | {"labels": ["fear, mild;love", "joy"]})
    assert "has the name of the id column" in train_on(listed | {"labels": ["id, ego", "ego"]})
    assert 'two columns named "joy"' in train_on(b"id,text,joy,joy\n1,a,0,1\n2,b,1,0\n")


def test_validation_differs_from_training(train_on):
    line = train_on(ROWS, {key: value for key, value in ROWS.items() if key != "fear"})
    assert 'validation.csv has no column "fear"' in line
    listed = {"id": [1, 2], "text": ["a", "b"], "labels": ["joy, fear", "fear"]}
    line = train_on(listed, listed | {"labels": ["joy", "anger"]})
    assert 'validation.csv, row 3, column "labels": unknown label "anger"' in line


def test_label_without_positive_rows_is_warned_of(tiny, tmp_path, capsys):
    rows = pd.read_csv(SAMPLE / "train.csv").assign(trust=0)
    rows.to_csv(tmp_path / "train.csv", index=False)
    flags = training_flags(
        tiny("roberta"),
        tmp_path / "run",
        train_file=tmp_path / "train.csv",
        max_train_samples=64,
        num_train_epochs=1,
        pos_weight="balanced",
    )
    run_classifier.main(flags)
    captured = capsys.readouterr().err
    assert 'warning: no training row has the label "trust"' in captured
    assert ["trust", "0", "20.00"] in [line.split() for line in captured.splitlines()]
    loss = json.loads((tmp_path / "run" / "train_results.json").read_text())["train_loss"]
    assert 0 < loss < 10


def test_flags(refused, tmp_path):
    flags = training_flags("m", tmp_path / "run")
    assert "--learning_rate" in refused(run_classifier.main, *flags, "--learning_rte", "1")
    assert "invalid float value" in refused(run_classifier.main, *flags, "--learning_rate", "fast")
    assert "invalid choice" in refused(run_classifier.main, *flags, "--loss", "mse")
    line = refused(run_classifier.main, *flags, "--loss", "bec")
    assert "invalid choice: bec (choose from bce, focal, asl): did you mean bce?" in line
    assert "--pos_weight much" in refused(run_classifier.main, *flags, "--pos_weight", "much")
    assert "named twice" in refused(run_classifier.main, *flags, "--label_columns", "joy", "fear", "joy")
    assert "--train_file" in refused(run_classifier.main, "--model_name_or_path", "m", "--output_dir", "x")
    assert "--output_dir" in refused(run_classifier.main, "--model_name_or_path", "m", "--train_file", "x")
    assert "--test_file is missing" in refused(make_submission.main, "--model", "x")
    assert "no-such-model cannot be loaded" in refused(
        run_classifier.main, *training_flags("no-such-model", tmp_path / "run")
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("learning_rate", "nan"),
        ("num_train_epochs", 0),
        ("adam_beta1", 2),
        ("threshold_shrinkage", "nan"),
        ("focal_gamma", -2),
        ("lora_r", 0),
        ("label_smoothing_factor", 1),
        ("layer_lr_decay", 1.1),
        ("freeze_layers", -1),
        ("activation_checkpointing_kwargs", "[]"),
        ("save_only_model", True),
        ("resume_from_checkpoint", "x"),
        ("dataloader_drop_last", True),
    ],
)
def test_values_out_of_range(refused, tmp_path, name, value):
    assert f"--{name}" in refused(run_classifier.main, *training_flags("m", tmp_path / "run"), f"--{name}", value)


def test_mistakes_that_trainer_would_meet_late(refused, tiny, tmp_path):
    """They must come before anything is written: `--overwrite` may have a finished run to lose."""
    flags = training_flags(tiny("roberta"), tmp_path / "run", max_train_samples=32)
    line = refused(run_classifier.main, *flags, "--metric_for_best_model", "f1_makro")
    assert "f1_macro_tuned" in line
    assert "no_such_tracker" in refused(run_classifier.main, *flags, "--report_to", "no_such_tracker")
    assert "--early_stopping_patience" in refused(
        run_classifier.main, *flags, "--eval_strategy", "no", "--early_stopping_patience", "1"
    )
    assert "is the folder of the model" in refused(run_classifier.main, *training_flags(tmp_path, tmp_path))
    (tmp_path / "file").write_text("")
    assert "below, a file" in refused(run_classifier.main, *training_flags("m", tmp_path / "file" / "run"))
    assert not (tmp_path / "run" / "run_args.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("seed: [1, 2]", ["seed", "not a list"]),
        ("env: 3", ["env"]),
        ("learning_rte: 1", ["learning_rte", "did you mean learning_rate?"]),
        ("learning_rate: fast", ["learning_rate", "invalid float value", "--config"]),
        ("loss: mse", ["invalid choice", "--config"]),
        ("a: [", ["not valid YAML"]),
        ("- loss", ["flag: value"]),
    ],
)
def test_yaml(refused, tmp_path, content, words):
    (tmp_path / "c.yaml").write_text(content)
    line = refused(run_classifier.main, "--config", tmp_path / "c.yaml", *training_flags("m", tmp_path / "run"))
    assert all(word in line for word in words), line
    line = refused(run_classifier.main, f"--config={tmp_path / 'none.yaml'}")
    assert "none.yaml" in line


def test_output_folders(refused, trained, tmp_path):
    def train(output_dir):
        return refused(run_classifier.main, *training_flags("m", output_dir))

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "holds files but no run" in train(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    before = (trained / "all_results.json").read_bytes()
    assert "finished run" in train(trained)
    assert (trained / "all_results.json").read_bytes() == before
    assert "below, a file" in train(tmp_path / "mine" / "thesis.txt")


@pytest.fixture
def submit(refused, trained, tmp_path):
    """Make a submission that must be refused; returns the line that says why."""

    def call(*models, test_file=SAMPLE / "test.csv", **flags):
        words = ["--model", *(models or [trained]), "--test_file", test_file, "--output_file", tmp_path / "s.csv"]
        words += [word for name, value in flags.items() for word in (f"--{name}", value)]
        line = refused(make_submission.main, *words)
        assert not (tmp_path / "s.csv").exists()
        return line

    return call


def test_test_files(submit, tmp_path):
    test = pd.read_csv(SAMPLE / "test.csv", dtype=str)
    path = tmp_path / "test.csv"

    def with_test(frame):
        frame.to_csv(path, index=False)
        return submit(test_file=path)

    assert 'no column "Tweet"' in with_test(test.drop(columns="Tweet"))
    assert 'no column "ID"' in with_test(test.drop(columns="ID"))
    assert "some labels but not joy" in with_test(test.drop(columns="joy"))
    assert "too: make ids unique" in with_test(pd.concat([test, test.head(1)]))
    assert "has no text" in with_test(test.assign(Tweet=[""] + list(test["Tweet"][1:])))
    assert "no such file" in submit(test_file=tmp_path / "none.csv")


def test_sample_submissions(submit, tmp_path):
    sample = pd.read_csv(SAMPLE / "sample_submission.csv", dtype=str)
    path = tmp_path / "sample.csv"

    def with_sample(frame):
        frame.to_csv(path, index=False)
        return submit(sample_submission=path)

    more = pd.concat([sample, sample.head(1).assign(ID="other")])
    assert 'sample.csv: the id "other"' in with_sample(more)
    assert "has no column joy" in with_sample(sample.drop(columns="joy"))
    assert "has no column ID" in with_sample(sample.rename(columns={"ID": "key"}))


def test_runs(submit, trained, tmp_path):
    assert "not the folder of a run" in submit(tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained, unfinished, ignore=shutil.ignore_patterns("manifest.json"))
    assert "not finished" in submit(unfinished)

    other = tmp_path / "other"
    shutil.copytree(trained, other)
    task = json.loads((other / "task.json").read_text())
    task["labels"][0] = "rage"
    task["label_columns"] = task["labels"]
    (other / "task.json").write_text(json.dumps(task))
    assert "different labels" in submit(trained, other, skip_checks=True)

    def change_predictions(change):
        shutil.rmtree(other)
        shutil.copytree(trained, other)
        frame = pd.read_parquet(other / "predictions" / "validation.parquet")
        change(frame)
        frame.to_parquet(other / "predictions" / "validation.parquet")
        return submit(trained, other, skip_checks=True)

    def flip_truth(frame):
        frame.loc[3, "truth/joy"] = 1 - frame.loc[3, "truth/joy"]

    def lose_probability(frame):
        frame.loc[3, "probability/joy"] = float("nan")

    assert "disagree" in change_predictions(flip_truth)
    line = change_predictions(lose_probability)
    assert "NaN" in line
    assert "row 4" in line


def test_broken_weights(submit, trained, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    weights = load_file(broken / "model.safetensors")
    weights["classifier.out_proj.bias"] = torch.full_like(weights["classifier.out_proj.bias"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    line = submit(broken, skip_checks=True)
    assert "NaN" in line
    assert "sample-test-0001" in line


def test_submission_flags(refused, submit, tmp_path):
    assert "must end in .csv" in refused(
        make_submission.main, "--model", "m", "--test_file", "t.csv", "--output_file", "s.parquet"
    )
    assert "must be 1 or more" in submit(max_test_samples=0)
    test_file = tmp_path / "test.csv"
    shutil.copy(SAMPLE / "test.csv", test_file)
    words = ["--model", "m", "--test_file", test_file, "--overwrite", "--output_file"]
    assert "is named twice, or an input" in refused(make_submission.main, *words, test_file)
    assert test_file.read_bytes() == (SAMPLE / "test.csv").read_bytes()
    both = tmp_path / "s.csv"
    assert "is named twice, or an input" in refused(make_submission.main, *words, both, "--probabilities_file", both)
    assert "below a file" in refused(make_submission.main, *words, test_file / "s.csv")


def test_lost_tokenizer(submit, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "lost", ignore=shutil.ignore_patterns("tokenizer*"))
    assert "has lost its tokenizer" in submit(tmp_path / "lost")


def test_existing_files_stay(refused, trained, tmp_path):
    (tmp_path / "s.csv").write_text("mine")
    flags = ["--model", trained, "--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv"]
    assert "pass --overwrite" in refused(make_submission.main, *flags)
    assert (tmp_path / "s.csv").read_text() == "mine"


def test_from_the_shell(tmp_path):
    done = run_script("run_classifier.py", *training_flags("m", tmp_path / "run", train_file=tmp_path / "none.csv"))
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'none.csv'}: no such file\n"
    done = run_script(
        "make_submission.py", "--model", tmp_path, "--test_file", "x", "--output_file", tmp_path / "s.csv"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
