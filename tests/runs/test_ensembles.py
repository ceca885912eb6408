"""Weights of an ensemble, its members, and what it is said to score."""

import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

import make_submission
from conftest import SAMPLE
from finished_runs import copy_run, guesses
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.runs import ensembles
from utils.runs.finished import read_run
from utils.scoring.predictions import PREDICTIONS_FILE
from utils.scoring.thresholds import ThresholdRule


def join(*folders):
    return ensembles.join_members(ensembles.gather_members([read_run(folder) for folder in folders]))


@pytest.fixture(scope="module")
def skilled(trained, tmp_path_factory):
    """Runs that know the truth more and less well."""
    folder = tmp_path_factory.mktemp("skilled")
    skills = {"good": (1, 1.0), "other": (2, 1.0), "bad": (3, 0.05)}
    return {
        name: copy_run(trained, folder / name, probabilities=guesses(seed, skill))
        for name, (seed, skill) in skills.items()
    }


def test_mean_is_weighted(skilled):
    ensemble = join(skilled["good"], skilled["bad"])
    good, bad = ensemble.probabilities
    assert np.allclose(ensemble.mean([3, 1]), 0.75 * good + 0.25 * bad)
    assert ensemble.common.all()


def test_fitted_weights_leave_out_what_does_not_help(skilled):
    ensemble = join(skilled["good"], skilled["other"], skilled["bad"])
    weights, (_, score) = ensembles.fitted_weights(ensemble, ThresholdRule("per_label", 20))
    assert weights.sum() == pytest.approx(1)
    assert weights[2] < 0.2 < min(weights[:2])
    everywhere = slice(None)
    assert score > max(member.scores(everywhere, ThresholdRule("per_label", 20))[1] for member in ensemble.members)


def test_score_of_fitted_weights_is_honest(trained, tmp_path):
    """Among ten runs that know nothing the best looks better than chance on the rows it was picked on."""
    runs = [copy_run(trained, tmp_path / str(i), probabilities=guesses(i, 0.0)) for i in range(10)]
    ensemble = join(*runs)
    weights, (score, _) = ensembles.fitted_weights(ensemble, ThresholdRule("fixed", 20))
    mean = ensemble.mean(weights)
    flattering = f1_score(ensemble.truth, mean >= 0.5, average="macro", zero_division=0.0)
    assert score < flattering


def test_folds_are_one_member(trained, tmp_path, skilled):
    rows = np.arange(124)
    folds = [
        copy_run(trained, tmp_path / f"fold{k}", guesses(5, 1.0), rows=rows[rows % 3 == k], num_folds=3, fold=k)
        for k in range(3)
    ]
    ensemble = join(*folds, skilled["good"])
    assert [member.runs for member in ensemble.members] == [[0, 1, 2], [3]]
    assert ensemble.common.all()
    assert ensemble.members[0].name == "fold{0,1,2} (3 folds)"
    two = join(*folds[:2], skilled["good"])
    assert two.members[0].name == "fold{0,1} (2 of 3 folds)"
    assert two.common.sum() == (rows % 3 < 2).sum() < ensembles.ENOUGH_ROWS
    assert two.chosen_on.all()
    assert not np.isnan(two.mean([1, 1])).any()
    with pytest.raises(UserError, match="these runs share 83"):
        ensembles.fitted_weights(two, ThresholdRule("per_label", 20))
    table = ensembles.score_table(two, [1, 1], ThresholdRule("per_label", 20))
    assert "together" not in table.splitlines()[-3]
    assert "none together: 83 rows were held out by all" in table
    with pytest.raises(UserError, match="give each fold once"):
        join(folds[0], folds[0])
    # A row that one member alone held out has its probabilities.
    row = two.ids.index(read_run(folds[2]).predictions.ids[0])
    assert np.allclose(two.mean([1, 1])[row], two.probabilities[1, row])


def test_members_are_scored_on_the_rows_of_all(trained, tmp_path, skilled):
    rows = np.random.default_rng(0).permutation(124)
    part = copy_run(trained, tmp_path / "part", guesses(7, 1.0), rows=rows[:110])
    ensemble = join(skilled["good"], part)
    assert ensemble.common.sum() == ensemble.chosen_on.sum() == 110
    table = ensembles.score_table(ensemble, [1, 1], ThresholdRule("calibrated"))
    lines = {line.split()[0]: line.split() for line in table.splitlines()[2:5]}
    held, all_rows = read_run(part).predictions, read_run(skilled["good"]).predictions
    good = [all_rows.ids.index(row_id) for row_id in held.ids]
    mean = (held.probabilities + all_rows.probabilities[good]) / 2
    expected = f1_score(held.truth, mean >= 0.5, average="macro", zero_division=0.0)
    assert lines["together"][2:4] == ["110", f"{expected:.3f}"]
    for name, run in (("good", read_run(skilled["good"])), ("part", read_run(part))):
        kept = good if name == "good" else slice(None)
        partitions = [decided[kept] for decided in run.decisions["_tuned"]]
        tuned = np.mean([f1_score(held.truth, one, average="macro", zero_division=0.0) for one in partitions])
        assert lines[name][2] == "110"
        assert lines[name][4] == f"{tuned:.3f}"  # cross-fitted as the run's own card says it
    assert "On the 110 rows that all of them held out, of 124." in table


def test_rows_without_ids_are_not_mixed_up(trained, tmp_path):
    runs = [copy_run(trained, tmp_path / name) for name in "ab"]
    for folder in runs:
        write_json(folder / "task.json", read_json(folder / "task.json") | {"id_column": None})
        path = folder / PREDICTIONS_FILE
        frame = pd.read_parquet(path).assign(id=[str(row) for row in range(124)])
        frame.to_parquet(path, index=False)
    assert join(*runs).common.all()
    frame["text"] = [*frame["text"][1:], "another row"]
    frame.to_parquet(path, index=False)
    with pytest.raises(UserError, match="disagree about the row 0: without an id column"):
        join(*runs)


def test_weights_through_the_command_line(trained, tmp_path, refused, capsys):
    twin = copy_run(trained, tmp_path / "twin")
    for path in trained.iterdir():
        if path.is_file() and not (twin / path.name).exists():
            shutil.copy(path, twin / path.name)

    def flags(*more, runs=(trained, twin)):
        files = ["--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv", "--max_test_samples", "5"]
        return [str(word) for word in ["--model", *runs, *files, *more]]

    for weights, problem in (
        (["1"], "there are 1 for 2 runs"),
        (["1", "-1"], "numbers above 0"),
        (["1", "many"], "numbers above 0"),
    ):
        assert problem in refused(make_submission.main, *flags("--weights", *weights))
    assert "is for several runs" in refused(make_submission.main, *flags("--weights", "fit", runs=[trained]))
    twice = (trained, tmp_path / "twin" / ".." / "twin", twin)
    assert f"--model {twin} is named twice" in refused(make_submission.main, *flags(runs=twice))
    assert "--threshold_shrinkage nan" in refused(make_submission.main, *flags("--threshold_shrinkage", "nan"))
    make_submission.main(flags("--weights", "fit"))
    shown = capsys.readouterr().out
    assert "together" in shown
    assert "weights and thresholds that were fitted without it" in shown
    assert "Checkpoints were chosen on these rows" in shown
    assert "thresholds chosen on the averaged probabilities of 124 validation rows (calibrated)" in shown
