"""Thresholds for micro-F1, samples-F1, Jaccard and exact match, against exhaustive search."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from utils.scoring.joint_thresholds import one_threshold, thresholds_by_ascent
from utils.scoring.scores import SCORES
from utils.scoring.thresholds import JOINT, ThresholdRule

COMPUTE = {score.name: score.compute for score in SCORES}


def small_case(seed, rows, labels, steps):
    """Scores that go with the truth, many of them tied."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, labels)) < 0.4).astype(np.int8)
    return truth, np.round(np.clip(0.3 * truth + 0.7 * rng.random(truth.shape), 0, 1) * steps) / (steps + 1)


def candidates(scores):
    """Thresholds that divide the values differently: at each, and above all."""
    return [*np.unique(scores), 1.0]


def exhaustive(name, truth, scores):
    each = [candidates(scores[:, label]) for label in range(scores.shape[1])]
    return max(COMPUTE[name](truth, scores >= np.array(thresholds)) for thresholds in product(*each))


@pytest.mark.parametrize("name", JOINT)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4), st.sampled_from([3, 1000]))
@settings(deadline=None, max_examples=60)
def test_one_threshold_for_all_is_the_best_there_is(name, seed, rows, labels, steps):
    truth, scores = small_case(seed, rows, labels, steps)
    best = max(COMPUTE[name](truth, scores >= threshold) for threshold in candidates(scores))
    assert COMPUTE[name](truth, scores >= one_threshold(name, scores, truth)) == pytest.approx(best)


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 3), st.sampled_from([3, 1000]))
@settings(deadline=None, max_examples=60)
def test_thresholds_for_micro_f1_are_the_best_there_are(seed, rows, labels, steps):
    truth, scores = small_case(seed, rows, labels, steps)
    found = thresholds_by_ascent("f1_micro", scores, truth, np.full(labels, 0.5))
    assert COMPUTE["f1_micro"](truth, scores >= found) == pytest.approx(exhaustive("f1_micro", truth, scores))


@pytest.mark.parametrize("name", ["f1_samples", "jaccard", "exact_match"])
def test_thresholds_of_the_others_are_near_the_best_there_are(name):
    below = []
    for seed in range(40):
        truth, scores = small_case(seed, 8, 3, 1000)
        found = thresholds_by_ascent(name, scores, truth, np.full(3, one_threshold(name, scores, truth)))
        below.append(exhaustive(name, truth, scores) - COMPUTE[name](truth, scores >= found))
    assert min(below) > -1e-9
    assert np.mean(below) < 0.007
    assert np.sum(np.array(below) < 1e-9) >= 38


@pytest.mark.parametrize("name", JOINT)
def test_a_label_is_given_to_none_where_that_is_best(name):
    scores = np.array([[0.9, 0.6], [0.8, 0.7], [0.7, 0.8], [0.2, 0.9]])
    truth = np.array([[1, 0], [1, 0], [1, 0], [0, 0]])
    found = thresholds_by_ascent(name, scores, truth, np.full(2, 0.5))
    np.testing.assert_array_equal(scores >= found, truth)


def population(seed, rows):
    """Eight labels whose logits are wrong by a line each; truth and probabilities."""
    rng = np.random.default_rng(seed)
    slopes, intercepts = np.linspace(0.6, 1.6, 8), np.linspace(-3.0, -0.5, 8)
    logits = rng.normal(scale=2, size=(rows, 8))
    truth = (rng.random(logits.shape) < expit(slopes * logits + intercepts)).astype(np.int8)
    return expit(logits + rng.normal(scale=0.5, size=logits.shape)), truth


@pytest.mark.parametrize("name", JOINT)
def test_what_is_chosen_for_a_score_is_better_at_it_on_new_rows(name):
    new, new_truth = population(10**6, 10_000)
    scores = {how: [] for how in ("for macro-F1", "calibrated", "own")}
    for seed in range(12):
        probabilities, truth = population(seed, 300)
        rules = (
            ThresholdRule("calibrated"),
            ThresholdRule("calibrated", None, name),
            ThresholdRule("per_label", 0.0, name),
        )
        for values, rule in zip(scores.values(), rules):
            values.append(COMPUTE[name](new_truth, rule.fit(probabilities, truth).apply(new)))
    for other in ("for macro-F1", "own"):
        gains = np.subtract(scores["calibrated"], scores[other])
        assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains)), other


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("strategy", ["calibrated", "per_label", "global"])
def test_cross_fitting_is_a_fit_without_each_part(name, strategy):
    probabilities, truth = population(0, 120)
    rule = ThresholdRule(strategy, None, name)
    counted = np.random.default_rng(0).random((4, 120)) < 0.8
    together = rule.fit_on_subsets(probabilities, truth, counted)
    for thresholds, seen in zip(together, counted):
        alone = rule.fit(probabilities[seen], truth[seen]).values
        decided = probabilities >= alone
        assert (decided == (probabilities >= thresholds)).mean() > 0.999
    assert ((together >= 0) & (together <= 1)).all()


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("strategy", ["calibrated", "per_label", "global"])
def test_cells_that_are_not_known_do_not_count(name, strategy):
    """What stands in such a cell changes nothing, and rows of which nothing is known are as if they were not there."""
    probabilities, truth = population(0, 150)
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(truth.shape) < 0.3, np.nan, truth)
    truth[:20] = np.nan
    rule = ThresholdRule(strategy, None, name)
    found = rule.fit(probabilities, truth).values
    other = np.where(np.isnan(truth), rng.random(truth.shape), probabilities)
    np.testing.assert_allclose(rule.fit(other, truth).values, found)
    np.testing.assert_allclose(rule.fit(probabilities[20:], truth[20:]).values, found, atol=1e-7)
    score = COMPUTE[name](truth[20:], (probabilities >= found)[20:])
    assert score > COMPUTE[name](truth[20:], (probabilities >= 0.95)[20:])
