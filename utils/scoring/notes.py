"""What stands below a run's scores: intervals, leaking rows, and that the checkpoint was chosen on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils.scoring.bootstrap import interval, resample_each
from utils.scoring.scores import KINDS

if TYPE_CHECKING:  # loading it takes torch
    from utils.scoring.evaluation import Evaluation


def interval_figures(evaluation: Evaluation) -> dict[str, float]:
    """Ends of the 95 % bootstrap intervals of macro-F1, for the results of a run: `eval_f1_macro_low` and the like.

    They are those that the report shows.
    """
    predictions, figures = evaluation.predictions, {}
    drawn = resample_each(predictions.truth, evaluation.decisions, predictions.near_duplicates)
    for kind, scores in drawn.items():
        ends = zip(("low", "high"), interval(scores.f1_macro))
        figures |= {f"eval_f1_macro{kind}_{end}": value for end, value in ends}
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
    if all(metric.startswith("f1_macro") for metric in metrics):
        return (
            f"{what}: by that alone a tuned score looks better than it is, by about half a point of macro-F1 with five "
            "checkpoints in simulations."
        )
    return f"{what}: by that alone scores look a little better than they are."


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
