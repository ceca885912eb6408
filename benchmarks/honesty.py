"""Whether the project's figures hold: bias, coverage, false alarms and power on made-up data whose truth is known.

    python -m benchmarks.honesty --minutes 10 --name before
    python -m benchmarks.honesty --minutes 10 --name now

The populations are those of `benchmarks.populations`. Thresholds, cross-fitting, intervals and comparisons are the
project's own functions, called as the scripts call them. Each table takes its share of the minutes (of processor time,
so that other load on the machine costs no precision) and then stops; it says how often it was repeated, and each figure
has its Monte Carlo standard error, from repetitions that each have new rows and new runs. All figures are in percent or
in points, which are hundredths of macro-F1. They are added to benchmarks/results/honesty.json under --name, and printed
below those that stand there under other names.

One thread is enough: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path

import numpy as np
from scipy.special import xlogy

from benchmarks.populations import POPULATIONS, Population, Recipe
from utils.core.arguments import ThresholdArguments
from utils.core.files import read_json, write_json
from utils.core.tables import format_table
from utils.runs.comparison import Board, Entry, Scored, make_boards
from utils.scoring.bootstrap import plain_scores
from utils.scoring.predictions import Predictions
from utils.scoring.scores import AT_HALF, SCORES, TUNED
from utils.scoring.thresholds import ThresholdRule

ROWS = 886
SIZES = (200, 886, 3_000, 10_000)
RUNS = 10
# Draws of other rows in each repetition, for the mean of the control variate.
MORE = 20
CHECKPOINTS = 5
GAPS = (0.01, 0.02, 0.03)
DEFAULT = ThresholdRule.asked_for(ThresholdArguments())
FORMER = ThresholdRule("per_label", 20.0)
KINDS = {AT_HALF: "at 0.5", TUNED: "tuned"}
MEAN_AVERAGE_PRECISION = next(score.compute for score in SCORES if score.name == "map")
# A table: a row's name, a column's name, and a figure.
Table = dict[str, dict[str, "Figure"]]
Repetition = dict[tuple[str, str], float]


@dataclass
class Figure:
    """A mean over repetitions.

    Args:
        value: the mean, in percent or points.
        error: its Monte Carlo standard error.
        repetitions: how many there were.
    """

    value: float
    error: float
    repetitions: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.error:.2f}"


@dataclass(frozen=True)
class Effort:
    """How long a measurement is repeated.

    Args:
        seconds: of processor time; no repetition begins after these, except the first two.
        repetitions: at most.
        rows: of each run's validation data.
        resamples: of the bootstrap in each comparison.
        seed: of the first repetition; the others follow from it.
    """

    seconds: float = float("inf")
    repetitions: int = 10**9
    rows: int = ROWS
    resamples: int = 1000
    seed: int = 0

    def random(self) -> Iterator[np.random.Generator]:
        """A generator for each repetition, the same whatever time there is."""
        begin = time.process_time()
        for number in range(self.repetitions):
            if number > 1 and time.process_time() - begin > self.seconds:
                return
            yield np.random.default_rng([self.seed, number])


def gather(repetitions: Iterator[Repetition], squares: tuple[str, ...] = ()) -> Table:
    """Means and their errors, times 100.

    Args:
        repetitions: figures of each, by the names of row and column; a figure that is NaN is left out.
        squares: columns that hold squared figures: the root of their mean is taken.
    """
    values = {}
    for repetition in repetitions:
        for place, value in repetition.items():
            values.setdefault(place, []).append(value)
    table = {}
    for (row, column), numbers in values.items():
        numbers = np.array(numbers, dtype=float)
        numbers = numbers[~np.isnan(numbers)]
        mean, error = numbers.mean(), numbers.std(ddof=1) / np.sqrt(len(numbers))
        if column in squares:
            mean, error = np.sqrt(mean), error / (2 * np.sqrt(mean)) if mean > 0 else 0.0
        table.setdefault(row, {})[column] = Figure(float(100 * mean), float(100 * error), len(numbers))
    return table


def score(run: Predictions, kind: str, rule: ThresholdRule = DEFAULT) -> Scored:
    """A run as `compare_runs.py` compares it, by one kind of its decisions.

    What is scored by probabilities is left out, as it takes most of the time and no verdict looks at it.
    """
    rule = rule if kind == TUNED else ThresholdRule("fixed", 0.0)
    return Scored(replace(run, probabilities=None), {kind: run.decide(rule)[kind]})


def compare(groups: list[list[Scored]], effort: Effort) -> Board:
    """The board of groups of seeds, as `compare_runs.py` makes it; an entry's name is the number of its group."""
    entries = [
        Entry(str(number), "model", "approach", f"{len(seeds)} seeds", list(seeds), next(iter(seeds[0].decisions)))
        for number, seeds in enumerate(groups)
    ]
    return make_boards(entries, effort.resamples, effort.seed)[0]


def any_worse(board: Board) -> bool:
    """Whether any entry is called worse than the best."""
    return any(entry.verdict == "worse" for entry in board.entries)


def true_score(recipe: Recipe, run: Predictions, kind: str, rule: ThresholdRule = DEFAULT) -> float:
    """The true macro-F1 of a run: at 0.5, or at thresholds fitted on all the rows it is scored on."""
    return recipe.macro_f1(0.5 if kind == AT_HALF else rule.fit(run.probabilities, run.truth).values)


def equal_runs(population: Population, kind: str, effort: Effort) -> tuple[Table, Table, Table]:
    """Equal runs of one recipe: how good their figures are, how often one is called worse, how good the best looks.

    Ten runs are drawn for the same rows and serve all of it: five pairs, two pairs of three seeds each, two times five.
    The score of the same rows at thresholds that nobody chose is a control variate of the bias, which takes most of the
    luck of the rows out of it; what such a score is on average comes from more rows, drawn for that alone.

    Returns:
        three tables, each with one row: of figures, false alarms and the best run.
    """
    recipe, name = Recipe(population), KINDS[kind]
    unchosen = recipe.best_thresholds if kind == TUNED else np.full(len(population.prevalences), 0.5)
    own, alarms, best = [], [], []
    for rng in effort.random():
        texts = population.draw(effort.rows, rng)
        runs = [recipe.run(texts, rng) for _ in range(RUNS)]
        more = [recipe.run(population.draw(effort.rows, rng), rng) for _ in range(MORE)]
        scored = [score(run, kind) for run in runs]
        pairs = [compare([[a], [b]], effort) for a, b in zip(scored[::2], scored[1::2])]
        triples = [compare([scored[a : a + 3], scored[3:6]], effort) for a in (0, 6)]
        fives = [compare([[run] for run in scored[start : start + 5]], effort) for start in (0, 5)]
        tens = compare([[run] for run in scored], effort)
        boards = {"1 against 1": pairs, "3 against 3 seeds": triples, "best of 5": fives, "best of 10": [tens]}
        alarms.append({(name, what): np.mean([any_worse(board) for board in some]) for what, some in boards.items()})

        estimates = [entry.headline_score for entry in sorted(tens.entries, key=lambda entry: int(entry.name))]
        values = np.array([estimate.value for estimate in estimates])
        true = np.array([true_score(recipe, run, kind) for run in runs])
        of_rows, of_more = ([_score_at(unchosen, run) for run in some] for some in (runs, more))
        own.append({
            (name, "true"): true.mean(),
            (name, "bias"): (values - true).mean() - np.mean(of_rows) + np.mean(of_more),
            (name, "RMSE"): np.square(values - true).mean(),
            (name, "coverage"): np.mean([one.low <= truth <= one.high for one, truth in zip(estimates, true)]),
        })  # fmt: skip
        best.append({(name, f"best of {count}"): _best(values, true, count) for count in (2, 5, 10)})
    return gather(iter(own), squares=("RMSE",)), gather(iter(alarms)), gather(iter(best))


def _score_at(thresholds: np.ndarray, run: Predictions) -> float:
    """Macro-F1 of a run at given thresholds `[L]`."""
    return plain_scores(run.truth, run.probabilities >= thresholds)["f1_macro"]


def _best(values: np.ndarray, true: np.ndarray, count: int) -> float:
    """How far the figure of the best of `count` runs lies above its true score, mean over groups of the runs."""
    groups = np.arange(len(values) // count * count).reshape(-1, count)
    chosen = groups[np.arange(len(groups)), values[groups].argmax(axis=1)]
    return (values - true)[chosen].mean()


def power(population: Population, effort: Effort) -> Table:
    """How often a recipe that is truly worse by a gap is called worse, and how often the better one is."""
    recipe = Recipe(population)
    scores = {AT_HALF: lambda one: one.macro_f1(0.5), TUNED: lambda one: one.best_macro_f1}
    worse = {(kind, gap): recipe.worse_by(gap, scores[kind]) for kind in KINDS for gap in GAPS}

    def repetitions() -> Iterator[Repetition]:
        for rng in effort.random():
            texts = population.draw(effort.rows, rng)
            figures = {}
            better = [recipe.run(texts, rng) for _ in range(3)]
            for kind, name in KINDS.items():
                first = [score(run, kind) for run in better]
                for gap in GAPS:
                    second = [score(worse[kind, gap].run(texts, rng), kind) for _ in range(3)]
                    for seeds in (1, 3):
                        boards = [
                            compare([first[i : i + seeds], second[i : i + seeds]], effort) for i in range(0, 3, seeds)
                        ]
                        called = [entry.name for board in boards for entry in board.entries if entry.verdict == "worse"]
                        row = f"{name}, {seeds} against {seeds}"
                        figures[row, f"gap {100 * gap:.0f}"] = called.count("1") / len(boards)
                        figures[row, f"gap {100 * gap:.0f}, wrong way"] = called.count("0") / len(boards)
            yield figures

    return gather(repetitions())


def checkpoints(population: Population, effort: Effort) -> Table:
    """What choosing one of five checkpoints does to its tuned figure, by what it is chosen by.

    Half of the variance of a checkpoint's noise is that of its training. Columns: how far the chosen one's figure lies
    above the mean of all and above its true score, where all are equally good; and how far its true score lies below
    the best one's, where they are 0 to 2 points apart.
    """
    recipe = Recipe(population)
    apart = [recipe.worse_by(gap, lambda one: one.best_macro_f1) for gap in np.linspace(0.0, 0.02, CHECKPOINTS)]

    def repetitions() -> Iterator[Repetition]:
        for rng in effort.random():
            texts = population.draw(effort.rows, rng)
            figures = {}
            for recipes in ([recipe] * CHECKPOINTS, apart):
                training = recipe.noise_of_run(texts, rng)
                noises = [np.sqrt(0.5) * (training + recipe.noise_of_run(texts, rng)) for _ in recipes]
                runs = [one.run(texts, rng, noise) for one, noise in zip(recipes, noises)]
                values = np.array([plain_tuned(run) for run in runs])
                true = np.array([true_score(one, run, TUNED) for one, run in zip(recipes, runs)])
                for how, criterion in CRITERIA.items():
                    by = values if criterion is None else np.array([criterion(run) for run in runs])
                    chosen = by.argmax()
                    if recipes is apart:
                        figures[how, "true score lost"] = true.max() - true[chosen]
                    else:
                        figures[how, "above the mean of 5"] = values[chosen] - values.mean()
                        figures[how, "above its truth"] = values[chosen] - true[chosen]
            yield figures

    return gather(repetitions())


def plain_tuned(run: Predictions) -> float:
    """The tuned macro-F1 of a run, cross-fitted."""
    return plain_scores(run.truth, run.decide(DEFAULT)[TUNED])["f1_macro"]


def _negative_loss(run: Predictions) -> float:
    right = np.where(run.truth == 1, run.probabilities, 1 - run.probabilities)
    return float(xlogy(1.0, np.maximum(right, 1e-12)).mean())


# What a checkpoint may be chosen by, the higher the better; None for the tuned figure itself.
CRITERIA = {
    "tuned macro-F1": None,
    "macro-F1 at 0.5": lambda run: plain_scores(run.truth, run.probabilities >= 0.5)["f1_macro"],
    "mAP": lambda run: MEAN_AVERAGE_PRECISION(run.truth, run.probabilities),
    "validation loss": _negative_loss,
}


def threshold_rules() -> dict[str, ThresholdRule]:
    """Every strategy of the project with its default shrinkage, and thresholds of each label without any."""
    strategy = next(field for field in fields(ThresholdArguments) if field.name == "threshold_strategy")
    rules = {name: ThresholdRule.asked_for(ThresholdArguments(name)) for name in strategy.metadata["choices"]}
    return rules | {"not shrunk": ThresholdRule("per_label", 0.0)}


def thresholds(populations: dict[str, Population], sizes: list[int], effort: Effort) -> Table:
    """True macro-F1 on new rows of each way to choose thresholds, minus that of `FORMER`, by population and rows."""
    rules = threshold_rules()
    recipes = {name: Recipe(population) for name, population in populations.items()}
    limits = {name: recipe.best_macro_f1 for name, recipe in recipes.items()}

    def repetitions() -> Iterator[Repetition]:
        for rng in effort.random():
            figures = {}
            for name, recipe in recipes.items():
                for rows in sizes:
                    run = recipe.run(recipe.population.draw(rows, rng), rng)
                    row = f"{name}, {rows:,} rows"
                    former = true_score(recipe, run, TUNED, FORMER)
                    figures[row, "former default"] = former
                    for how, rule in rules.items():
                        figures[row, how] = true_score(recipe, run, TUNED, rule) - former
                    figures[row, "at the limit"] = limits[name] - former
            yield figures

    return gather(repetitions())


def measure(minutes: float, effort: Effort, populations: dict[str, Population], sizes: list[int]) -> dict[str, Table]:
    """All tables, by their titles.

    Args:
        minutes: in all.
        effort: of each measurement, apart from its seconds.
        populations: by their names; most of the time goes to the first.
        sizes: numbers of rows to choose thresholds on.
    """

    def share(of_all: float) -> Effort:
        return replace(effort, seconds=60 * minutes * of_all)

    main, *others = populations.values()
    tables = {OWN: {}, ALARMS: {}, BEST: {}}
    for name, population in populations.items():
        part = EQUAL * (0.75 if others else 1.0) if population is main else EQUAL * 0.25 / len(others)
        # Nothing is fitted at 0.5, so that a fifth of the time is as many repetitions.
        for kind, of_part in ((AT_HALF, 0.2), (TUNED, 0.8)):
            for title, table in zip(tables, equal_runs(population, kind, share(part * of_part))):
                tables[title] |= {f"{name}, {row}": figures for row, figures in table.items()}
    tables[CHOSEN] = checkpoints(main, share(0.08))
    tables[POWER] = power(main, share(0.12))
    tables[METHODS] = thresholds(populations, sizes, share(0.1))
    return tables


# The share of the time for equal runs, and the titles of the tables.
EQUAL = 0.7
OWN = "A run's own figure, its true score and its interval, %"
ALARMS = "Equal recipes: how often any is called worse, %"
BEST = "Equal runs: how far the best one's figure lies above its true score, points"
CHOSEN = f"The checkpoint with the best of a score among {CHECKPOINTS}, tuned macro-F1, points"
POWER = "How often a recipe that is worse by 1, 2, 3 points is called worse, %"
METHODS = "Thresholds: true macro-F1 on new rows against the former default (each label's own, shrinkage 20), points"


def report(results: dict[str, dict[str, Table]]) -> str:
    """The tables of all names, one below the other where they have the same rows."""
    parts = []
    for title in next(reversed(results.values())):
        named = {name: tables[title] for name, tables in results.items() if title in tables}
        columns = list(dict.fromkeys(c for table in named.values() for cells in table.values() for c in cells))
        rows = [
            [row, name, next(iter(table[row].values())).repetitions, *(table[row].get(c, "-") for c in columns)]
            for row in next(reversed(named.values()))
            for name, table in named.items()
            if row in table
        ]
        parts.append(f"{title}\n\n{format_table(['', 'code', 'repeated', *columns], rows)}")
    return "\n\n\n".join(parts)


def commit() -> str:
    """The commit that last changed what is measured, and whether it has been changed since."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words, "--", "utils"], capture_output=True, text=True).stdout.strip()

    return (git("log", "-1", "--format=%H") or "unknown") + (", changed since" if git("status", "--porcelain") else "")


def stored(path: str) -> dict[str, dict]:
    """What the results file holds, by name; empty where there is none."""
    return read_json(path)["results"] if Path(path).is_file() else {}


def as_tables(content: dict[str, dict[str, dict[str, dict]]]) -> dict[str, Table]:
    """Tables as the results file has them."""
    return {
        title: {row: {c: Figure(**cell) for c, cell in cells.items()} for row, cells in table.items()}
        for title, table in content.items()
    }


def main():
    """Measure, print the tables beside those of earlier code, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repetitions", type=int, default=10**9, help="at most, of each table")
    parser.add_argument("--populations", nargs="+", choices=list(POPULATIONS), default=list(POPULATIONS))
    parser.add_argument("--rows", type=int, default=ROWS, help="of each run's validation data")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows that thresholds are chosen on")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap in each comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="now", help="of the figures in the results file")
    parser.add_argument("--results", default="benchmarks/results/honesty.json")
    args = parser.parse_args()

    began = time.process_time()
    effort = Effort(repetitions=args.repetitions, rows=args.rows, resamples=args.resamples, seed=args.seed)
    tables = measure(args.minutes, effort, {name: POPULATIONS[name] for name in args.populations}, args.sizes)
    results = stored(args.results)
    results.pop(args.name, None)
    results[args.name] = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "hardware": f"{platform.machine()}, 1 thread",
        "seconds": time.process_time() - began,
        "rows": args.rows,
        "resamples": args.resamples,
        "seed": args.seed,
        "tables": {
            title: {row: {c: vars(cell) for c, cell in cells.items()} for row, cells in table.items()}
            for title, table in tables.items()
        },
    }
    write_json(args.results, {"results": results})
    print(report({name: as_tables(content["tables"]) for name, content in results.items()}))


if __name__ == "__main__":
    main()
