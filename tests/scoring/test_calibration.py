"""Platt's fit against scikit-learn, and thresholds of calibrated probabilities on rows of every kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from utils.scoring.calibration import finite_logit, fit_logistic, fit_platt
from utils.scoring.thresholds import ThresholdRule, cross_fitting_parts


def population(rows, seed=0, slopes=(0.5, 1, 2), intercepts=(-1, 0, -2)):
    """Probabilities of three labels whose logits are wrong by a line each, and truth: both `[N, 3]`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(rows, len(slopes)))
    return expit(logits), (rng.random(logits.shape) < expit(slopes * logits + np.array(intercepts))).astype(np.int8)


@st.composite
def any_rows(draw):
    """Probabilities with ties, 0 and 1, and truth in which labels may be all 0 or all 1: both [N, L]."""
    shape = draw(st.tuples(st.integers(1, 25), st.integers(1, 4)))
    probabilities = draw(hnp.arrays(float, shape, elements=st.integers(0, 10).map(lambda i: i / 10)))
    return probabilities, draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 1)))


@pytest.mark.parametrize("ridge", [0.1, 5.0, 100.0])
def test_one_label_is_the_ridge_regression_of_scikit_learn(ridge):
    probabilities, truth = population(300)
    logits = finite_logit(probabilities[:, 2])
    start = np.zeros((1, 1, 2))
    curve = fit_logistic(logits[None], truth[None, :, 2].astype(float), np.ones((1, 1, 300)), ridge, start, start)
    # The intercept is a column like others, as it is pulled as well.
    theirs = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-10).fit(
        np.column_stack([logits, np.ones(300)]), truth[:, 2]
    )
    assert curve[0, 0] == pytest.approx(theirs.coef_[0], abs=1e-6)


def test_curves_are_found_and_rare_labels_lean_on_all_together():
    probabilities, truth = population(50_000)
    platt = fit_platt(probabilities, truth)
    assert platt.slopes == pytest.approx([0.5, 1, 2], abs=0.08)
    assert platt.intercepts == pytest.approx([-1, 0, -2], abs=0.08)
    calibrated = platt.apply(probabilities)
    for label in range(3):
        high = calibrated[:, label] > 0.7
        assert truth[high, label].mean() == pytest.approx(calibrated[high, label].mean(), abs=0.02)
    few = fit_platt(probabilities[:20], truth[:20], ridge=1e6)
    assert np.ptp(few.slopes) < 1e-3  # with a hard pull they are all the pooled one


@given(any_rows(), st.sampled_from(["calibrated", "per_label", "global"]), st.sampled_from([None, 0.0, 3.0]))
@settings(deadline=None, max_examples=200)
def test_any_rows_give_thresholds(rows, strategy, shrinkage):
    probabilities, truth = rows
    rule = ThresholdRule(strategy, shrinkage)
    values = rule.fit(probabilities, truth).values
    assert ((values >= 0) & (values <= 1)).all()
    platt = fit_platt(probabilities, truth)
    assert np.isfinite(platt.apply(probabilities)).all()
    decided = rule.cross_fit(probabilities, truth, np.arange(len(truth)), partitions=2)
    assert decided.shape == (2, *truth.shape)


@given(any_rows(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_newton_arrives(rows, seed):
    """The gradient is 0 at the end, from wherever it starts and however far the scores are apart."""
    x = finite_logit(rows[0]).T
    y = rows[1].T.astype(float)
    start = np.random.default_rng(seed).normal(scale=5, size=(1, len(x), 2))
    towards = np.array([[[1.0, 0.0]]]) + np.zeros_like(start)
    curve = fit_logistic(x, y, np.ones((1, *x.shape)), 5.0, towards, start)
    error = expit(curve[0, :, :1] * x + curve[0, :, 1:]) - y
    gradient = np.stack([(error * x).sum(axis=1), error.sum(axis=1)], axis=1) + 5 * (curve[0] - towards[0])
    assert np.abs(gradient).max() < 1e-6


def test_the_threshold_is_half_of_the_best_f1():
    """With a label's true probabilities and all weight on the curve, the known best threshold is found."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(1, 4, size=(200_000, 2))
    truth = (rng.random(probabilities.shape) < probabilities).astype(np.int8)
    order = -np.sort(-probabilities, axis=0)
    numbers = np.arange(1, len(order) + 1)[:, None]
    best = (2 * np.cumsum(order, axis=0) / (numbers + order.sum(axis=0))).max(axis=0)
    assert ThresholdRule("calibrated", 1e12).fit(probabilities, truth).values == pytest.approx(best / 2, abs=0.01)
    own = ThresholdRule("per_label", 0).fit(probabilities, truth).values
    assert ThresholdRule("calibrated", 0).fit(probabilities, truth).values == pytest.approx(own)


def test_scores_that_say_nothing_give_the_label_to_all():
    truth = (np.arange(60) % 3 == 0).astype(np.int8)[:, None]
    for probabilities in (np.full((60, 1), 0.3), 0.2 + 0.6 * (1 - truth)):
        assert ThresholdRule("calibrated").fit(probabilities, truth).apply(probabilities).all()


def test_cross_fitting_is_a_fit_without_each_part():
    probabilities, truth = population(200)
    groups = np.arange(200) // 2
    for strategy in ("calibrated", "per_label", "global"):
        rule = ThresholdRule(strategy)
        decided = rule.cross_fit(probabilities, truth, groups, partitions=3)
        for seed in range(3):
            parts = cross_fitting_parts(truth, groups, seed)
            for part in np.unique(parts):
                out = parts == part
                thresholds = rule.fit(probabilities[~out], truth[~out])
                assert np.array_equal(decided[seed, out], thresholds.apply(probabilities[out]))


def test_calibrated_thresholds_are_better_on_new_rows_and_less_noisy():
    """Ten labels with logits that are wrong by a line each; chosen on 400 rows, scored on 20,000."""
    scores = {"per_label": [], "calibrated": []}
    slopes, intercepts = np.linspace(0.5, 1.5, 10), np.linspace(-4.0, -1.0, 10)
    new_probabilities, new_truth = population(20_000, 10**6, slopes, intercepts)
    for seed in range(30):
        probabilities, truth = population(400, seed, slopes, intercepts)
        for strategy, values in scores.items():
            decided = ThresholdRule(strategy).fit(probabilities, truth).apply(new_probabilities)
            sizes = new_truth.sum(axis=0) + decided.sum(axis=0)
            values.append((2 * (new_truth & decided).sum(axis=0) / np.maximum(sizes, 1)).mean())
    gains = np.subtract(scores["calibrated"], scores["per_label"])
    assert gains.mean() > max(0.004, 4 * gains.std(ddof=1) / np.sqrt(len(gains)))
    assert np.std(scores["calibrated"]) < np.std(scores["per_label"])
