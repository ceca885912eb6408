"""A submission takes over the sample file's ids, their order, and its columns."""

import csv

import pandas as pd
import pytest

import make_submission
from conftest import SAMPLE

TEST = SAMPLE / "test.csv"


@pytest.fixture
def submit(trained, tmp_path, capsys):
    """Predict with a sample file; returns the submission and what was said."""

    def call(sample, *flags, test_file=TEST, model=trained):
        if sample is not None:
            sample.to_csv(tmp_path / "sample.csv", index=False)
            flags = ("--sample_submission", tmp_path / "sample.csv", *flags)
        words = ["--model", model, "--test_file", test_file, "--output_file", tmp_path / "s.csv", "--overwrite"]
        capsys.readouterr()
        make_submission.main([str(word) for word in [*words, "--chunk_rows", 50, *flags]])
        return pd.read_csv(tmp_path / "s.csv", dtype=str, keep_default_na=False), capsys.readouterr().err

    return call


def test_ids_order_and_columns_of_the_sample(submit):
    sample = pd.read_csv(SAMPLE / "sample_submission.csv", dtype=str)
    whole, _ = submit(None)
    assert list(whole["ID"]) == list(pd.read_csv(TEST, dtype=str)["ID"])
    by_id = whole.set_index("ID")

    shuffled = sample.sample(frac=1, random_state=3)
    submission, _ = submit(shuffled)
    assert list(submission["ID"]) == list(shuffled["ID"])
    assert submission.set_index("ID").equals(by_id.loc[shuffled["ID"]])

    fewer = shuffled.head(60)
    submission, said = submit(fewer)
    assert submission.set_index("ID").equals(by_id.loc[fewer["ID"]])
    assert f"has 60 of the {len(sample)} ids" in said

    more = fewer.assign(Usage=["Public", "Private"] * 30)[["Usage", *reversed(sample.columns)]]
    submission, said = submit(more)
    assert list(submission.columns) == list(more.columns)
    assert list(submission["Usage"]) == list(more["Usage"])
    assert submission.set_index("ID")[by_id.columns].equals(by_id.loc[more["ID"]])
    assert "Usage is no label of the runs: its cells are copied as they are" in said

    lower = sample.rename(columns=str.lower)
    submission, _ = submit(lower)
    assert list(submission.columns) == list(lower.columns)
    assert submission[by_id.columns].to_numpy().tolist() == by_id.to_numpy().tolist()

    submission, _ = submit(fewer, "--max_test_samples", 30)  # a dry run: those of the first rows that are in the sample
    first = set(whole["ID"][:30])
    assert list(submission["ID"]) == [value for value in fewer["ID"] if value in first]


@pytest.mark.parametrize("cell", ["0", "0.5", "0,5", "", "False"])
def test_a_label_that_the_runs_do_not_know_is_refused(submit, trained, tmp_path, refused, cell):
    """Its cells would be handed in as they stand in the sample."""
    sample = pd.read_csv(SAMPLE / "sample_submission.csv", dtype=str).assign(shame=cell, fold="7")
    sample.to_csv(tmp_path / "sample.csv", index=False, sep=";")
    words = ["--model", trained, "--test_file", TEST, "--output_file", tmp_path / "s.csv"]
    words += ["--sample_submission", tmp_path / "sample.csv"]
    line = refused(make_submission.main, *words)
    assert "sample.csv: shame looks like a label that the runs do not know" in line
    assert "--copy_columns shape" in refused(make_submission.main, *words, "--copy_columns", "shape")
    assert not (tmp_path / "s.csv").exists()
    if cell == "0":
        submission, said = submit(sample, "--copy_columns", "shame")
        assert (set(submission["shame"]), set(submission["fold"])) == ({cell}, {"7"})
        assert "shame, fold is no label" in said


def test_columns_of_the_test_file_in_other_case(submit, tmp_path):
    test = pd.read_csv(TEST, dtype=str).rename(columns={"ID": "Id", "Tweet": "tweet "})
    test.to_csv(tmp_path / "test.csv", index=False, sep=";")
    submission, said = submit(None, test_file=tmp_path / "test.csv")
    assert "separated by a semicolon" in said
    assert submission.equals(submit(None)[0])


def test_carriage_returns_come_back(submit, tmp_path):
    test = pd.read_csv(TEST, dtype=str).head(60)
    test["ID"] = [f"a\r{number}" for number in test["ID"]]
    test.to_csv(tmp_path / "test.csv", index=False, quoting=csv.QUOTE_ALL)
    probabilities = tmp_path / "p.csv"
    submission, _ = submit(None, "--probabilities_file", probabilities, test_file=tmp_path / "test.csv")
    assert list(submission["ID"]) == list(test["ID"])
    assert list(pd.read_csv(probabilities)["ID"]) == list(test["ID"])
