"""What is handed in: labels or probabilities, calibrated or not, with thresholds for one score or another."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import make_submission
import predict
from conftest import SAMPLE
from finished_runs import copy_run, guesses
from utils.core.files import read_json, write_json
from utils.runs.finished import read_run
from utils.runs.manifest import write_manifest
from utils.scoring.calibration import fit_platt
from utils.scoring.scores import SCORES
from utils.scoring.thresholds import JOINT, ThresholdRule, Thresholds

TEST = str(SAMPLE / "test.csv")


def flags(folder, *more, runs):
    files = ["--test_file", TEST, "--output_file", folder / "s.csv", "--overwrite"]
    return [str(word) for word in ["--model", *runs, *files, *more]]


@pytest.fixture(scope="module")
def predicted(trained, tmp_path_factory):
    """The labels and probabilities that the trained run gives the test rows."""
    folder = tmp_path_factory.mktemp("predicted")
    make_submission.main(flags(folder, "--probabilities_file", folder / "p.csv", runs=[trained]))
    return pd.read_csv(folder / "s.csv"), pd.read_csv(folder / "p.csv")


def sample_of(folder, labels, cell):
    """A sample submission whose cells are all the same text."""
    frame = pd.read_csv(TEST, usecols=["ID"])
    path = folder / "sample.csv"
    frame.assign(**dict.fromkeys(labels, cell)).to_csv(path, index=False)
    return path


def scores_shown(shown):
    line = next(line for line in shown.splitlines() if line.startswith("on 124 validation rows: "))
    return line.removeprefix("on 124 validation rows: ")


def test_cells_of_the_sample_say_that_probabilities_are_wanted(trained, tmp_path, predicted, capsys):
    labels, probabilities = predicted
    sample = sample_of(tmp_path, labels.columns[1:], "0.5")
    make_submission.main(flags(tmp_path, "--sample_submission", sample, runs=[trained]))
    said = capsys.readouterr()
    assert "sample.csv has cells with a decimal point: probabilities are written, with a point" in said.err
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), probabilities[labels.columns])
    results = read_json(trained / "all_results.json")
    for title, name in (("macro ROC-AUC", "roc_auc_macro"), ("mAP", "map"), ("macro-F1 tuned", "f1_macro_tuned")):
        value, low, high = (results[f"eval_{name}{end}"] for end in ("", "_low", "_high"))
        assert f"{title} {value:.3f} [{low:.3f}, {high:.3f}]" in scores_shown(said.out)

    with_comma = pd.read_csv(sample, dtype=str).replace("0.5", "0,5")  # as Excel writes it in much of Europe
    with_comma.to_csv(tmp_path / "comma.csv", sep=";", index=False)
    make_submission.main(flags(tmp_path, "--sample_submission", tmp_path / "comma.csv", runs=[trained]))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), probabilities[labels.columns])
    capsys.readouterr()

    make_submission.main(flags(tmp_path, "--sample_submission", sample, "--submission", "labels", runs=[trained]))
    assert "decimal point" not in capsys.readouterr().err
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), labels)
    whole = sample_of(tmp_path, labels.columns[1:], "0")
    make_submission.main(flags(tmp_path, "--sample_submission", whole, runs=[trained]))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), labels)


def test_probabilities_can_be_asked_for_and_calibrated(trained, tmp_path, predicted, refused, capsys):
    labels, raw = predicted
    names = list(raw.columns[1:])
    make_submission.main(flags(tmp_path, "--submission", "probabilities", "--calibrate", runs=[trained]))
    calibrated = pd.read_csv(tmp_path / "s.csv")
    run = read_run(trained)
    curves = fit_platt(run.predictions.probabilities, run.predictions.truth)
    assert calibrated[names].to_numpy() == pytest.approx(curves.apply(raw[names].to_numpy()), abs=1e-9)
    assert calibrated["ID"].tolist() == raw["ID"].tolist()

    # The labels stay as they are; the probabilities beside them are calibrated.
    more = ["--calibrate", "--probabilities_file", tmp_path / "p.csv"]
    make_submission.main(flags(tmp_path, *more, runs=[trained]))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), labels)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.csv"), calibrated)
    line = refused(make_submission.main, *flags(tmp_path, "--calibrate", runs=[trained]))
    assert "changes probabilities alone" in line


def test_several_runs_are_calibrated_on_their_mean(trained, tmp_path, predicted, capsys):
    twin = copy_run(trained, tmp_path / "twin", guesses(0, 2.0))
    for file in trained.iterdir():  # what a prediction needs besides
        if file.is_file() and not (twin / file.name).exists():
            shutil.copy(file, twin / file.name)
    write_manifest(twin)
    make_submission.main(flags(tmp_path, "--submission", "probabilities", "--calibrate", runs=[trained, twin]))
    runs = [read_run(folder) for folder in (trained, twin)]
    mean = np.mean([run.predictions.probabilities for run in runs], axis=0)
    curves = fit_platt(mean, runs[0].predictions.truth)
    names = runs[0].task.labels
    assert pd.read_csv(tmp_path / "s.csv")[names].to_numpy() == pytest.approx(
        curves.apply(predicted[1][names].to_numpy()), abs=1e-6
    )
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("run "))
    assert header.split("  ")[-1].strip() == "macro-F1 tuned (cross-fitted)"
    assert "macro ROC-AUC" in header
    assert "mAP" in header


def test_a_run_without_curves_and_a_column_of_lists_are_refused(trained, tmp_path, refused):
    old = copy_run(trained, tmp_path / "old")
    content = read_json(old / "thresholds.json")
    del content["calibration"]
    write_json(old / "thresholds.json", content)
    write_manifest(old)
    more = ["--calibrate", "--submission", "probabilities"]
    assert "has no curves" in refused(make_submission.main, *flags(tmp_path, *more, "--skip_checks", runs=[old]))
    task = read_json(old / "task.json")
    write_json(old / "task.json", task | {"label_columns": ["emotions"], "label_delimiter": ","})
    sample = tmp_path / "sample.csv"
    pd.read_csv(TEST, usecols=["ID"]).assign(emotions="joy").to_csv(sample, index=False)
    more = ["--submission", "probabilities", "--sample_submission", sample, "--skip_checks"]
    assert "the sample has one column of labels" in refused(make_submission.main, *flags(tmp_path, *more, runs=[old]))
    assert not (tmp_path / "s.csv").exists()


def test_predict_shows_calibrated_probabilities_and_the_same_labels(trained, capsys, refused):
    texts = ["so happy for you", "not again...", "who knows"]

    def rows(*more):
        predict.main(["--model", str(trained), *texts, "--json", *more])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    raw, calibrated = rows(), rows("--calibrate")
    assert [row["labels"] for row in raw] == [row["labels"] for row in calibrated]
    run = read_run(trained)
    curves, names = run.thresholds.calibration, run.task.labels
    found, expected = (
        np.array([[row["probabilities"][name] for name in names] for row in some]) for some in (calibrated, raw)
    )
    assert found == pytest.approx(curves.apply(expected), abs=1e-5)
    assert np.abs(found - expected).max() > 0.01

    predict.main(["--model", str(trained), texts[0], "--calibrate"])
    shown = [line for line in capsys.readouterr().out.splitlines() if "threshold" in line]
    given = {line[3:].split()[0] for line in shown if line.startswith("  ✓")}
    assert given == set(raw[0]["labels"])
    thresholds = curves.apply(run.thresholds.values)
    for line in shown:
        assert float(line.split()[-1]) == pytest.approx(thresholds[names.index(line[3:].split()[0])], abs=6e-4)


@pytest.mark.parametrize("name", JOINT)
def test_thresholds_for_another_score_can_be_asked_for(trained, tmp_path, predicted, name, capsys):
    make_submission.main(flags(tmp_path, "--best_by", name, runs=[trained]))
    run = read_run(trained)
    rule = ThresholdRule("calibrated", None, name)
    labels = run.task.labels
    thresholds = rule.fit(run.predictions.probabilities, run.predictions.truth)
    expected = thresholds.apply(predicted[1][labels].to_numpy())
    assert (pd.read_csv(tmp_path / "s.csv")[labels].to_numpy() == expected).mean() > 0.999
    title = next(score.title for score in SCORES if score.name == name)
    assert f"(calibrated, for {title})" in capsys.readouterr().out


def test_runs_for_different_scores_need_to_be_told_for_which(trained, tmp_path, refused):
    twin = copy_run(trained, tmp_path / "twin")
    labels = read_run(trained).task.labels
    stored = Thresholds.load(trained, labels)
    Thresholds(stored.values, ThresholdRule("calibrated", None, "jaccard")).save(twin, labels)
    write_manifest(twin)
    line = refused(make_submission.main, *flags(tmp_path, "--skip_checks", runs=[trained, twin]))
    assert "were trained for different scores: pass --best_by" in line
