"""The bootstrap against scikit-learn and a plain slow one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    jaccard_score,
    label_ranking_average_precision_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from utils.scoring import bootstrap
from utils.scoring.bootstrap import (
    interval,
    plain_scores,
    possible_resamples,
    resample,
    resample_each,
    resample_probabilities,
)
from utils.scoring.influence import half_width, influence
from utils.scoring.scores import OF_PREDICTIONS, OF_PROBABILITIES


def sklearn_scores(truth, predictions):
    return {
        "f1_macro": f1_score(truth, predictions, average="macro", zero_division=0.0),
        "f1_micro": f1_score(truth, predictions, average="micro", zero_division=0.0),
        "f1_samples": f1_score(truth, predictions, average="samples", zero_division=1.0),
        "jaccard": jaccard_score(truth, predictions, average="samples", zero_division=1.0),
        "exact_match": (truth == predictions).all(axis=1).mean(),
        "precision": precision_score(truth, predictions, average=None, zero_division=0.0),
        "recall": recall_score(truth, predictions, average=None, zero_division=0.0),
        "f1": f1_score(truth, predictions, average=None, zero_division=0.0),
    }


def sklearn_probability_scores(truth, probabilities):
    """Those of labels that have a true row, or rows of both classes, by scikit-learn."""
    present = [i for i in range(truth.shape[1]) if truth[:, i].any()]
    usable = [i for i in present if not truth[:, i].all()]
    cells = truth.ravel()
    # LRAP of scikit-learn counts a row without labels 1, as we do.
    return {
        "map": np.mean([average_precision_score(truth[:, i], probabilities[:, i]) for i in present] or [0.0]),
        "lrap": label_ranking_average_precision_score(truth, probabilities),
        "roc_auc_macro": np.mean([roc_auc_score(truth[:, i], probabilities[:, i]) for i in usable] or [0.5]),
        "roc_auc_micro": roc_auc_score(cells, probabilities.ravel()) if 0 < cells.sum() < cells.size else 0.5,
    }


def some_rows(rows, labels, seed=0, right=0.8):
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, labels)) < 0.3).astype(np.int8)
    return truth, np.where(rng.random(truth.shape) < right, truth, 1 - truth).astype(np.int8)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 10**6), st.floats(0, 1))
def test_scores_are_those_of_scikit_learn(rows, labels, seed, right):
    truth, predictions = some_rows(rows, labels, seed, right)
    ours = plain_scores(truth, predictions)
    for name, value in sklearn_scores(truth, predictions).items():
        assert ours[name] == pytest.approx(value, abs=1e-12)


def test_resampled_scores_are_those_of_a_plain_slow_bootstrap():
    truth, predictions = some_rows(60, 4)
    fast = resample(truth, predictions, 40, seed=3)
    draws = np.random.default_rng(3).integers(60, size=(40, 60))
    for b, rows in enumerate(draws):
        for name, value in sklearn_scores(truth[rows], predictions[rows]).items():
            assert fast[name][b] == pytest.approx(value, abs=1e-6)


def test_seed_and_memory(monkeypatch):
    truth, predictions = some_rows(101, 3)
    first = resample(truth, predictions, 200, seed=1)
    np.testing.assert_array_equal(first["f1_macro"], resample(truth, predictions, 200, seed=1)["f1_macro"])
    assert (first["f1_macro"] != resample(truth, predictions, 200, seed=2)["f1_macro"]).any()
    monkeypatch.setattr(bootstrap, "CELLS_AT_A_TIME", 7 * 101)  # seven resamples at a time
    np.testing.assert_allclose(first["f1"], resample(truth, predictions, 200, seed=1)["f1"], atol=1e-6)


def test_interval_is_as_wide_as_theory_says():
    # The share of rows that are right, which Jaccard is for one label a row, has a known standard error.
    rng = np.random.default_rng(0)
    truth = np.eye(2, dtype=np.int8)[np.zeros(400, dtype=int)]
    predictions = np.eye(2, dtype=np.int8)[(rng.random(400) < 0.3).astype(int)]
    share = plain_scores(truth, predictions)["jaccard"]
    low, high = interval(resample(truth, predictions, 4000, seed=0)["jaccard"], share)
    assert low < share < high
    assert high - low == pytest.approx(bootstrap.WIDER * 2 * 1.96 * np.sqrt(share * (1 - share) / 400), rel=0.05)


def test_interval_lies_higher_by_the_bias_of_the_resamples_and_holds_the_score():
    values = np.array([0.34, 0.36, 0.38, 0.40, 0.42])  # 0.02 below the score on average
    low, high = interval(values, 0.40, level=1.0)
    assert (low, high) == pytest.approx((0.42 - 0.04 * bootstrap.WIDER, 0.42 + 0.04 * bootstrap.WIDER))
    low, high = interval(np.stack([values, np.ones(5)], axis=1), np.array([0.98, 1.0]))
    assert low.tolist() == [0.98, 1.0]
    assert high.tolist() == [1.0, 1.0]


def test_shapes_must_agree():
    truth, predictions = some_rows(10, 3)
    with pytest.raises(ValueError, match="shape"):
        resample(truth, predictions[:5], 10, seed=0)


def test_a_score_of_several_sets_is_the_mean_over_them():
    truth, _ = some_rows(80, 4)
    sets = np.stack([some_rows(80, 4, seed=0, right=right)[1] for right in (0.6, 0.7, 0.9)])
    together, each = plain_scores(truth, sets), [plain_scores(truth, one) for one in sets]
    drawn, drawn_each = resample(truth, sets, 50, 0), [resample(truth, one, 50, 0) for one in sets]
    for name in together:
        np.testing.assert_allclose(together[name], np.mean([one[name] for one in each], axis=0), atol=1e-12)
        np.testing.assert_allclose(drawn[name], np.mean([one[name] for one in drawn_each], 0), 1e-5)


def test_groups_are_drawn_as_groups():
    """Rows that stand four times say no more than once: the interval is that of the rows without their copies."""
    truth, predictions = some_rows(100, 4)
    copies = np.repeat(np.arange(100), 4)
    once = resample(truth, predictions, 500, seed=0)
    grouped = resample(truth[copies], predictions[copies], 500, seed=0, groups=copies + 7)
    np.testing.assert_allclose(grouped["f1_macro"], once["f1_macro"], atol=1e-5)
    alone = resample(truth[copies], predictions[copies], 500, seed=0)
    assert alone["f1_macro"].std() == pytest.approx(once["f1_macro"].std() / 2, rel=0.15)


def some_probabilities(truth, seed=0, steps=12):
    """Probabilities that go with the truth a little, most of them tied with others: `[N, L]`."""
    rng = np.random.default_rng(seed)
    return np.round(np.clip(0.3 * truth + rng.random(truth.shape) * 0.8, 0, 1) * steps) / steps


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 25), st.integers(2, 5), st.integers(0, 10**6), st.sampled_from([2, 12, 10**9]))
def test_probabilities_of_resampled_rows_are_scored_as_scikit_learn_scores_them(rows, labels, seed, steps):
    truth, _ = some_rows(rows, labels, seed)
    probabilities = some_probabilities(truth, seed, steps)
    fast = resample_probabilities(truth, probabilities, 5, seed=3)
    assert fast.keys() == {score.name for score in OF_PROBABILITIES}
    for b, drawn in enumerate(np.random.default_rng(3).integers(rows, size=(5, rows))):
        for name, value in sklearn_probability_scores(truth[drawn], probabilities[drawn]).items():
            assert fast[name][b] == pytest.approx(value, abs=2e-6), name


def test_every_score_is_resampled_on_the_same_draws():
    truth, predictions = some_rows(150, 4)
    probabilities, groups = some_probabilities(truth), np.arange(150) // 2
    kinds = {"": predictions[None], "_tuned": np.stack([predictions, truth])}
    drawn = resample_each(truth, kinds, probabilities, groups)
    for kind, decided in kinds.items():
        alone = resample(truth, decided, bootstrap.RESAMPLES, bootstrap.SEED, groups)
        assert {score.name for score in OF_PREDICTIONS} < alone.keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(drawn[kind][name], values)
    of_probabilities = resample_probabilities(truth, probabilities, bootstrap.RESAMPLES, bootstrap.SEED, groups)
    for score in OF_PROBABILITIES:
        np.testing.assert_array_equal(drawn[""][score.name], of_probabilities[score.name])
        assert score.name not in drawn["_tuned"]


def test_influences_are_the_derivatives_and_give_the_intervals_of_the_bootstrap():
    truth, predictions = some_rows(400, 5)
    truth[:, 4] = 1  # no ROC curve
    probabilities = some_probabilities(truth, steps=10**9)
    groups = np.arange(400) // 2
    drawn = resample(truth, predictions, 2000, 0, groups) | resample_probabilities(
        truth, probabilities, 2000, 0, groups
    )
    copies = np.append(np.arange(400), 7)  # one more of row 7
    for score in (*OF_PREDICTIONS, *OF_PROBABILITIES):
        predicted = probabilities if score.of_probabilities else predictions
        moves = influence(score, truth, predicted)
        assert moves.sum() == pytest.approx(0, abs=1e-9)
        more = score.compute(truth[copies], predicted[copies]) - score.compute(truth, predicted)
        assert more == pytest.approx(moves[7], abs=2e-5), score.name
        assert half_width(moves, groups) == pytest.approx(1.96 * drawn[score.name].std(), rel=0.06), score.name


def test_many_rows_have_the_intervals_that_exact_resampling_gives(monkeypatch):
    truth, _ = some_rows(1500, 4)
    probabilities = some_probabilities(truth)
    exact = resample_probabilities(truth, probabilities, 1000, 0)
    monkeypatch.setattr(bootstrap, "EXACT_CELLS", 10)
    linear = resample_probabilities(truth, probabilities, 1000, 0)
    for name, values in exact.items():
        assert np.corrcoef(values, linear[name])[0, 1] > 0.99, name
        score = next(one.compute(truth, probabilities) for one in OF_PROBABILITIES if one.name == name)
        for end, other in zip(interval(values, score), interval(linear[name], score)):
            assert end - score == pytest.approx(other - score, rel=0.12), name


def test_a_million_rows_have_fewer_resamples(monkeypatch):
    assert possible_resamples(886, 2000) == 2000
    assert possible_resamples(10**6, 2000) == 200
    monkeypatch.setattr(bootstrap, "DRAWN_CELLS", 60 * 250)
    truth, predictions = some_rows(60, 3)
    assert len(resample(truth, predictions, 2000, 0)["f1"]) == 250
