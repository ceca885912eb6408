import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score

from utils.scoring import threshold_search, thresholds
from utils.scoring.threshold_search import SortedRows
from utils.scoring.thresholds import (
    ThresholdRule,
    apply_thresholds,
)


def _all_rows(scores, truth):
    rows = SortedRows(np.asarray(scores, dtype=float), np.asarray(truth))
    return rows, np.ones((1, *rows.scores.shape), dtype=bool)


def best_label_threshold(scores, truth):
    """Threshold with the highest F1 of one label, by exact search over the sorted scores.

    Args:
        scores: float array `[N]`, probabilities of the label.
        truth: 0/1 array `[N]`.

    Returns:
        `(threshold, F1)`; `(nan, 0.0)` where no row is positive, as no threshold is better than another then.
    """
    rows, counted = _all_rows(np.asarray(scores)[:, None], np.asarray(truth)[:, None])
    threshold, f1 = rows.best_thresholds(counted, *rows.counts(counted))
    return float(threshold[0, 0]), float(f1[0, 0])


def best_global_threshold(probabilities, truth):
    """The one threshold for all labels with the highest macro-F1; arrays are `[N, L]`."""
    rows, counted = _all_rows(probabilities, truth)
    return float(rows.best_global_thresholds(counted, *rows.counts(counted))[0])


@st.composite
def scored_rows(draw):
    """Probabilities on a coarse grid, so that ties are common, and 0/1 labels: both [N, L]."""
    shape = draw(st.tuples(st.integers(1, 25), st.integers(1, 4)))
    probabilities = draw(hnp.arrays(float, shape, elements=st.integers(0, 10).map(lambda i: i / 10)))
    return probabilities, draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 1)))


def every_cut(scores):
    """A threshold below, between and above all distinct scores."""
    distinct = np.unique(scores)
    return [-1.0, *((distinct[1:] + distinct[:-1]) / 2), *distinct, 2.0]


@given(scored_rows())
@settings(deadline=None, max_examples=200)
def test_label_threshold_is_the_best_there_is(rows):
    scores, truth = rows[0][:, 0], rows[1][:, 0]
    threshold, f1 = best_label_threshold(scores, truth)
    if not truth.any():
        assert np.isnan(threshold)
        return
    best = max(f1_score(truth, scores >= t, zero_division=0.0) for t in every_cut(scores))
    assert f1_score(truth, scores >= threshold, zero_division=0.0) == pytest.approx(best)
    assert f1 == pytest.approx(best)


@given(scored_rows())
@settings(deadline=None, max_examples=60)
def test_global_threshold_is_the_best_there_is(rows):
    probabilities, labels = rows

    def macro_f1(threshold):
        predictions = apply_thresholds(probabilities, threshold)
        return np.mean([f1_score(t, p, zero_division=0.0) for t, p in zip(labels.T, predictions.T)])

    best = max(macro_f1(threshold) for threshold in every_cut(probabilities))
    assert macro_f1(best_global_threshold(probabilities, labels)) == pytest.approx(best)


def test_neighbouring_floats_are_told_apart():
    lower = 0.3
    upper = np.nextafter(lower, 1)
    threshold, _ = best_label_threshold(np.array([lower, upper]), np.array([0, 1]))
    assert lower < threshold <= upper


def test_rare_labels_lean_on_the_global_threshold():
    rng = np.random.default_rng(0)
    labels = np.column_stack([np.arange(400) % 2 == 0, np.arange(400) < 3, np.zeros(400)]).astype(np.int8)
    probabilities = np.clip(0.6 * labels + 0.4 * rng.random(labels.shape), 0, 1)
    probabilities[:, 0] *= 0.3
    everywhere = best_global_threshold(probabilities, labels)
    own = [best_label_threshold(probabilities[:, i], labels[:, i])[0] for i in range(3)]
    shrunk = ThresholdRule("per_label", 20).fit(probabilities, labels).values
    assert abs(shrunk[0] - own[0]) < abs(shrunk[0] - everywhere)  # 200 positives
    assert abs(shrunk[1] - everywhere) < abs(shrunk[1] - own[1])  # 3 positives
    assert shrunk[2] == everywhere  # none
    assert ThresholdRule("per_label", 0).fit(probabilities, labels).values[:2] == pytest.approx(own[:2])
    assert set(ThresholdRule("global", 0).fit(probabilities, labels).values) == {everywhere}
    assert set(ThresholdRule("fixed", 0).fit(probabilities, labels).values) == {0.5}


def test_cross_fitting_does_not_reward_noise():
    """On scores that say nothing, thresholds tuned on the scored rows look good; cross-fitted ones must not."""
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 30)) < 0.05).astype(np.int8)
    probabilities = rng.random(labels.shape)
    rule = ThresholdRule("per_label", 0)
    on_itself = rule.fit(probabilities, labels).apply(probabilities)
    honest = rule.cross_fit(probabilities, labels, np.arange(200))[0]
    chance, tuned, cross_fitted = (
        f1_score(labels, predictions, average="macro", zero_division=0.0)
        for predictions in (np.ones_like(labels), on_itself, honest)
    )
    assert tuned > 1.5 * chance
    assert cross_fitted < 1.3 * chance
    again = rule.cross_fit(probabilities, labels, np.arange(200))[0]
    assert np.array_equal(honest, again)


@pytest.mark.parametrize("positive", [0.3, 0.02])
def test_many_rows_have_the_thresholds_that_the_search_over_all_of_them_finds(monkeypatch, positive):
    """The curves at nodes and the search among the highest scores, against fits and searches on all rows."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 4)) * [1, 2, 0.2, 0] + np.log(positive / (1 - positive))
    truth = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits * [1, 0.5, 1, 0]))).astype(np.int8)
    truth[:, 3] = 0
    probabilities = np.round(1 / (1 + np.exp(-logits)), 3)  # with ties
    for rule in (ThresholdRule("calibrated"), ThresholdRule("calibrated", 0.0), ThresholdRule("calibrated", 1e12)):
        counted = rng.random((12, len(truth))) < rng.choice([0.01, 0.5, 0.9], size=(12, 1))
        wanted = rule.fit_on_subsets(probabilities, truth, counted)
        for module in (threshold_search, thresholds):
            monkeypatch.setattr(module, "MANY_ROWS", 0)
        assert rule.fit_on_subsets(probabilities, truth, counted) == pytest.approx(wanted, abs=1e-7)
        monkeypatch.undo()
