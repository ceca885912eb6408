"""Comparisons of systems whose truth is known."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import t

from benchmarks.honesty import of_seeds
from utils.scoring.bootstrap import plain_scores, resample
from utils.scoring.differences import (
    FACTOR,
    Comparison,
    Contender,
    Spread,
    expected_maximum,
    factor_of,
    pooled_spread,
    widened,
)
from utils.scoring.thresholds import ThresholdRule


def population(rng, rows, labels=6):
    """Truth `[N, L]`, and the logits that the best possible model would give."""
    logits = rng.normal(scale=1.5, size=(rows, labels)) - np.linspace(0.5, 2, labels)
    return (rng.random(logits.shape) < expit(logits)).astype(np.int8), logits


def contender(rng, truth, logits, seeds=1, noise=0.7, rule=None, resamples=300):
    """A system that knows the logits but for noise, which is its luck of the training, scored on the truth."""
    values, drawn = [], []
    for _ in range(seeds):
        probabilities = expit(logits + rng.normal(scale=noise, size=logits.shape))
        decided = (
            probabilities >= 0.4 if rule is None else rule.cross_fit(probabilities, truth, np.arange(len(truth)), 1)
        )
        values.append(plain_scores(truth, decided)["f1_macro"])
        drawn.append(resample(truth, decided, resamples, seed=0)["f1_macro"])
    spread = Spread(float(np.std(values, ddof=1)), seeds - 1) if seeds > 1 else None
    return Contender(float(np.mean(values)), np.array(drawn), spread, FACTOR if rule is None else factor_of(rule))


def called_worse(systems, worlds, noises=None, **options):
    """Share of comparisons in which a system is called worse than the best of them."""
    called = 0
    for world in range(worlds):
        rng = np.random.default_rng(world)
        truth, logits = population(rng, 300)
        contenders = [
            contender(rng, truth, logits, noise=0.7 if noises is None else noises[number], **options)
            for number in range(systems)
        ]
        comparison, best = Comparison(contenders), int(np.argmax([one.value for one in contenders]))
        called += any(comparison.difference(a, best).is_distinguishable for a in range(systems) if a != best)
    return called / worlds


@pytest.mark.parametrize(
    ("systems", "options"),
    [(2, {}), (10, {}), (2, {"seeds": 3}), (3, {"rule": ThresholdRule("calibrated")})],
    ids=["two", "best of ten", "three seeds each", "tuned"],
)
def test_equal_systems_are_seldom_told_apart(systems, options):
    """Of 150 comparisons 5 % are 7.5, and more than 15 would stand there once in 200 such tests."""
    assert called_worse(systems, 60 if "rule" in options else 150, **options) <= 0.1


def test_systems_that_differ_are_told_apart():
    assert called_worse(2, 40, noises=(0.3, 1.5)) >= 0.9


def test_the_parts_of_the_standard_error():
    rng = np.random.default_rng(0)
    truth, logits = population(rng, 400)
    one, other = (contender(rng, truth, logits, seeds=3, resamples=2000) for _ in range(2))
    rows = (one.values.mean(axis=0) - other.values.mean(axis=0)).std(ddof=1)
    seeds = one.spread.sd**2 / 3 + other.spread.sd**2 / 3
    found = Comparison([one, other]).difference(0, 1)
    assert found.standard_error == pytest.approx(np.sqrt((FACTOR * rows) ** 2 + seeds))
    assert found.value == one.value - other.value
    # Of two systems the largest of all differences is the one there is: the interval is that of Student's t.
    freedom = found.standard_error**4 / sum((each.spread.sd**2 / 3) ** 2 / 2 for each in (one, other))
    assert (found.high - found.low) / (2 * found.standard_error) == pytest.approx(t.ppf(0.975, freedom), rel=0.08)
    one.factor = factor_of(ThresholdRule("per_label"))
    tuned = Comparison([one, other]).difference(0, 1)
    assert tuned.standard_error == pytest.approx(np.sqrt((one.factor * rows) ** 2 + seeds))
    turned = Comparison([other, one]).difference(0, 1)
    assert (turned.value, turned.p_value) == pytest.approx((-tuned.value, tuned.p_value), abs=0.05)


def test_same_predictions_do_not_differ():
    rng = np.random.default_rng(0)
    truth, logits = population(rng, 200)
    one = contender(rng, truth, logits)
    same = Comparison([one, one, contender(rng, truth, logits)]).difference(0, 1)
    assert (same.value, same.low, same.high, same.p_value, same.standard_error) == (0, 0, 0, 1, 0)
    assert not same.is_distinguishable
    one.spread = Spread(0.01, 4)  # other seeds of the two would have differed
    assert Comparison([one, one]).difference(0, 1).standard_error == pytest.approx(0.01 * np.sqrt(2))


def test_more_systems_raise_the_bar():
    rng = np.random.default_rng(0)
    truth, logits = population(rng, 400)
    contenders = [contender(rng, truth, logits, resamples=2000) for _ in range(10)]
    two, ten = Comparison(contenders[:2]), Comparison(contenders)
    assert two.quantile < 2.1 < 2.9 < ten.quantile < 3.4  # the studentised range of ten, over sqrt 2, is 3.16
    assert two.difference(0, 1).p_value <= ten.difference(0, 1).p_value


def test_the_best_looks_too_good():
    """Where all are equally good, the best is above the truth by what the function says."""
    assert [expected_maximum(n) for n in (1, 2, 10)] == pytest.approx([0, 1 / np.sqrt(np.pi), 1.53875], abs=1e-5)
    excess, said = [], []
    for world in range(60):
        rng = np.random.default_rng(world)
        truth, logits = population(rng, 300)
        contenders = [contender(rng, truth, logits, resamples=200) for _ in range(5)]
        values = [one.value for one in contenders]
        excess.append(max(values) - np.mean(values))
        said.append(Comparison(contenders).picked_excess())
    assert np.mean(said) == pytest.approx(np.mean(excess), rel=0.25)


def test_seeds_and_rows_that_show_a_gap_do_show_it():
    rng = np.random.default_rng(0)
    truth, logits = population(rng, 400)
    one, other = (contender(rng, truth, logits, seeds=3, resamples=1000) for _ in range(2))
    comparison = Comparison([one, other])
    gap = comparison.visible(0, 1)
    assert comparison.rows_needed(0, 1, gap, 400) == pytest.approx(400, abs=1)
    assert comparison.rows_needed(0, 1, 1e-5, 400) is None  # the luck of three seeds is larger
    assert comparison.seeds_needed(0, 1, gap) <= 4
    assert (comparison.seeds_needed(0, 1, gap / 2) or 1e9) > comparison.seeds_needed(0, 1, gap)
    of_seeds = one.seed_variance + other.seed_variance
    for share in (0.5, 0.6, 0.7, 0.8, 0.9):
        rows = comparison.rows_needed(0, 1, share * gap, 400)
        if rows is not None:  # by the comparison's own formula it is seen on so many, and not on one fewer
            variances = [(comparison.errors[0, 1] ** 2 - of_seeds) * 400 / n + of_seeds for n in (rows, rows - 1)]
            seen = [comparison._seen(each, comparison._freedom(0, 1, each), 0.8) for each in variances]
            assert seen[0] <= share * gap * (1 + 1e-6) < seen[1] * (1 + 2e-6)
    single = Comparison([contender(rng, truth, logits) for _ in range(2)])
    assert single.rows_needed(0, 1, single.visible(0, 1) / 2, 400) == pytest.approx(1600, abs=1)
    assert single.seeds_needed(0, 1, single.visible(0, 1) / 2) == 4  # if the luck of the seed is all there is


def test_pooled_spread():
    pooled = pooled_spread([Spread(0.3, 1), Spread(0.1, 3)])
    assert (pooled.sd, pooled.freedom) == (pytest.approx(np.sqrt((0.09 + 3 * 0.01) / 4)), 4)
    assert pooled_spread([]) is None


@pytest.mark.parametrize(("seeds", "rows_sd", "most"), [(2, 1e-4, 0.05), (3, 1e-4, 0.05), (2, 0.003, 0.07)])
def test_a_spread_over_two_or_three_seeds_is_an_estimate(seeds, rows_sd, most):
    """Where the luck of the seeds is all there is, normal quantiles call 18 and 12 % of equal systems different."""
    rng = np.random.default_rng(0)
    systems = [[of_seeds(rng, seeds, rows_sd, 0.01) for _ in range(2)] for _ in range(400)]
    called = np.mean([Comparison(two).difference(0, 1).is_distinguishable for two in systems])
    assert called <= most + 2.3 * np.sqrt(most * (1 - most) / 400)


def test_intervals_hold_the_spread_over_the_seeds_as_an_estimate():
    # Rows alone: no more than it was. Seeds alone: Student's quantiles, of 1, 2 and 100 degrees of freedom.
    assert widened(0.02, Spread(0.0, 1), 2) == pytest.approx(0.02)
    for freedom, quantile in ((1, 12.706), (2, 4.303), (100, 1.984)):
        assert widened(0.0, Spread(0.01, freedom), 4) == pytest.approx(quantile * 0.005, rel=1e-3)
    # Where the rows are most of it, as on 886 rows, it is the root of the sum of squares.
    assert widened(0.02, Spread(0.003, 2), 3) == pytest.approx(np.hypot(0.02, 1.96 * 0.003 / np.sqrt(3)), rel=0.01)
    rng = np.random.default_rng(0)
    seeds = rng.normal(scale=0.01, size=(4000, 3))
    ends = [widened(1.96 * 0.003, Spread(sd, 2), 3) for sd in seeds.std(axis=1, ddof=1)]
    missed = np.abs(seeds.mean(axis=1) + rng.normal(scale=0.003, size=4000)) > ends
    assert missed.mean() < 0.09  # by normal quantiles 0.14


def test_a_borrowed_spread_is_no_surer_than_its_own():
    rng = np.random.default_rng(0)
    several = of_seeds(rng, 3, 1e-5, 0.01)
    single = Contender(0.5, rng.normal(scale=1e-5, size=(1, 1000)), several.spread, factor=1.0)
    found = Comparison([several, single]).difference(0, 1)
    assert found.high - found.value == pytest.approx(4.303 * found.standard_error, rel=0.05)  # 2 degrees of freedom
