"""Three public data sets in small, with invented texts: from file to submission by the flags of docs/your-data.md."""

import csv
import re

import numpy as np
import pandas as pd
import pytest

import make_submission
import run_classifier
from conftest import ROOT
from utils.runs.folder import load_task

DOCUMENTED = set(re.findall(r"--\w+", (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")))
TRAINING = ["--num_train_epochs", "1", "--report", "False", "--disable_tqdm", "True", "--learning_rate", "1e-3"]
OPENINGS = ["well,", "honestly", "oh", "so", "again:", "hm,", "listen", "today"]
MIDDLES = ["the bus was late", "my sister called", "they cut the tree", "the soup burnt", "we won the quiz"]
ENDS = ["and I laughed", "and nobody said a word", "which is fine", "you fool", "thank you all", "no more of this"]


def texts(rows, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(part) for part in (OPENINGS, MIDDLES, ENDS)) + f" {i}" for i in range(rows)]


def train(tiny, folder, *flags):
    words = [str(word) for word in flags]
    assert {word for word in words if word.startswith("--")} <= DOCUMENTED | {"--train_file", "--validation_file"}
    model = ["--model_name_or_path", tiny("roberta"), "--output_dir", str(folder / "run")]
    run_classifier.main([*model, *TRAINING, *words])
    return load_task(folder / "run")


def submit(folder, *flags):
    words = [str(word) for word in flags]
    assert {word for word in words if word.startswith("--")} <= DOCUMENTED | {"--test_file", "--sample_submission"}
    target = folder / "submission.csv"
    make_submission.main(["--model", str(folder / "run"), "--output_file", str(target), *words])
    return pd.read_csv(target, dtype=str, keep_default_na=False)


TOXIC = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


def test_a_toxic_comment_table(tiny, tmp_path, compare):
    """Kaggle 2018: hexadecimal ids, comments in several lines with doubled quotes, and -1 where nobody has looked."""
    rng = np.random.default_rng(0)

    def ids(rows, first):
        return [f"{first + i:04d}1e{i:02d}9a7b{i:02d}" if i % 9 else f"{first + i:08d}e1234567" for i in range(rows)]

    def table(rows, seed, first):
        cells = (rng.random((rows, len(TOXIC))) < 0.35).astype(int)
        comments = [f'"{text}"\n\nsaid "someone, once"' if i % 3 else text for i, text in enumerate(texts(rows, seed))]
        return pd.DataFrame({"id": ids(rows, first), "comment_text": comments} | dict(zip(TOXIC, cells.T)))

    rows = table(90, 0, 0)
    rows.loc[60:74, TOXIC] = -1  # as where the test rows that were published later are appended
    rows.loc[75:, "threat"] = -1
    rows.to_csv(tmp_path / "train.csv", index=False)
    test = table(20, 1, 5000)
    test[["id", "comment_text"]].to_csv(tmp_path / "test.csv", index=False)
    test.assign(**dict.fromkeys(TOXIC, "0"))[["id", *TOXIC]].to_csv(tmp_path / "sample_submission.csv", index=False)
    test.loc[10:, TOXIC] = -1
    test[["id", *TOXIC]].to_csv(tmp_path / "test_labels.csv", index=False)

    task = train(tiny, tmp_path, "--train_file", tmp_path / "train.csv", "--unknown_labels")
    assert (task.id_column, task.text_columns, task.labels) == ("id", ["comment_text"], TOXIC)
    submission = submit(
        tmp_path, "--test_file", tmp_path / "test.csv", "--sample_submission", tmp_path / "sample_submission.csv"
    )
    assert list(submission.columns) == ["id", *TOXIC]
    assert list(submission["id"]) == list(test["id"])
    assert set(submission[TOXIC].to_numpy().ravel()) <= {"0", "1"}
    truth = ["--truth", tmp_path / "test_labels.csv", "--unknown_labels"]
    records, _, _ = compare(tmp_path / "submission.csv", *truth)
    assert len(records) == 1


def test_goemotions(tiny, tmp_path, capsys):
    """No header, tabs, several numbers in a cell, names in another file, and texts with quotes in quotes."""
    names = ["admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
             "disgust", "fear", "joy"]  # fmt: skip
    (tmp_path / "emotions.txt").write_text("\n".join(names) + "\n")
    rng = np.random.default_rng(1)
    chosen, written = {}, {}
    for name, rows in (("train", 60), ("dev", 30), ("test", 12)):
        lines = []
        for i, text in enumerate(texts(rows, len(name))):
            codes = sorted(rng.choice(len(names), rng.integers(1, 4), replace=False).tolist())
            chosen[f"e{name[:2]}{i:03d}"] = codes
            written[f"e{name[:2]}{i:03d}"] = text = f'"{text}" they said' if i % 7 == 0 else text
            lines.append([text, *([",".join(map(str, codes))] if name != "test" else []), f"e{name[:2]}{i:03d}"])
        with open(tmp_path / f"{name}.tsv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(lines)
    files = ["--train_file", tmp_path / "train.tsv", "--validation_file", tmp_path / "dev.tsv"]

    with pytest.raises(SystemExit):
        train(tiny, tmp_path, *files)
    assert "--column_names text labels id" in capsys.readouterr().err
    flags = ["--column_names", "text", "labels", "id", "--label_names", tmp_path / "emotions.txt"]
    task = train(tiny, tmp_path, *files, *flags)
    assert (task.labels, task.label_codes, task.id_column) == (names, True, "id")
    truth = pd.read_parquet(tmp_path / "run" / "predictions" / "validation.parquet").set_index("id")
    for key, row in truth.iterrows():
        assert [i for i, name in enumerate(names) if row[f"truth/{name}"]] == chosen[key]
        assert row["text"] == written[key]

    submission = submit(tmp_path, "--test_file", tmp_path / "test.tsv", "--column_names", "text", "id")
    assert list(submission.columns) == ["id", *names]
    assert list(submission["id"]) == [f"ete{i:03d}" for i in range(12)]


def test_one_label_in_words(tiny, tmp_path, capsys):
    """A column of texts, one of their label; the test file has ids, which training had not."""
    kinds = ["complaint", "praise", "question"]
    rng = np.random.default_rng(2)
    rows = pd.DataFrame({"Text": texts(130, 0), "Category": [kinds[i] for i in rng.integers(0, 3, 130)]})
    rows.to_csv(tmp_path / "train.csv", index=False, sep=";", quoting=csv.QUOTE_ALL)
    test = pd.DataFrame({"Id": [f"q{i}" for i in range(12)], "Text": texts(12, 3)})
    test.to_csv(tmp_path / "test.csv", index=False, sep=";")
    sample = pd.DataFrame({"Id": test["Id"][::-1], "Category": "question"})
    sample.to_csv(tmp_path / "sample.csv", index=False)

    task = train(tiny, tmp_path, "--train_file", tmp_path / "train.csv")
    said = capsys.readouterr().err
    assert "separated by a semicolon" in said
    assert (task.labels, task.label_columns, task.single_label) == (kinds, ["Category"], True)
    submission = submit(tmp_path, "--test_file", tmp_path / "test.csv", "--sample_submission", tmp_path / "sample.csv")
    assert list(submission.columns) == ["Id", "Category"]
    assert list(submission["Id"]) == list(sample["Id"])
    assert set(submission["Category"]) <= set(kinds)
