"""The project's figures on made-up data whose truth is known: a small version of `python -m benchmarks.honesty`."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.honesty import DEFAULT, KINDS, Effort, equal_runs, own_figures, true_score
from benchmarks.populations import POPULATIONS, Recipe
from benchmarks.threshold_methods import FORMER
from utils.scoring.bootstrap import plain_scores
from utils.scoring.scores import AT_HALF, TUNED

pytestmark = pytest.mark.simulation

FEW_LABELS = replace(
    POPULATIONS["11 labels"],
    **{
        name: getattr(POPULATIONS["11 labels"], name)[3::3]
        for name in ("prevalences", "separations", "slopes", "offsets")
    },
)


@pytest.mark.parametrize("name", POPULATIONS)
def test_true_scores_are_those_of_many_rows(name):
    recipe = Recipe(POPULATIONS[name])
    rng = np.random.default_rng(1)
    run = recipe.run(recipe.population.draw(100_000, rng), rng)
    for thresholds in (0.5, recipe.best_thresholds):
        seen = plain_scores(run.truth, run.probabilities >= thresholds)["f1_macro"]
        assert seen == pytest.approx(recipe.macro_f1(thresholds), abs=0.006)


def test_population_is_as_described():
    population = POPULATIONS["correlated"]
    texts = population.draw(100_000, np.random.default_rng(0))
    assert texts.truth.mean(axis=0) == pytest.approx(population.prevalences, abs=0.006)
    sizes = np.bincount(texts.groups)[texts.groups]
    assert (sizes > 1).mean() == pytest.approx(population.duplicated, abs=0.006)
    assert np.corrcoef(texts.truth.T)[np.triu_indices(11, 1)].min() > 0.05
    first, second = np.flatnonzero(texts.groups == texts.groups[sizes == 2][0])
    run = Recipe(population).run(texts, np.random.default_rng(1))
    np.testing.assert_array_equal(run.probabilities[first], run.probabilities[second])


@pytest.mark.parametrize("gap", [0.01, 0.03])
def test_recipe_is_worse_by_the_gap_asked_for(gap):
    recipe = Recipe(POPULATIONS["not logistic"])
    worse = recipe.worse_by(gap, lambda one: one.best_macro_f1)
    assert recipe.best_macro_f1 - worse.best_macro_f1 == pytest.approx(gap, abs=1e-6)
    assert worse.population is recipe.population


def test_best_thresholds_are_the_best():
    recipe = Recipe(POPULATIONS["30 rare labels"])
    best = recipe.best_thresholds
    for factor in (0.9, 1.1):
        assert (recipe.f1(np.clip(factor * best, 1e-6, 1 - 1e-6)) <= recipe.f1(best) + 1e-6).all()


@pytest.mark.parametrize(("name", "rows", "least"), [("11 labels", 886, 0.0015), ("not logistic", 200, -0.003)])
def test_default_thresholds_gain_on_new_rows_and_lose_little_where_scores_are_not_logistic(name, rows, least):
    recipe = Recipe(POPULATIONS[name])
    gains = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        run = recipe.run(recipe.population.draw(rows, rng), rng)
        gains.append(true_score(recipe, run, TUNED, DEFAULT) - true_score(recipe, run, TUNED, FORMER))
    assert np.mean(gains) > least


def test_a_tuned_figure_is_unbiased_and_its_interval_covers_the_truth():
    figures = own_figures(FEW_LABELS, TUNED, Effort(repetitions=80, rows=300, resamples=500))["tuned"]
    assert figures["bias"].error < 0.5
    assert abs(figures["bias"].value) < 0.2 + 3 * figures["bias"].error
    assert figures["coverage"].value > 95 - 3 * 2.4


def test_intervals_cover_the_truth_of_rare_labels():
    """Three true rows of the rarest: percentile intervals, too low by twice the bias, cover it in 78 % of cases."""
    figures = own_figures(POPULATIONS["30 rare labels"], AT_HALF, Effort(repetitions=100, rows=300, resamples=500))
    assert figures["at 0.5"]["coverage"].value > 87


@pytest.fixture(scope="module")
def tables():
    """False alarms and the best of equal runs, at 0.5 and tuned."""
    effort = Effort(repetitions=25, rows=300, resamples=500)
    return {KINDS[kind]: [table[KINDS[kind]] for table in equal_runs(FEW_LABELS, kind, effort)] for kind in KINDS}


def test_equal_runs_are_seldom_called_worse(tables):
    """Of 125 pairs and 25 boards of ten; for earlier code it was 8 to 13 %, and 70 to 90 % of the boards."""
    for alarms, _ in tables.values():
        for what, boards in (("1 against 1", 125), ("3 against 3 seeds", 50), ("best of 5", 50), ("best of 10", 25)):
            assert alarms[what].value < 5 + 3 * 100 * (0.05 * 0.95 / boards) ** 0.5


def test_the_best_of_equal_runs_looks_too_good(tables):
    for _, best in tables.values():
        assert best["best of 2"].value < best["best of 5"].value < best["best of 10"].value
