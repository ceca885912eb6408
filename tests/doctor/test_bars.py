"""The bars of the doctor: against independent answers, and as often wrong by chance as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from utils.doctor.bars import LEVEL, Mean, more_than, rank, rates_differ, share_interval, some_rows


def test_the_interval_of_a_share_is_exact():
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, the Clopper-Pearson method.
    assert share_interval(81, 263, 0.95) == pytest.approx((0.2527, 0.3676), abs=1e-4)
    assert share_interval(0, 20, 0.95) == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert share_interval(0, 0) == (0.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 200), st.integers(1, 200))
def test_differences_of_rates_are_symmetric_and_fewer_with_a_higher_bar(count, more, other, other_more):
    here, there = (count, count + more), (other, other + other_more)
    assert rates_differ(here, there) == rates_differ(there, here)
    if rates_differ(here, there, factor=1.5) or rates_differ(here, there, points=0.1):
        assert rates_differ(here, there)
    assert not rates_differ(here, here)


def test_few_rows_carry_no_difference():
    assert not rates_differ((3, 3), (1, 3))
    assert rates_differ((300, 300), (100, 300))
    assert not rates_differ((1200, 100_000), (1000, 100_000), factor=1.25)  # certain, and too small to matter
    assert rates_differ((1200, 100_000), (1000, 100_000))
    assert more_than(60, 500, 0.05)
    assert not more_than(3, 25, 0.05)


def test_bars_are_wrong_by_chance_no_more_often_than_they_say():
    rng = np.random.default_rng(0)
    times, rates, means, rankings = 200, 0, 0, 0
    for _ in range(times):
        here, there = rng.random(300) < 0.3, rng.random(150) < 0.3
        rates += rates_differ((int(here.sum()), 300), (int(there.sum()), 150))
        low, high = Mean.of(rng.normal(size=80)).difference(Mean.of(rng.normal(size=120)))
        means += not low <= 0 <= high
    for _ in range(40):
        ranking = rank((rng.random((80, 4)) < 0.3).astype(int), rng.random((80, 4)))
        rankings += ranking.auc.mean() > ranking.mean_by_chance
    assert rates <= times * 2 * (1 - LEVEL)
    assert means <= times * 3 * (1 - LEVEL)
    assert rankings <= 40 * 5 * (1 - LEVEL)


def test_ranking_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth = (rng.random((200, 5)) < [0.5, 0.2, 0.1, 0.0, 1.0]).astype(int)
    probabilities = np.round(rng.random((200, 5)) + truth * 0.2, 1)  # with ties
    ranking = rank(truth, probabilities)
    assert ranking.judged.tolist() == [0, 1, 2]
    expected = [roc_auc_score(truth[:, i], probabilities[:, i]) for i in range(3)]
    assert ranking.auc == pytest.approx(expected)
    assert ranking.by_chance.mean(axis=0) == pytest.approx([0.5] * 3, abs=0.02)


def test_a_mean_of_one_row_says_nothing():
    assert Mean.of(np.array([1.0])).difference(Mean.of(np.arange(9.0))) == (-np.inf, np.inf)


def test_a_sample_of_rows_is_the_same_each_time():
    assert some_rows(5, 10).tolist() == [0, 1, 2, 3, 4]
    chosen = some_rows(1000, 10)
    assert len(set(chosen.tolist())) == 10
    assert chosen.tolist() == sorted(some_rows(1000, 10).tolist())
