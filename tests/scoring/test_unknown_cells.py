"""Scores, thresholds and intervals of truth with unknown cells are those of computing on the known cells alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, label_ranking_average_precision_score, roc_auc_score

from utils.scoring.bootstrap import Counted, plain_scores, resample, resample_probabilities
from utils.scoring.calibration import fit_platt
from utils.scoring.influence import influence
from utils.scoring.metrics import prediction_scores, probability_scores
from utils.scoring.predictions import Predictions
from utils.scoring.scores import OF_PREDICTIONS, SCORES
from utils.scoring.thresholds import ThresholdRule


def rows(seed, number=120, labels=4, known=0.7):
    """`(truth with NaN, probabilities)`, each row and each label with known cells of both kinds."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((number, labels)) < 0.35).astype(float)
    probabilities = np.round(expit(1.5 * (2 * truth - 1) + 1.5 * rng.normal(size=truth.shape)), 3)
    mask = rng.random(truth.shape) < known
    mask[np.arange(number), rng.integers(labels, size=number)] = True
    return np.where(mask, truth, np.nan), probabilities


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_scikit_learns_on_the_known_cells(seed):
    truth, probabilities = rows(seed)
    decided = (probabilities >= 0.5).astype(np.int8)
    known = ~np.isnan(truth)
    found = prediction_scores(truth, decided, list("abcd"))
    f1 = [f1_score(truth[known[:, i], i], decided[known[:, i], i], zero_division=0.0) for i in range(4)]
    assert found["f1_macro"] == pytest.approx(np.mean(f1))
    assert [found[f"f1/{label}"] for label in "abcd"] == pytest.approx(f1)
    assert found["f1_micro"] == pytest.approx(f1_score(truth[known], decided[known]))
    assert [found[f"support/{label}"] for label in "abcd"] == np.nansum(truth, axis=0).tolist()
    each = [(truth[n, known[n]], decided[n, known[n]]) for n in range(len(truth))]
    assert found["exact_match"] == pytest.approx(np.mean([(t == d).all() for t, d in each]))
    jaccard = [(t * d).sum() / max(1, ((t + d) > 0).sum()) if (t + d).any() else 1.0 for t, d in each]
    assert found["jaccard"] == pytest.approx(np.mean(jaccard))

    found = probability_scores(truth, probabilities)
    of_labels = [(truth[known[:, i], i], probabilities[known[:, i], i]) for i in range(4)]
    assert found["map"] == pytest.approx(np.mean([average_precision_score(*one) for one in of_labels]))
    assert found["roc_auc_macro"] == pytest.approx(np.mean([roc_auc_score(*one) for one in of_labels]))
    assert found["roc_auc_micro"] == pytest.approx(roc_auc_score(truth[known], probabilities[known]))
    lrap = [
        label_ranking_average_precision_score(truth[n : n + 1, known[n]], probabilities[n : n + 1, known[n]])
        if known[n].sum() > 1
        else 1.0
        for n in range(len(truth))
    ]
    assert found["lrap"] == pytest.approx(np.mean(lrap))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["per_label", "calibrated"]), st.sampled_from([0.0, 20.0, None]))
def test_a_labels_threshold_is_that_of_its_known_rows(seed, strategy, shrinkage):
    """One label alone: what other labels add (the pooled curve, the global threshold) is that of known cells too."""
    truth, probabilities = rows(seed, labels=1)
    truth = np.where(np.random.default_rng(seed).random(truth.shape) < 0.3, np.nan, truth)
    known = ~np.isnan(truth[:, 0])
    rule = ThresholdRule(strategy, shrinkage)
    with_unknown = rule.fit(probabilities, truth)
    alone = rule.fit(probabilities[known], truth[known].astype(np.int8))
    assert with_unknown.values == pytest.approx(alone.values, abs=1e-6)


@pytest.mark.parametrize("strategy", ["global", "per_label", "calibrated"])
def test_thresholds_do_not_hang_on_what_stands_in_unknown_cells(strategy):
    """The probabilities of unknown cells may be anything: they are seen by no fit."""
    truth, probabilities = rows(7)
    other = np.where(np.isnan(truth), np.random.default_rng(8).random(truth.shape), probabilities)
    rule = ThresholdRule(strategy)
    assert rule.fit(probabilities, truth).values == pytest.approx(rule.fit(other, truth).values, abs=1e-6)


def test_global_threshold_is_the_best_on_the_known_cells():
    truth, probabilities = rows(3, number=60)
    threshold = ThresholdRule("global").fit(probabilities, truth).values[0]

    def macro_f1(at):
        return prediction_scores(truth, probabilities >= at, list("abcd"))["f1_macro"]

    best = max(macro_f1(at) for at in np.unique(probabilities))
    assert macro_f1(threshold) == pytest.approx(best)


def test_thresholds_of_many_rows_are_those_of_few(monkeypatch):
    from utils.scoring import thresholds

    truth, probabilities = rows(5, number=600)
    exact = ThresholdRule("calibrated").fit(probabilities, truth).values
    monkeypatch.setattr(thresholds, "MANY_ROWS", 100)
    assert ThresholdRule("calibrated").fit(probabilities, truth).values == pytest.approx(exact, abs=1e-6)


def test_cross_fitted_decisions_come_from_the_known_cells_of_the_other_parts():
    from utils.scoring.thresholds import decide_by_parts

    truth, probabilities = rows(11)
    rule, parts = ThresholdRule("calibrated"), np.arange(len(truth)) % 10
    [decided] = decide_by_parts(rule, probabilities, truth, parts[None])
    for part in np.unique(parts):
        out = parts == part
        expected = rule.fit(probabilities[~out], truth[~out]).apply(probabilities[out])
        assert (decided[out] != expected).mean() < 0.01  # a median of other rows, and rounding


def test_platt_curves_are_those_of_the_known_rows():
    truth, probabilities = rows(2, labels=1)
    truth[::3] = np.nan
    known = ~np.isnan(truth[:, 0])
    found, expected = fit_platt(probabilities, truth), fit_platt(probabilities[known], truth[known])
    assert found.slopes == pytest.approx(expected.slopes, abs=1e-6)
    assert found.intercepts == pytest.approx(expected.intercepts, abs=1e-6)


def test_resampled_scores_are_those_of_the_rows_drawn():
    truth, probabilities = rows(4, number=40)
    decided = (probabilities >= 0.5).astype(np.int8)
    assert plain_scores(truth, decided)["f1_macro"] == pytest.approx(
        prediction_scores(truth, decided, list("abcd"))["f1_macro"]
    )
    drawn = resample(truth, decided, 5, 0) | resample_probabilities(truth, probabilities, 5, 0)
    rng = np.random.default_rng(0)
    for b, numbers in enumerate(rng.integers(len(truth), size=(5, len(truth)))):
        scores = prediction_scores(truth[numbers], decided[numbers], list("abcd"))
        scores |= probability_scores(truth[numbers], probabilities[numbers])
        for score in SCORES:
            assert drawn[score.name][b] == pytest.approx(scores[score.name], abs=1e-5), score.name


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.name)
def test_influences_are_derivatives_by_the_weights_of_rows(score):
    truth, probabilities = rows(9, number=50)
    predicted = probabilities if score.of_probabilities else (probabilities >= 0.5).astype(np.int8)
    found = influence(score, truth, predicted)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    step = 1e-3
    weights = np.ones((2, len(truth)))
    weights[1, 13] += step

    if score in OF_PREDICTIONS:
        values = Counted.of(truth, predicted, float).scores(weights)[score.name]
    else:
        from utils.scoring.bootstrap import _probability_scorer

        values = _probability_scorer(truth, predicted, 1)(weights)[score.name]
    assert (values[1] - values[0]) / step == pytest.approx(found[13], abs=2e-4)


def test_predictions_keep_unknown_cells(tmp_path):
    truth, probabilities = rows(1, number=20)
    ids = [str(i) for i in range(20)]
    (tmp_path / "predictions").mkdir()
    Predictions(list("abcd"), ids, ids, truth, probabilities).save(tmp_path)
    found = Predictions.load(tmp_path, list("abcd"))
    assert np.array_equal(found.truth, truth, equal_nan=True)
    known = np.nan_to_num(truth)
    Predictions(list("abcd"), ids, ids, known.astype(np.int8), probabilities).save(tmp_path)
    assert Predictions.load(tmp_path, list("abcd")).truth.dtype == np.int8
