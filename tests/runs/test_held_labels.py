"""compare_runs.py --truth: runs and submission files scored on held labels."""

import shutil

import numpy as np
import pandas as pd
import pytest

import compare_runs
import make_submission
from conftest import SAMPLE, scikit_learn
from finished_runs import copy_run
from utils.data.splits import near_duplicate_groups
from utils.runs.finished import read_run
from utils.runs.manifest import write_manifest

HELD = ("--truth", SAMPLE / "test_labels.csv")


@pytest.fixture(scope="module")
def submission(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("submissions") / "submission.csv"
    make_submission.main(["--model", str(trained), "--test_file", str(SAMPLE / "test.csv"), "--output_file", str(path)])
    return path


def test_held_labels(trained, submission, tmp_path, compare):
    # Scrambled and with a row too many: rows are matched by their ids.
    frame = pd.read_csv(submission).sample(frac=1, random_state=0)
    frame = frame[[frame.columns[0], *frame.columns[:0:-1]]]
    frame = pd.concat([frame, frame.iloc[:1].assign(ID="one more")])
    frame.to_csv(tmp_path / "shuffled.csv", index=False)
    records, printed, _ = compare(trained, tmp_path / "shuffled.csv", *HELD, "--test_file", SAMPLE / "test.csv")
    truth = pd.read_csv(SAMPLE / "test_labels.csv").iloc[:, 1:]
    wanted = scikit_learn(truth, pd.read_csv(submission).iloc[:, 1:])
    assert records.index.tolist() == ["shuffled.csv", "trained"]
    for name, value in wanted.items():
        assert records[f"{name}_tuned"].tolist() == pytest.approx([value, value])
    assert records["verdict"].tolist() == ["best", "not distinguishable"]
    assert records["f1_macro"].notna().tolist() == [False, True]
    assert "136 held rows" in printed
    assert "as submitted" in printed


def test_held_labels_of_folds_are_those_of_the_averaged_submission(trained, tmp_path, compare):
    run = read_run(trained)
    groups = near_duplicate_groups(run.predictions.texts)
    folders = []
    for fold in range(2):
        rows = np.flatnonzero(groups % 2 == fold)
        folder = copy_run(trained, tmp_path / f"f{fold}", rows=rows, num_folds=2, fold=fold)
        for path in trained.iterdir():
            if path.is_file() and not (folder / path.name).exists():
                shutil.copy(path, folder / path.name)
        write_manifest(folder)
        folders.append(folder)
    target = tmp_path / "averaged.csv"
    test_file = ["--test_file", str(SAMPLE / "test.csv")]
    make_submission.main(["--model", *map(str, folders), *test_file, "--output_file", str(target)])
    records, _, _ = compare(*folders, target, *HELD, *test_file)
    assert records.loc["f{0,1}", "f1_macro_tuned"] == pytest.approx(records.loc["averaged.csv", "f1_macro_tuned"])


def test_submission_alone_needs_no_run(submission, compare):
    records, _, _ = compare(submission, *HELD)
    assert records["approach"].tolist() == ["submission file"]


def test_mistakes_in_files_of_labels(trained, submission, tmp_path, refused):
    def error(*arguments):
        return refused(compare_runs.main, *arguments)

    assert "name their file by --test_file" in error(trained, *HELD)
    assert "named twice, or an input" in error(submission, *HELD, "--csv", submission, "--overwrite")
    pd.read_csv(submission).iloc[5:].to_csv(tmp_path / "short.csv", index=False)
    line = error(tmp_path / "short.csv", *HELD)
    assert 'lacks the id "sample-test-0001"' in line
    assert "(5 of 136 ids)" in line
    pd.read_csv(submission).drop(columns="joy").to_csv(tmp_path / "narrow.csv", index=False)
    assert 'no column "joy"' in error(tmp_path / "narrow.csv", *HELD)
    assert "true labels without other 0/1 columns" in error(tmp_path / "narrow.csv", *HELD)
    # A cell that is no answer does not make its column something else than a label; an id stands once.
    truth = pd.read_csv(SAMPLE / "test_labels.csv", dtype=str)
    truth.assign(joy=["maybe", *truth["joy"][1:]]).to_csv(tmp_path / "maybe.csv", index=False)
    assert 'maybe.csv, row 2, column "joy"' in error(submission, "--truth", tmp_path / "maybe.csv")
    pd.concat([truth, truth[:1]]).to_csv(tmp_path / "twice.csv", index=False)
    assert "stands in row 2 too" in error(submission, "--truth", tmp_path / "twice.csv")
    wrong = pd.read_csv(submission)
    pd.concat([wrong, wrong[:1]]).to_csv(tmp_path / "twice.csv", index=False)
    assert "stands in row 2 too" in error(tmp_path / "twice.csv", *HELD)
    pd.DataFrame({"text": ["a"]}).to_csv(tmp_path / "texts.csv", index=False)
    assert "needs an id column" in error(submission, "--truth", tmp_path / "texts.csv")
