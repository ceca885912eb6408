"""What stands below a run's scores: intervals, leaking rows, and that the checkpoint was chosen on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.tables import format_seconds
from utils.scoring.bootstrap import OF_LABELS, Drawn, interval, resample_each
from utils.scoring.differences import expected_maximum
from utils.scoring.scores import ACCURACY, AT_HALF, SCORES, TUNED

if TYPE_CHECKING:  # loading it takes torch
    from utils.scoring.evaluation import Evaluation


ENDS = ("low", "high")
# By how much choosing the best of so many equally good checkpoints lifts tuned macro-F1, by what it is chosen by: see
# benchmarks.honesty. The best of another number is lifted as the maximum of so many normal variables is.
SIMULATED = 5
LIFTS = {"f1_macro_tuned": 0.007, "f1_macro": 0.004, "map": 0.002, "loss": 0.002}


def interval_figures(evaluation: Evaluation) -> dict[str, float]:
    """Ends of the 95 % bootstrap intervals, for the results of a run: `eval_f1_macro_low`, `eval_f1_low/x` of label x
    at the thresholds in use, and so on for every score.

    They are those that the report shows.
    """
    predictions, metrics = evaluation.predictions, evaluation.metrics
    arrays = (predictions.truth, evaluation.decisions, predictions.probabilities, predictions.near_duplicates)
    ends = ends_of_intervals(resample_each(*arrays), metrics, predictions.labels)
    return {f"eval_{name}": value for name, value in ends.items()}


def ends_of_intervals(drawn: Mapping[str, Drawn], metrics: Mapping[str, Any], labels: list[str]) -> dict[str, float]:
    """Ends of the intervals of the scores that the metrics hold: `f1_macro_low`, `precision_low/x` of label x.

    Args:
        drawn: of `utils.scoring.bootstrap.resample_each`.
        metrics: of the same run; scores that it lacks have no interval.
        labels: names of the labels, `[L]`.
    """
    figures: dict[str, float] = {}
    for kind, scores in drawn.items():
        for score in SCORES:
            name = f"{score.name}{kind}"
            if score.name in scores and name in metrics:
                ends = interval(scores[score.name], metrics[name])
                names = [name, *([f"{ACCURACY}{kind}"] if score.name == "exact_match" and ACCURACY in metrics else [])]
                figures |= {f"{name}_{end}": value for name in names for end, value in zip(ENDS, ends)}
    in_use = drawn[TUNED if TUNED in drawn else AT_HALF]
    for name in OF_LABELS:
        if all(f"{name}/{label}" in metrics for label in labels):
            values = np.array([metrics[f"{name}/{label}"] for label in labels])
            for end, each in zip(ENDS, interval(in_use[name], values)):
                figures |= {f"{name}_{end}/{label}": float(value) for label, value in zip(labels, each)}
    return figures


def interval_note(results: Mapping[str, Any]) -> str:
    """A sentence on the intervals in the tables; empty where there are none."""
    if "eval_f1_macro_low" not in results:
        return ""
    return "In brackets: 95 % bootstrap interval over the rows; the luck of the training seed is not in it."


def choice_figures(log_history: list[dict[str, Any]], metric: str) -> dict[str, int]:
    """Among how many evaluations the checkpoint was chosen: `eval_chosen_among`, or nothing where there was no choice.

    Args:
        log_history: of Trainer.
        metric: the score that it was chosen by.
    """
    name = f"eval_{metric.removeprefix('eval_')}"
    evaluations = sum(name in entry for entry in log_history)
    return {"eval_chosen_among": evaluations} if evaluations > 1 else {}


def choice_note(results: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on checkpoints that were chosen on the rows that the scores are of; empty where none was.

    Args:
        results: all_results.json of each run that is scored.
    """
    chosen = [one for one in results if one.get("eval_chosen_among")]
    if not chosen:
        return ""
    metrics = sorted({str(one.get("best_metric_name", "score")).removeprefix("eval_") for one in chosen})
    numbers = sorted({one["eval_chosen_among"] for one in chosen})
    best = f"the best of {'up to ' if len(numbers) > 1 else ''}{numbers[-1]} evaluations by {' and '.join(metrics)}"
    if len(results) == 1:
        what = f"The checkpoint was chosen on the same rows, as {best}"
    elif len(chosen) == len(results):
        what = f"Checkpoints were chosen on the same rows, each as {best}"
    else:
        what = f"{len(chosen)} of {len(results)} checkpoints were chosen on the same rows, each as {best}"
    if not set(metrics) <= LIFTS.keys():
        return f"{what}: by that alone scores look a little better than they are."
    lift = max(map(LIFTS.__getitem__, metrics)) * expected_maximum(numbers[-1]) / expected_maximum(SIMULATED)
    source = f"simulated with {SIMULATED} checkpoints{'' if numbers[-1] == SIMULATED else ', and scaled'}"
    return (
        f"{what}: by that alone a tuned score looks better than it is, by about {max(lift, 0.001):.3f} of macro-F1 if "
        f"all {numbers[-1]} are equally good ({source})."
    )


def leak_note(results: Mapping[str, Any]) -> str:
    """A sentence on validation rows that the training has seen; empty where that is not known.

    Args:
        results: all_results.json of a run.
    """
    leaked = results.get("eval_leaked_rows")
    if leaked is None:
        return ""
    note = f"{leaked:,} of {results['eval_samples']:,} validation rows have a near-duplicate in training"
    return f"{note}, which makes the scores too good: see --drop_leaks." if leaked else f"{note}."


def time_note(results: Mapping[str, Any]) -> str:
    """A sentence on a training that its time limit has ended; empty for others.

    Args:
        results: all_results.json of a run.
    """
    if "time_limit" not in results:
        return ""
    done, planned = results["steps"], results["steps_planned"]
    return (
        f"The training was ended by its time limit of {format_seconds(results['time_limit'])}, after {done:,} of "
        f"{planned:,} steps: the learning rate was still on its way down."
    )


def score_notes(results: Mapping[str, Any]) -> list[str]:
    """What the reader of a run's scores should know, in sentences.

    Args:
        results: all_results.json of the run.
    """
    notes = (interval_note(results), leak_note(results), choice_note([results]), time_note(results))
    return [note for note in notes if note]
