"""Weights of an ensemble, its members, and what it is said to score."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

import make_submission
from conftest import SAMPLE
from finished_runs import copy_run, guesses
from utils import ensembles
from utils.errors import UserError
from utils.results import read_run


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
    assert ensemble.complete


def test_fitted_weights_leave_out_what_does_not_help(skilled):
    ensemble = join(skilled["good"], skilled["other"], skilled["bad"])
    weights, score = ensembles.fitted_weights(ensemble, "per_label", 20)
    assert weights.sum() == pytest.approx(1)
    assert weights[2] < 0.2 < min(weights[:2])
    alone = [
        ensembles.tuned_score(p, ensemble.truth, ensemble.groups, "per_label", 20)[1] for p in ensemble.probabilities
    ]
    assert score > max(alone)


def test_score_of_fitted_weights_is_honest(trained, tmp_path):
    """Among ten runs that know nothing the best looks better than chance on the rows it was picked on."""
    runs = [copy_run(trained, tmp_path / str(i), probabilities=guesses(i, 0.0)) for i in range(10)]
    ensemble = join(*runs)
    weights, score = ensembles.fitted_weights(ensemble, "fixed", 20)
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
    assert ensemble.complete
    two = join(*folds[:2], skilled["good"])
    assert not two.complete
    assert not np.isnan(two.mean([1, 1])).any()
    with pytest.raises(UserError, match="held out different rows"):
        ensembles.fitted_weights(two, "per_label", 20)
    with pytest.raises(UserError, match="give each fold once"):
        join(folds[0], folds[0])
    # A row that one member alone held out has its probabilities.
    row = two.ids.index(read_run(folds[2]).ids[0])
    assert np.allclose(two.mean([1, 1])[row], two.probabilities[1, row])


def test_weights_through_the_command_line(trained, tmp_path, refused, capsys):
    def flags(*more, runs=2):
        files = ["--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv", "--max_test_samples", "5"]
        return [str(word) for word in ["--model", *[trained] * runs, *files, *more]]

    for weights, problem in (
        (["1"], "there are 1 for 2 runs"),
        (["1", "-1"], "numbers above 0"),
        (["1", "many"], "numbers above 0"),
    ):
        assert problem in refused(make_submission.main, *flags("--weights", *weights))
    make_submission.main(flags("--weights", "fit"))
    shown = capsys.readouterr().out
    assert "together" in shown
    assert "weights too" in shown
