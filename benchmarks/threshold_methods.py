"""Which way to choose thresholds is the best on new rows: on made-up populations, and on runs of yours.

    python -m benchmarks.threshold_methods --minutes 3
    python -m benchmarks.threshold_methods --minutes 0 --runs outputs/folds/* --name "MiniLM on SemEval"

Made-up populations (`benchmarks.populations`): thresholds are chosen on some rows of a run, and their true macro-F1, on
infinitely many rows, is known. Each table takes its share of the minutes, of processor time; the error of a figure is
that over the repetitions.

Runs: the rows that the folds of a training held out are divided at random into parts of a size, near-duplicates
together. Thresholds are chosen on one part and scored on all others, each part in turn, for several partitions. The
error of a difference has two parts: the luck of the rows that thresholds are chosen on, from the parts of a partition,
which are different rows; and that of the rows that are scored, from resamples (paired, near-duplicates together).

All figures are points, hundredths of macro-F1, against each label's own threshold with shrinkage 20, the former
default. They are written to benchmarks/results/threshold_methods.json under --name, and printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit

from benchmarks.figures import Figure, Repetition, Table, gather, report, save
from benchmarks.honesty import Effort
from benchmarks.populations import POPULATIONS, Population, Recipe, made_up
from utils.core.arguments import ThresholdArguments
from utils.data.splits import assign_parts
from utils.runs.finished import read_run
from utils.runs.groups import join_folds
from utils.scoring.bootstrap import plain_scores, resample
from utils.scoring.calibration import finite_logit
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule, Thresholds

# Random parts of the rows, and their share, for bagged thresholds.
BAGS, BAG = 30, 0.632
SIZES = (200, 886, 3_000, 10_000)
SIZES_OF_RUNS = (300, 886, 3_000)
FORMER = ThresholdRule("per_label", 20.0)
# Of the rows of runs, for each size.
PARTITIONS, RESAMPLES = 5, 200
MADE_UP = "Thresholds chosen on so many made-up rows: true macro-F1 against the former default, points"
REAL = "Thresholds chosen on so many real rows: macro-F1 on the others against the former default, points"


@dataclass(frozen=True)
class Bagged(ThresholdRule):
    """`calibrated`, each label's own threshold being the mean, in logits, of those on many random parts of the rows."""

    def fit(self, probabilities: np.ndarray, truth: np.ndarray) -> Thresholds:
        """As `ThresholdRule.fit`."""
        parts = np.random.default_rng(0).random((BAGS, len(truth))).argsort(axis=1) < BAG * len(truth)
        each = ThresholdRule("per_label", 0.0).fit_on_subsets(probabilities, truth, parts)
        other = ThresholdRule("calibrated", np.inf).fit(probabilities, truth).values
        own = finite_logit(each).mean(axis=0)
        positives = truth.sum(axis=0)
        weight = np.where(positives > 0, positives / (positives + self.shrinkage), 0)
        return Thresholds(expit(weight * own + (1 - weight) * finite_logit(other)), self)


def rules() -> dict[str, ThresholdRule]:
    """Every strategy of the project with its default shrinkage, the default with bagged thresholds of the labels, and
    thresholds of each label without any shrinkage."""
    strategy = next(field for field in fields(ThresholdArguments) if field.name == "threshold_strategy")
    named = {name: ThresholdRule.asked_for(ThresholdArguments(name)) for name in strategy.metadata["choices"]}
    return named | {"calibrated, bagged": Bagged("calibrated"), "not shrunk": ThresholdRule("per_label", 0.0)}


def populations() -> dict[str, Population]:
    """Those of `benchmarks.populations`, and others with fewer and more labels."""
    return POPULATIONS | {"4 labels": made_up(0.05, 0.40, 4), "100 labels": made_up(0.005, 0.30, 100)}


def of_population(recipe: Recipe, rows: int, effort: Effort) -> dict[str, Figure]:
    """The row of a population and a number of rows."""

    def repetitions() -> Iterator[Repetition]:
        limit = recipe.best_macro_f1
        for rng in effort.random():
            run = recipe.run(recipe.population.draw(rows, rng), rng)
            true = {
                how: recipe.macro_f1(rule.fit(run.probabilities, run.truth).values) for how, rule in rules().items()
            }
            former = true["per_label"]
            yield (
                {("", "former default"): former}
                | {("", how): score - former for how, score in true.items() if how != "per_label"}
                | {("", "at the limit"): limit - former}
            )

    return gather(repetitions())[""]


def of_runs(held: Predictions, rows: int, seed: int) -> dict[str, Figure]:
    """The row of the rows that runs have held out, and of a number of them to choose thresholds on.

    Args:
        held: N rows.
        rows: to choose on, fewer than half of N.
        seed: of the partitions.
    """
    groups, number = held.near_duplicates, len(held) // rows
    # Of each partition: scores of the parts, and of the resamples, minus those of the former default but for itself.
    between: dict[str, list[np.ndarray]] = {how: [] for how in rules()}
    drawn: dict[str, list[np.ndarray]] = {how: [] for how in rules()}
    for partition in range(PARTITIONS):
        parts = assign_parts(held.truth, groups, np.full(number, 1 / number), seed + partition)
        scores: dict[str, list[float]] = {how: [] for how in rules()}
        for part in range(number):
            chosen_on = parts == part
            # Rows that count nowhere: neither true nor given.
            truth = held.truth * ~chosen_on[:, None]
            resampled = {}
            for how, rule in rules().items():
                thresholds = rule.fit(held.probabilities[chosen_on], held.truth[chosen_on])
                decided = thresholds.apply(held.probabilities) * ~chosen_on[:, None]
                scores[how].append(plain_scores(truth, decided)["f1_macro"])
                resampled[how] = resample(truth, decided, RESAMPLES, seed, groups)["f1_macro"]
            for how in rules():
                drawn[how].append(resampled[how] - (how != "per_label") * resampled["per_label"])
        for how in rules():
            between[how].append(np.array(scores[how]) - (how != "per_label") * np.array(scores["per_label"]))
    figures = {}
    for how, gains in between.items():
        of_choice = np.var(gains, axis=1, ddof=1).mean() / number
        of_scoring = np.mean(drawn[how], axis=0).var(ddof=1)
        error = float(100 * np.sqrt(of_choice + of_scoring))
        name = "former default" if how == "per_label" else how
        figures[name] = Figure(float(100 * np.mean(gains)), error, PARTITIONS)
    return {"former default": figures.pop("former default")} | figures


def main():
    """Measure, write the figures and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="for made-up populations; 0 leaves them out")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="made-up rows that thresholds are chosen on"
    )
    parser.add_argument("--runs", nargs="+", default=[], help="folders of finished runs: the folds of a training")
    parser.add_argument(
        "--sizes_of_runs", type=int, nargs="+", default=SIZES_OF_RUNS, help="the same of the runs' rows"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="now", help="of the figures in the results file")
    parser.add_argument("--results", default="benchmarks/results/threshold_methods.json")
    args = parser.parse_args()

    began = time.process_time()
    tables: dict[str, Table] = {}
    if args.minutes:
        places = [(name, rows) for name in populations() for rows in args.sizes]
        effort = Effort(60 * args.minutes / len(places), seed=args.seed)
        tables[MADE_UP] = {
            f"{name}, {rows:,} rows": of_population(Recipe(populations()[name]), rows, effort) for name, rows in places
        }
    if args.runs:
        held = join_folds([read_run(folder) for folder in args.runs])
        if 2 * max(args.sizes_of_runs) > len(held):
            parser.error(f"the runs held out {len(held):,} rows: --sizes_of_runs must be at most half of that")
        tables[REAL] = {
            f"{rows:,} of {len(held):,} rows": of_runs(held, rows, args.seed) for rows in args.sizes_of_runs
        }
    save(args.results, args.name, "threshold_methods", tables, args.runs, seconds=time.process_time() - began)
    print(report({args.name: tables}))


if __name__ == "__main__":
    main()
