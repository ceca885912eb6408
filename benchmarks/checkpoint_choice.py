"""What choosing the checkpoint does to a real run's figure, by what it is chosen by.

    python -m benchmarks.checkpoint_choice --runs outputs/folds/*

The runs were trained with `--keep_checkpoints --save_total_limit 100`. Each checkpoint predicts the run's validation
rows. These are divided into halves, near-duplicates together, many times: the checkpoint is chosen on one half, its
thresholds are fitted there, and its figure is the cross-fitted one of that half, as in a run; the other half says what
it is worth. What `benchmarks.honesty` says of made-up checkpoints, this says of real ones, which get better for some
epochs and have probabilities of their own.

Columns, in points of tuned macro-F1: how far the figure lies above the score on the other half, and that score against
the one of the last checkpoint. Errors are over the runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.figures import Repetition, gather, report, save
from benchmarks.honesty import CRITERIA, DEFAULT, plain_tuned
from utils.data.splits import assign_parts
from utils.models.approaches import approach_of
from utils.runs.finished import read_run
from utils.scoring.bootstrap import plain_scores
from utils.scoring.predictions import Predictions

HALVES = 10
TITLE = "Checkpoints chosen on one half of the validation rows, tuned macro-F1, points"


def checkpoint_predictions(folder: str, batch_size: int = 128) -> list[Predictions]:
    """The validation rows of a run as each of its checkpoints predicts them, the first one first."""
    run = read_run(folder)
    checkpoints = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    if len(checkpoints) < 2:
        sys.exit(f"{folder} holds {len(checkpoints)} checkpoints: train it with --keep_checkpoints")
    loaded = (approach_of(run.arguments).load(str(path), run.arguments, run.task) for path in checkpoints)
    return [
        Predictions(
            run.task.labels,
            run.predictions.ids,
            truth=run.predictions.truth,
            probabilities=approach.predict(run.predictions.texts, batch_size).probabilities,
            groups=run.predictions.near_duplicates,
        )
        for approach in loaded
    ]


def choose(checkpoints: list[Predictions], seed: int) -> Repetition:
    """The figures of one run, mean over many halves of its rows, each half in both roles."""
    truth, groups = checkpoints[0].truth, checkpoints[0].near_duplicates
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(HALVES):
        halves = assign_parts(truth, groups, np.array([0.5, 0.5]), seed + number)
        for half in (0, 1):
            seen = [one.select(halves == half) for one in checkpoints]
            values = np.array([plain_tuned(one) for one in seen])
            worth = np.array([_worth(one, other.select(halves != half)) for one, other in zip(seen, checkpoints)])
            chosen = {
                how: int((values if by is None else np.array([by(one) for one in seen])).argmax())
                for how, by in CRITERIA.items()
            }
            for how, which in (chosen | {"the last": len(checkpoints) - 1}).items():
                figures.setdefault((how, "above its worth"), []).append(values[which] - worth[which])
                figures.setdefault((how, "worth against the last"), []).append(worth[which] - worth[-1])
    return {place: float(np.mean(numbers)) for place, numbers in figures.items()}


def _worth(seen: Predictions, other: Predictions) -> float:
    """Macro-F1 on other rows with thresholds fitted on those that were seen."""
    thresholds = DEFAULT.fit(seen.probabilities, seen.truth)
    return plain_scores(other.truth, thresholds.apply(other.probabilities))["f1_macro"]


def main():
    """Predict with all checkpoints, choose, write the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, help="folders of finished runs, with their checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="now", help="of the figures in the results file")
    parser.add_argument("--results", default="benchmarks/results/checkpoint_choice.json")
    args = parser.parse_args()
    tables = {TITLE: gather(choose(checkpoint_predictions(folder), args.seed) for folder in args.runs)}
    save(args.results, args.name, "checkpoint_choice", tables, args.runs)
    print(report({args.name: tables}))


if __name__ == "__main__":
    main()
