"""Comparisons of systems whose truth is known."""

import numpy as np
import pytest
from scipy.special import expit

from utils.scoring.bootstrap import plain_scores, resample
from utils.scoring.differences import FACTOR, Comparison, Contender, expected_maximum, factor_of, pooled_sd
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
    sd = float(np.std(values, ddof=1)) if seeds > 1 else None
    return Contender(float(np.mean(values)), np.array(drawn), sd, FACTOR if rule is None else factor_of(rule))


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
    seeds = one.seed_sd**2 / 3 + other.seed_sd**2 / 3
    found = Comparison([one, other]).difference(0, 1)
    assert found.standard_error == pytest.approx(np.sqrt((FACTOR * rows) ** 2 + seeds))
    assert found.value == one.value - other.value
    # Of two systems the largest of all differences is the one there is: the interval is the usual one.
    assert (found.high - found.low) / (2 * found.standard_error) == pytest.approx(1.96, abs=0.1)
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
    one.seed_sd = 0.01  # other seeds of the two would have differed
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
    one, other = (contender(rng, truth, logits, seeds=2, resamples=1000) for _ in range(2))
    comparison = Comparison([one, other])
    gap = comparison.visible(0, 1)
    assert comparison.rows_needed(0, 1, gap, 400) == pytest.approx(400, abs=1)
    assert comparison.rows_needed(0, 1, 1e-5, 400) is None  # the luck of two seeds is larger
    assert comparison.seeds_needed(0, 1, gap) <= 3
    assert (comparison.seeds_needed(0, 1, gap / 2) or 1e9) > comparison.seeds_needed(0, 1, gap)
    single = Comparison([contender(rng, truth, logits) for _ in range(2)])
    assert single.rows_needed(0, 1, single.visible(0, 1) / 2, 400) == pytest.approx(1600, abs=1)
    assert single.seeds_needed(0, 1, single.visible(0, 1) / 2) == 4  # if the luck of the seed is all there is


def test_pooled_spread():
    assert pooled_sd([0.3, 0.1], [2, 4]) == pytest.approx(np.sqrt((0.09 + 3 * 0.01) / 4))
    assert pooled_sd([], []) is None
