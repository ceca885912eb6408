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
from utils.runs.manifest import write_manifest
from utils.scoring.bootstrap import interval, resample
from utils.scoring.predictions import PREDICTIONS_FILE
from utils.scoring.thresholds import ThresholdRule


def macro_f1(truth, predictions):
    return f1_score(truth, predictions, average="macro", zero_division=0.0)


def mean_macro_f1(truth, predictions):
    return np.mean([macro_f1(truth, one) for one in predictions])


def test_one_member_weighs_the_same_fitted_and_not(skilled):
    """Both ways are cross-fitted over the same partitions, so that with one member they are the same."""
    ensemble, rule = join(skilled["good"]), ThresholdRule("calibrated")
    fitted, equal = ensembles.weigh_by_fit(ensemble, rule), ensembles.weigh(ensemble, rule, [1], ensembles.PARTITIONS)
    for one, other in zip(fitted.decisions, equal.decisions):
        np.testing.assert_array_equal(one, np.broadcast_to(other, one.shape))


def test_gain_draws_near_duplicates_together(skilled):
    """Rows that stand four times say no more than one of them, so that the error of a difference is twice as large."""
    ensemble, rule = join(skilled["good"], skilled["bad"]), ThresholdRule("fixed")
    for name, axis in {"ids": 0, "truth": 0, "groups": 0, "probabilities": 1}.items():
        setattr(ensemble, name, np.concatenate([getattr(ensemble, name)] * 4, axis=axis))
    good, bad = (ensembles.weigh(ensemble, rule, weights) for weights in ([1, 0], [0, 1]))
    together = ensembles.gain(ensemble, good, [bad], ThresholdRule("fixed"))
    ensemble.groups = np.arange(len(ensemble.truth))
    alone = ensembles.gain(ensemble, good, [bad], ThresholdRule("fixed"))
    assert together.value == alone.value
    assert together.standard_error == pytest.approx(2 * alone.standard_error, rel=0.15)


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
    rule = ThresholdRule("per_label", 20)
    together = ensembles.weigh_by_fit(ensemble, rule)
    weights = together.weights
    assert together.decisions[1].shape == (ensembles.PARTITIONS, *ensemble.truth.shape)
    assert weights.sum() == pytest.approx(1)
    assert weights[2] < 0.2 < min(weights[:2])
    everywhere = slice(None)
    alone = [mean_macro_f1(ensemble.truth, member.decisions(everywhere, rule)[1]) for member in ensemble.members]
    assert mean_macro_f1(ensemble.truth, together.decisions[1]) > max(alone)


def test_score_of_fitted_weights_is_honest(trained, tmp_path):
    """Among ten runs that know nothing the best looks better than chance on the rows it was picked on."""
    runs = [copy_run(trained, tmp_path / str(i), probabilities=guesses(i, 0.0)) for i in range(10)]
    ensemble = join(*runs)
    together = ensembles.weigh_by_fit(ensemble, ThresholdRule("fixed", 20))
    flattering = macro_f1(ensemble.truth, ensemble.mean(together.weights) >= 0.5)
    assert mean_macro_f1(ensemble.truth, together.decisions[0]) < flattering


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
        ensembles.weigh_by_fit(two, ThresholdRule("per_label", 20))
    rule = ThresholdRule("per_label", 20)
    table = ensembles.score_table(two, rule, [ensembles.weigh(two, rule, [1, 1])])
    assert not any(line.startswith("together") for line in table.splitlines())
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
    rule = ThresholdRule("calibrated")
    table = ensembles.score_table(ensemble, rule, [ensembles.weigh(ensemble, rule, [1, 1])])
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
        assert lines[name][6] == f"{tuned:.3f}"  # cross-fitted as the run's own card says it
        own_order = np.isin(run.predictions.ids, held.ids)
        groups = run.predictions.near_duplicates[own_order]
        drawn = resample(run.predictions.truth[own_order], run.decisions["_tuned"][:, own_order], 2000, 0, groups)
        low, high = interval(drawn["f1_macro"], tuned)
        assert lines[name][7:] == [f"[{low:.3f},", f"{high:.3f}]"]
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


def add_model(source, run):
    """Complete a copied run, so that it can predict."""
    for path in source.iterdir():
        if path.is_file() and not (run / path.name).exists():
            shutil.copy(path, run / path.name)
    write_manifest(run)
    return run


def submission_flags(tmp_path, *more, runs):
    files = ["--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv", "--max_test_samples", "5"]
    return [str(word) for word in ["--model", *runs, *files, *more]]


def test_weights_through_the_command_line(trained, tmp_path, refused, capsys):
    twin = add_model(trained, copy_run(trained, tmp_path / "twin"))

    def flags(*more, runs=(trained, twin)):
        return submission_flags(tmp_path, *more, runs=runs)

    for weights, problem in (
        (["1"], "there are 1 for 2 runs"),
        (["1", "-1"], "numbers above 0"),
        (["1", "many"], "numbers above 0"),
    ):
        assert problem in refused(make_submission.main, *flags("--weights", *weights))
    assert "is for several runs" in refused(make_submission.main, *flags("--weights", "fit", runs=[trained]))
    twice = (trained, tmp_path / "twin" / ".." / "twin", twin)
    assert f"--model {twin} is named twice" in refused(make_submission.main, *flags(runs=twice))
    assert "nan is no number to compute with" in refused(make_submission.main, *flags("--threshold_shrinkage", "nan"))
    make_submission.main(flags("--weights", "fit"))
    shown = capsys.readouterr().out
    # The same run twice: no weights are better than others, so they are equal.
    assert "weights and thresholds that were fitted without it" in shown
    assert "Weights: equal, as fitted ones (1.00, 0.00) score +0.000 against equal ones, standard error 0.000" in shown
    assert [line.split()[1] for line in shown.splitlines() if line.startswith(("trained ", "twin "))] == [
        "0.50",
        "0.50",
    ]
    assert "Checkpoints were chosen on the same rows, each as the best of 2 evaluations by map" in shown
    assert "thresholds chosen on the averaged probabilities of 124 validation rows (calibrated)" in shown


def test_fitted_weights_are_taken_where_they_are_better(trained, tmp_path, capsys):
    bad = [add_model(trained, copy_run(trained, tmp_path / f"bad{i}", guesses(i, 0.0))) for i in range(3)]
    good = add_model(trained, copy_run(trained, tmp_path / "good", guesses(1, 1.0)))
    make_submission.main(submission_flags(tmp_path, "--weights", "fit", runs=[good, *bad]))
    shown = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in shown.splitlines()}
    equal, fitted = (float(rows[f"together, {how}"].split("  ")[-1].split(" [")[0]) for how in ("equal", "fitted"))
    assert fitted > equal
    assert "Weights: fitted, as fitted ones (" in shown
    assert "not more by more than noise" not in shown
    assert float(rows["good"].split()[1]) > 0.5


def test_what_averaging_folds_gains(trained, tmp_path):
    """Models with errors of their own: the mean of several seeds says what a mean of folds is worth."""
    rows = np.arange(124)

    def fold(seed, k):
        folder = tmp_path / f"seed{seed}_fold{k}"
        return copy_run(trained, folder, guesses(seed, 0.7), rows=rows[rows % 2 == k], num_folds=2, fold=k, seed=seed)

    rule = ThresholdRule("fixed", 20)
    one = [read_run(fold(0, k)) for k in range(2)]
    note = ensembles.averaging_note(ensembles.join_members(ensembles.gather_members(one)), one, rule)
    assert "by the one model of 2 that did not see it" in note
    assert "three seeds of MiniLM on tweets 0.01 more than one" in note
    several = one + [read_run(fold(seed, k)) for seed in (1, 2, 3) for k in range(2)]
    ensemble = ensembles.join_members(ensembles.gather_members(several))
    note = ensembles.averaging_note(ensemble, several, rule)
    alone = [macro_f1(ensemble.truth, probabilities >= 0.5) for probabilities in ensemble.probabilities]
    expected = macro_f1(ensemble.truth, ensemble.probabilities.mean(axis=0) >= 0.5) - np.mean(alone)
    gained = ensembles.seed_gain(ensemble, [0, 1, 2, 3], rule)
    assert gained.value == pytest.approx(expected)
    assert 0 < gained.low < gained.value < gained.high
    assert f"4 seeds together score {expected:+.3f} [" in note
    alone = [read_run(trained)]
    assert ensembles.averaging_note(ensembles.join_members(ensembles.gather_members(alone)), alone, rule) == ""
