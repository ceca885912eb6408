"""What stands below a run's scores: intervals, leaking rows, and how much choosing the checkpoint flatters them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from utils.scoring.bootstrap import interval, resample
from utils.scoring.predictions import Predictions
from utils.scoring.scores import KINDS
from utils.scoring.thresholds import ThresholdRule, apply_thresholds

# The checkpoints of a training are right and wrong on much the same rows. What remains, the standard deviation of what
# a score owes to the rows and to its own checkpoint alone, is about this share of the standard error of a score:
# measured where the truth is known, on simulated checkpoints (0.59 to 0.66).
OWN_SHARE = 0.6
# A checkpoint could have been chosen if its score is at most so many of these lower: two standard deviations of a
# difference of two.
COMPETES_WITHIN = 2 * 2**0.5
RESAMPLES = 2000


def choice_lift(scores: Sequence[float], standard_error: float) -> float:
    """How much too good the score of the best of several checkpoints is on the rows it was chosen on.

    The expected maximum of as many independent errors as there are checkpoints that could have been chosen.

    Args:
        scores: macro-F1 of the checkpoints on those rows.
        standard_error: of one such score over the rows.
    """
    own = OWN_SHARE * standard_error
    competing = int((np.asarray(scores) >= max(scores) - COMPETES_WITHIN * own).sum())
    return float(own * ndtri((competing - 0.375) / (competing + 0.25)))  # Blom's formula of the expected maximum


def interval_figures(predictions: Predictions, rule: ThresholdRule) -> dict[str, float]:
    """Ends of the 95 % bootstrap intervals of macro-F1, for the results of a run: `eval_f1_macro_low` and the like."""
    figures = {}
    for kind, decided in predictions.decide(rule).items():
        ends = interval(resample(predictions.truth, decided, RESAMPLES, seed=0).f1_macro)
        figures |= {f"eval_f1_macro{kind}_{end}": value for end, value in zip(("low", "high"), ends)}
    return figures


def interval_note(results: Mapping[str, Any]) -> str:
    """A sentence with the intervals of macro-F1; empty where they are not known."""
    parts = [
        f"{title} [{results[f'eval_f1_macro{kind}_low']:.3f}, {results[f'eval_f1_macro{kind}_high']:.3f}]"
        for kind, title in KINDS.items()
        if f"eval_f1_macro{kind}_low" in results
    ]
    if not parts:
        return ""
    return f"95 % bootstrap intervals of macro-F1 over the rows, without the luck of the seed: {', '.join(parts)}."


def choice_figures(log_history: list[dict[str, Any]], metric: str, predictions: Predictions) -> dict[str, float]:
    """What the choice of the checkpoint did, for the results of a run.

    Args:
        log_history: of Trainer.
        metric: the score that it was chosen by.
        predictions: of the chosen one for the rows it was chosen on.

    Returns:
        `eval_chosen_among`, the number of evaluations, and, where it was chosen by macro-F1, `eval_choice_lift`;
        nothing where there was no choice.
    """
    name = f"eval_{metric.removeprefix('eval_')}"
    scores = [entry[name] for entry in log_history if name in entry]
    if len(scores) < 2:
        return {}
    figures = {"eval_chosen_among": len(scores)}
    if name.startswith("eval_f1_macro"):
        drawn = resample(predictions.truth, apply_thresholds(predictions.probabilities, 0.5), RESAMPLES, seed=0)
        figures["eval_choice_lift"] = choice_lift(scores, float(drawn.f1_macro.std()))
    return figures


def choice_note(results: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on checkpoints that were chosen on the rows that the scores are of; empty where none was.

    Args:
        results: all_results.json of each run that is scored.
    """
    chosen = [one for one in results if one.get("eval_chosen_among")]
    if not chosen:
        return ""
    most = max(one["eval_chosen_among"] for one in chosen)
    by = " and ".join(sorted({str(one.get("best_metric_name", "score")) for one in chosen}))
    lifts = [one["eval_choice_lift"] for one in chosen if "eval_choice_lift" in one]
    if len(results) == 1:
        what = f"The checkpoint was chosen on the same rows, as the best of {most} by {by}"
    else:
        what = f"Checkpoints were chosen on the same rows, each as the best of up to {most} by {by}"
    if not lifts:
        return f"{what}: the scores are a little too good by that."
    low, high = (f"{lift:.3f}" for lift in (min(lifts), max(lifts)))
    less = low if low == high else f"{low} to {high}"
    return f"{what}: by that alone expect {less} less macro-F1 on new rows (estimated)."


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


def score_notes(results: Mapping[str, Any]) -> list[str]:
    """What the reader of a run's scores should know, in sentences.

    Args:
        results: all_results.json of the run.
    """
    return [note for note in (interval_note(results), leak_note(results), choice_note([results])) if note]
