"""Whether fitted weights of an ensemble beat equal ones on new rows, and when to take them.

    python -m benchmarks.ensemble_weights --minutes 6

Three made-up runs (`benchmarks.populations`) are averaged with equal weights and with those that
`make_submission.py --weights fit` finds on 886 rows; both are scored on 20,000 new rows, with thresholds from the 886.
On these the two are compared as the script does it, each row predicted without it. Columns: what fitted weights score
more on new rows, in points of macro-F1, if they are taken always, and if they are taken where they gain more than so
many standard errors; and how often that is, in percent. The third run is as good as the others or truly worse.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.figures import Repetition, Share, gather, report, save
from benchmarks.honesty import DEFAULT, ROWS, Effort
from benchmarks.populations import POPULATIONS, Recipe
from utils.runs.ensembles import PARTITIONS, Ensemble, gain, weigh, weigh_by_fit
from utils.scoring.bootstrap import plain_scores

NEW_ROWS = 20_000
GAPS = (0.0, 0.03, 0.10)
ERRORS = (0.0, 1.0, 2.0)
TITLE = "Fitted minus equal weights of 3 runs on new rows, points"


def repetitions(gaps: list[float], effort: Effort) -> Iterator[Repetition]:
    """The figures of one draw of rows and runs after another.

    Args:
        gaps: by how much the third run is worse.
        effort: how long.
    """
    recipe = Recipe(POPULATIONS["11 labels"])
    for rng in effort.random():
        figures = {}
        texts, new = (recipe.population.draw(rows, rng) for rows in (effort.rows, NEW_ROWS))
        for gap in gaps:
            recipes = [recipe, recipe, recipe.worse_by(gap, lambda one: one.best_macro_f1)]
            seen, unseen = (np.stack([one.run(rows, rng).probabilities for one in recipes]) for rows in (texts, new))
            ensemble = Ensemble([], [str(row) for row in range(effort.rows)], texts.groups, texts.truth, seen)
            fitted, equal = weigh_by_fit(ensemble, DEFAULT), weigh(ensemble, DEFAULT, np.ones(3), PARTITIONS)
            more = gain(ensemble, fitted, [equal], DEFAULT)
            truly = [
                plain_scores(
                    new.truth,
                    DEFAULT.fit(ensemble.mean(way.weights), texts.truth).apply(np.tensordot(way.weights, unseen, 1)),
                )["f1_macro"]
                for way in (fitted, equal)
            ]
            row = f"third run {100 * gap:.0f} points worse" if gap else "equal runs"
            figures[row, "always"] = truly[0] - truly[1]
            figures[row, "weight of the third"] = fitted.weights[2]
            for errors in ERRORS:
                taken = more.value > errors * more.standard_error
                figures[row, f"beyond {errors:.0f} SE"] = taken * (truly[0] - truly[1])
                figures[row, f"taken at {errors:.0f} SE, %"] = Share(int(taken), 1)
        yield figures


def main():
    """Measure, write the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="of processor time")
    parser.add_argument("--rows", type=int, default=ROWS, help="that weights and thresholds are fitted on")
    parser.add_argument("--gaps", type=float, nargs="+", default=GAPS, help="by which the third run is worse")
    parser.add_argument("--repetitions", type=int, default=10**9, help="at most")
    parser.add_argument("--name", default="now", help="of the figures in the results file")
    parser.add_argument("--results", default="benchmarks/results/ensemble_weights.json")
    args = parser.parse_args()
    effort = replace(Effort(60 * args.minutes, args.repetitions), rows=args.rows)
    tables = {TITLE: gather(repetitions(args.gaps, effort))}
    save(args.results, args.name, "ensemble_weights", tables)
    print(report({args.name: tables}))


if __name__ == "__main__":
    main()
