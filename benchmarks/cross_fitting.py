"""Whether the parts that cross-fitting holds out should be stratified: the tuned score by the parts, truth known.

    python -m benchmarks.cross_fitting --repetitions 60

The populations and the default thresholds are those of `benchmarks.honesty`. Each repetition is one made-up run, whose
tuned macro-F1 is cross-fitted over five partitions with stratified parts, over five with random ones, and over all ten,
as the project does. Columns: how far each lies above the run's true score on infinitely many rows, in points, with the
control variate of `benchmarks.honesty`; a difference, in which the luck of the rows is not; the luck of the partition,
the standard deviation of the score of one and the one that is left in the mean of ten; and how far a score on the rows
that the thresholds were chosen on, which the project shows nowhere, lies above the truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from benchmarks.figures import Repetition, Table, gather, report, save
from benchmarks.honesty import DEFAULT, MORE, ROWS, Effort, score_at, true_score
from benchmarks.populations import POPULATIONS, Population, Recipe
from utils.data.splits import assign_parts
from utils.scoring.bootstrap import plain_scores
from utils.scoring.predictions import Predictions
from utils.scoring.scores import TUNED
from utils.scoring.thresholds import CROSS_FITTING_FOLDS, ThresholdRule, decide_by_parts, random_parts

# Of each kind.
PARTITIONS = 5
ON_SAME_ROWS = {"on the same rows": DEFAULT, "the same, not shrunk": ThresholdRule("per_label", 0.0)}
ONE, TEN = "sd of one partition", "sd left in the mean of ten"
TITLE = "Tuned macro-F1 less the truth, by the parts of cross-fitting, points"


def tuned_scores(run: Predictions, parts: list[np.ndarray]) -> np.ndarray:
    """Macro-F1 of predictions cross-fitted over each of P partitions into parts `[N]`: `[P]`."""
    decided = decide_by_parts(DEFAULT, run.probabilities, run.truth, np.stack(parts))
    return np.array([plain_scores(run.truth, one)["f1_macro"] for one in decided])


def of_population(name: str, population: Population, effort: Effort) -> Table:
    """The row of a population."""
    recipe = Recipe(population)
    unchosen, shares = recipe.best_thresholds, np.full(CROSS_FITTING_FOLDS, 1 / CROSS_FITTING_FOLDS)

    def repetitions() -> Iterator[Repetition]:
        for rng in effort.random():
            run = recipe.run(population.draw(effort.rows, rng), rng)
            more = [recipe.run(population.draw(effort.rows, rng), rng) for _ in range(MORE)]
            groups, luck = run.near_duplicates, score_at(unchosen, run) - np.mean([score_at(unchosen, o) for o in more])
            both = [
                tuned_scores(run, [random_parts(groups, seed) for seed in range(PARTITIONS)]),
                tuned_scores(run, [assign_parts(run.truth, groups, shares, seed) for seed in range(PARTITIONS)]),
            ]
            random, stratified = (scores.mean() for scores in both)
            variance = np.mean([scores.var(ddof=1) for scores in both])
            true = true_score(recipe, run, TUNED)
            on_same = {
                (name, what): score_at(rule.fit(run.probabilities, run.truth).values, run)
                - true_score(recipe, run, TUNED, rule)
                - luck
                for what, rule in ON_SAME_ROWS.items()
            }
            yield {
                (name, "stratified"): stratified - true - luck,
                (name, "random"): random - true - luck,
                (name, "half of each"): (stratified + random) / 2 - true - luck,
                (name, "random less stratified"): random - stratified,
                (name, ONE): variance,
                (name, TEN): variance / (2 * PARTITIONS),
            } | on_same

    return gather(repetitions(), squares=(ONE, TEN))


def main():
    """Measure, write the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--populations", nargs="+", choices=list(POPULATIONS), default=list(POPULATIONS))
    parser.add_argument("--name", default="now", help="of the figures in the results file")
    parser.add_argument("--results", default="benchmarks/results/cross_fitting.json")
    args = parser.parse_args()
    effort = Effort(repetitions=args.repetitions, rows=args.rows)
    table: Table = {}
    for name in args.populations:
        table |= of_population(name, POPULATIONS[name], effort)
    save(args.results, args.name, "cross_fitting", {TITLE: table})
    print(report({args.name: {TITLE: table}}))


if __name__ == "__main__":
    main()
