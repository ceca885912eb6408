"""Whether the project's figures hold: bias, coverage, false alarms and power on made-up data whose truth is known.

    python -m benchmarks.honesty --minutes 10 --name before
    python -m benchmarks.honesty --minutes 10 --name now

The populations are those of `benchmarks.populations`. Thresholds, cross-fitting, intervals and comparisons are the
project's own functions, called as the scripts call them. Each table takes its share of the minutes (of processor time,
so that other load on the machine costs no precision) and then stops; it says how often it was repeated, from new rows
and new runs each time. Behind ± stands the Monte Carlo standard error of a figure; shares have a 95 % interval in
brackets (Jeffreys'), which is right at 0 % too. All figures are in percent or in points, which are hundredths of
macro-F1. They are added to benchmarks/results/honesty.json under --name, and printed
below those that stand there under other names.

One thread is enough: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.special import ndtri, xlogy

from benchmarks.figures import Repetition, Share, Table, gather, report, save
from benchmarks.populations import POPULATIONS, Population, Recipe
from utils.core.arguments import ThresholdArguments
from utils.runs.comparison import Board, Entry, Scored, make_boards
from utils.scoring.bootstrap import LEVEL, plain_scores
from utils.scoring.differences import Comparison, Contender, Spread, widened
from utils.scoring.predictions import Predictions
from utils.scoring.scores import AT_HALF, SCORES, TUNED
from utils.scoring.thresholds import ThresholdRule

ROWS = 886
RUNS = 10
# Draws of other rows in each repetition, for the mean of the control variate.
MORE = 20
CHECKPOINTS = 5
GAPS = (0.01, 0.02, 0.03)
# Of the luck of the rows, where scores are made up as numbers.
ROWS_SD = 0.003
DEFAULT = ThresholdRule.asked_for(ThresholdArguments())
KINDS = {AT_HALF: "at 0.5", TUNED: "tuned"}
MEAN_AVERAGE_PRECISION = next(score.compute for score in SCORES if score.name == "map")


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


def score(run: Predictions, kind: str, rule: ThresholdRule = DEFAULT) -> Scored:
    """A run as `compare_runs.py` compares it, by one kind of its decisions.

    What is scored by probabilities is left out, as it takes most of the time and no verdict looks at it.
    """
    rule = rule if kind == TUNED else ThresholdRule("fixed", 0.0)
    return Scored(replace(run, probabilities=None), {kind: run.decide(rule)[kind]})


def compare(groups: list[list[Scored]], effort: Effort) -> Board:
    """The board of groups of seeds, as `compare_runs.py` makes it; an entry's name is the number of its group."""
    kind = next(iter(groups[0][0].decisions))
    chosen_by = DEFAULT if kind == TUNED else None
    entries = [
        Entry(str(number), "model", "approach", f"{len(seeds)} seeds", list(seeds), kind, chosen_by)
        for number, seeds in enumerate(groups)
    ]
    return make_boards(entries, effort.resamples, effort.seed)[0]


def any_worse(board: Board) -> bool:
    """Whether any entry is called worse than the best."""
    return any(entry.verdict == "worse" for entry in board.entries)


def true_score(recipe: Recipe, run: Predictions, kind: str, rule: ThresholdRule = DEFAULT) -> float:
    """The true macro-F1 of a run: at 0.5, or at thresholds fitted on all the rows it is scored on."""
    return recipe.macro_f1(0.5 if kind == AT_HALF else rule.fit(run.probabilities, run.truth).values)


def own_figures(population: Population, kind: str, effort: Effort) -> Table:
    """A run's own figure and its interval against its true score: a table with one row.

    Each repetition is one run, as a second one of the same rows would say little new. The score of the same rows at
    thresholds that nobody chose is a control variate of the bias, which takes most of the luck of the rows out of it;
    what such a score is on average comes from more rows, drawn for that alone.
    """
    recipe, name = Recipe(population), KINDS[kind]
    unchosen = recipe.best_thresholds if kind == TUNED else np.full(len(population.prevalences), 0.5)

    def repetitions() -> Iterator[Repetition]:
        for rng in effort.random():
            run = recipe.run(population.draw(effort.rows, rng), rng)
            more = [recipe.run(population.draw(effort.rows, rng), rng) for _ in range(MORE)]
            figure = compare([[score(run, kind)]], effort).main_scores[0]
            true = true_score(recipe, run, kind)
            expected = np.mean([score_at(unchosen, other) for other in more])
            yield {
                (name, "true"): true,
                (name, "bias"): figure.value - true - score_at(unchosen, run) + expected,
                (name, "RMSE"): (figure.value - true) ** 2,
                (name, "coverage"): Share(figure.low <= true <= figure.high, 1),
            }

    return gather(repetitions(), squares=("RMSE",))


def equal_runs(population: Population, kind: str, effort: Effort) -> tuple[Table, Table]:
    """Equal runs of one recipe: how often one is called worse, and how good the best looks.

    Ten runs are drawn for the same rows and serve all of it: five pairs, two pairs of three seeds each, two times five.

    Returns:
        two tables, each with one row: of false alarms and of the best run.
    """
    recipe, name = Recipe(population), KINDS[kind]
    alarms, best = [], []
    for rng in effort.random():
        texts = population.draw(effort.rows, rng)
        runs = [recipe.run(texts, rng) for _ in range(RUNS)]
        scored = [score(run, kind) for run in runs]
        pairs = [compare([[a], [b]], effort) for a, b in zip(scored[::2], scored[1::2])]
        triples = [compare([scored[a : a + 3], scored[3:6]], effort) for a in (0, 6)]
        fives = [compare([[run] for run in scored[start : start + 5]], effort) for start in (0, 5)]
        tens = compare([[run] for run in scored], effort)
        boards = {"1 against 1": pairs, "3 against 3 seeds": triples, "best of 5": fives, "best of 10": [tens]}
        alarms.append({(name, what): Share(sum(map(any_worse, some)), len(some)) for what, some in boards.items()})

        ranked = {entry.name: estimate for entry, estimate in zip(tens.entries, tens.main_scores)}
        estimates = [ranked[name] for name in sorted(ranked, key=int)]
        values = np.array([estimate.value for estimate in estimates])
        true = np.array([true_score(recipe, run, kind) for run in runs])
        best.append({(name, f"best of {count}"): _best(values, true, count) for count in (2, 5, 10)})
    return gather(iter(alarms)), gather(iter(best))


def score_at(thresholds: np.ndarray, run: Predictions) -> float:
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
                        figures[row, f"gap {100 * gap:.0f}"] = Share(called.count("1"), len(boards))
                        figures[row, f"gap {100 * gap:.0f}, wrong way"] = Share(called.count("0"), len(boards))
            yield figures

    return gather(repetitions())


def of_seeds(rng: np.random.Generator, seeds: int, rows_sd: float, seed_sd: float) -> Contender:
    """The mean of seeds of a system whose true score is 0.5, as numbers alone.

    Args:
        rng: of the luck.
        seeds: how many.
        rows_sd: standard deviation of the luck of the rows, which is the same for all seeds.
        seed_sd: standard deviation over the seeds.
    """
    values = 0.5 + rng.normal(scale=rows_sd) + rng.normal(scale=seed_sd, size=seeds)
    drawn = np.tile(rng.normal(scale=rows_sd, size=1000), (seeds, 1))
    return Contender(float(values.mean()), drawn, Spread(float(values.std(ddof=1)), seeds - 1), factor=1.0)


def few_seeds(effort: Effort) -> Table:
    """What a spread that is estimated from two or three seeds does to verdicts and intervals.

    The luck of the seeds is so many times that of the rows, in a mean of them, for one of two equal systems or both.
    """
    normal = float(ndtri((1 + LEVEL) / 2))

    def repetitions() -> Iterator[Repetition]:
        for rng in effort.random():
            figures = {}
            for seeds, times, wider in product((2, 3), (0.2, 1.0, 2.0, 5.0), (1, 4)):
                spread = times * ROWS_SD * np.sqrt(seeds)
                two = [of_seeds(rng, seeds, ROWS_SD, spread), of_seeds(rng, seeds, ROWS_SD, spread / wider)]
                comparison = Comparison(two)
                difference = comparison.difference(0, 1)
                row = f"{seeds} seeds, luck {times:g} times" + ("" if wider == 1 else ", of the other a fourth")
                figures[row, "called different"] = Share(difference.is_distinguishable, 1)
                beyond = abs(difference.value) > comparison.quantile * difference.standard_error
                figures[row, "by normal quantiles"] = Share(beyond, 1)
                if wider == 1:
                    half = widened(normal * ROWS_SD, two[0].spread, seeds)
                    figures[row, "interval covers"] = Share(abs(two[0].value - 0.5) <= half, 1)
                    half = normal * np.hypot(ROWS_SD, two[0].spread.sd / np.sqrt(seeds))
                    figures[row, "normal one"] = Share(abs(two[0].value - 0.5) <= half, 1)
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


def measure(minutes: float, effort: Effort, populations: dict[str, Population]) -> dict[str, Table]:
    """All tables, by their titles.

    Args:
        minutes: in all.
        effort: of each measurement, apart from its seconds.
        populations: by their names; the first gets as much time as two others.
    """

    def share(of_all: float) -> Effort:
        return replace(effort, seconds=60 * minutes * of_all)

    main = next(iter(populations.values()))
    tables = {OWN: {}, ALARMS: {}, BEST: {}}
    for name, population in populations.items():
        part = (2 if population is main else 1) / (1 + len(populations))
        # Nothing is fitted at 0.5, so that less time is as many repetitions.
        for kind, of_own, of_equal in ((AT_HALF, 0.06, 0.08), (TUNED, 0.24, 0.42)):
            tables[OWN] |= {
                f"{name}, {row}": cells for row, cells in own_figures(population, kind, share(part * of_own)).items()
            }
            for title, table in zip((ALARMS, BEST), equal_runs(population, kind, share(part * of_equal))):
                tables[title] |= {f"{name}, {row}": cells for row, cells in table.items()}
    tables[CHOSEN] = checkpoints(main, share(0.06))
    tables[POWER] = power(main, share(0.12))
    tables[FEW] = few_seeds(share(0.02))
    return tables


# Titles of the tables.
OWN = "A run's own figure, its true score and its interval, %"
ALARMS = "Equal recipes: how often any is called worse, %"
BEST = "Equal runs: how far the best one's figure lies above its true score, points"
CHOSEN = f"The checkpoint with the best of a score among {CHECKPOINTS}, tuned macro-F1, points"
POWER = "How often a recipe that is worse by 1, 2, 3 points is called worse, %"
FEW = "Two equal systems of a few seeds, whose luck is so many times that of the rows, %"


def main():
    """Measure, print the tables beside those of earlier code, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repetitions", type=int, default=10**9, help="at most, of each table")
    parser.add_argument("--populations", nargs="+", choices=list(POPULATIONS), default=list(POPULATIONS))
    parser.add_argument("--rows", type=int, default=ROWS, help="of each run's validation data")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap in each comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="now", help="of the figures in the results file")
    parser.add_argument("--results", default="benchmarks/results/honesty.json")
    args = parser.parse_args()

    began = time.process_time()
    effort = Effort(repetitions=args.repetitions, rows=args.rows, resamples=args.resamples, seed=args.seed)
    tables = measure(args.minutes, effort, {name: POPULATIONS[name] for name in args.populations})
    results = save(
        args.results,
        args.name,
        "honesty",
        tables,
        hardware=f"{platform.machine()}, 1 thread",
        seconds=time.process_time() - began,
        rows=args.rows,
        resamples=args.resamples,
        seed=args.seed,
    )
    print(report(results))


if __name__ == "__main__":
    main()
