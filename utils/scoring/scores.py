"""The scores of this project, in one table: how each is computed, what a person calls it, and where it is shown.

Truth may hold NaN, for cells that nobody has annotated: scores are of the known cells alone. Each row has at least one.

Evaluation, training log, comparison, model card, report, trackers and the Hub read this table. To add a score is to add
a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# What may follow the name of a score of 0/1 predictions: which predictions it is a score of.
AT_HALF, TUNED, DECODED = "", "_tuned", "_decoded"
KINDS = {DECODED: "answers", AT_HALF: "at 0.5", TUNED: "tuned (cross-fitted)"}
# What predictions are called that are the likeliest label of each text, instead of "at 0.5".
LIKELIEST = "likeliest label"
# The share of rows that are right, where a row takes one decision: each has one label, or there is one label in all.
ACCURACY = "accuracy"

# Scores of single labels, at the thresholds in use, under names such as `f1/joy`.
PER_LABEL = ("precision", "recall", "f1", "support")


@dataclass(frozen=True)
class Score:
    """A figure for N rows and L labels.

    Args:
        name: its name in results and logs, and for `--metric_for_best_model`.
        title: what a person calls it.
        compute: function of truth (0/1, NaN for unknown) and of 0/1 predictions or probabilities, all `[N, L]`.
        of_probabilities: whether it is computed from probabilities, so that no threshold plays a part.
        logged: whether the line of an evaluation during training shows it.
        compared: whether comparisons of runs show it.
        of_rows: function that gives the score of each row, `[N]`, where it is the mean over the rows; None for others.
        higher_is_better: which checkpoint `--metric_for_best_model` picks.
        labels: function of truth that says which labels the mean is over, `[L]` of booleans; None for all.
        without: what the other labels are, in words.
    """

    name: str
    title: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    of_probabilities: bool = False
    logged: bool = False
    compared: bool = False
    of_rows: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    higher_is_better: bool = True
    labels: Callable[[np.ndarray], np.ndarray] | None = None
    without: str = ""


def known_cells(truth: np.ndarray) -> np.ndarray:
    """Which cells of truth are known, of its shape: those that are not NaN."""
    truth = np.asarray(truth)
    return ~np.isnan(truth) if truth.dtype.kind == "f" else np.ones(truth.shape, dtype=bool)


def on_known_cells(truth: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and 0/1 predictions as booleans, both false where the truth is not known, so that nothing is counted there.

    Args:
        truth: 0/1 or NaN, `[N, L]`.
        predictions: 0/1, `[..., N, L]`.
    """
    truth, predictions = np.asarray(truth), np.asarray(predictions) != 0
    if truth.dtype.kind != "f":
        return truth != 0, predictions
    return truth == 1, predictions & ~np.isnan(truth)


@dataclass(frozen=True)
class Counts:
    """What scores of 0/1 predictions are made of, for labels (axis 0 summed up) or rows (axis 1).

    Args:
        right: cells that are true and predicted.
        true: cells that are true.
        predicted: cells that are predicted.
    """

    right: np.ndarray
    true: np.ndarray
    predicted: np.ndarray

    @classmethod
    def over(cls, axis: int, truth: np.ndarray, predictions: np.ndarray) -> Counts:
        """Counts of 0/1 predictions.

        Args:
            axis: 0 for counts of the labels, `[L]`; 1 for those of the rows, `[N]`.
            truth: 0/1 or NaN, `[N, L]`.
            predictions: 0/1, `[N, L]`.
        """
        truth, predictions = on_known_cells(truth, predictions)
        return cls((truth & predictions).sum(axis=axis), truth.sum(axis=axis), predictions.sum(axis=axis))


def ratio(numerator: np.ndarray, denominator: np.ndarray, zero_division: float) -> np.ndarray:
    """A quotient of counts.

    Args:
        numerator: of any shape.
        denominator: of the same shape.
        zero_division: what 0 / 0 is.
    """
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), zero_division)


def f1_per_label(truth: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """F1 of each label, 0 for one that is neither present nor predicted: `[L]`."""
    counts = Counts.over(0, truth, predictions)
    return ratio(2 * counts.right, counts.true + counts.predicted, 0.0)


def _f1_micro(truth: np.ndarray, predictions: np.ndarray) -> float:
    counts = Counts.over(0, truth, predictions)
    return ratio(2 * counts.right.sum(), counts.true.sum() + counts.predicted.sum(), 0.0).item()


def _f1_of_rows(truth: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    counts = Counts.over(1, truth, predictions)
    return ratio(2 * counts.right, counts.true + counts.predicted, 1.0)


def _jaccard_of_rows(truth: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    counts = Counts.over(1, truth, predictions)
    return ratio(counts.right, counts.true + counts.predicted - counts.right, 1.0)


def _rows_that_match(truth: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    truth, predictions = on_known_cells(truth, predictions)
    return (truth == predictions).all(axis=1).astype(float)


def _mean_over_rows(
    of_rows: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda truth, predicted: of_rows(truth, predicted).mean()


def _present(truth: np.ndarray) -> np.ndarray:
    return (np.asarray(truth) == 1).any(axis=0)


def hits_and_rows(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True rows and rows from the highest probability down to each distinct one: both `[distinct]`, given `[N]`."""
    order = np.argsort(-probabilities)
    ends = np.flatnonzero(np.append(np.diff(probabilities[order]) != 0, True))
    return np.cumsum(truth[order], dtype=float)[ends], ends + 1.0


def average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Average precision of one label with a true row; arrays are `[N]`."""
    hits, rows = hits_and_rows(truth, probabilities)
    return (np.diff(hits, prepend=0.0) * hits / rows).sum() / hits[-1]


def roc_auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve of one label with rows of both classes; arrays are `[N]`."""
    hits, rows = hits_and_rows(truth, probabilities)
    others = rows - hits
    area = (np.diff(others, prepend=0.0) * (hits + np.append(0.0, hits[:-1])) / 2).sum()
    return area / (hits[-1] * others[-1])


def known_rows(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities of the cells that are known, both `[known]`, given `[N]`."""
    known = known_cells(truth)
    return (truth, probabilities) if known.all() else (truth[known], probabilities[known])


def _mean_average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    present = np.flatnonzero(_present(truth))
    each = [average_precision(*known_rows(truth[:, i], probabilities[:, i])) for i in present]
    return float(np.mean(each)) if each else 0.0


def _two_classes(truth: np.ndarray) -> np.ndarray:
    return _present(truth) & (np.asarray(truth) == 0).any(axis=0)


def _roc_auc_macro(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of the labels' areas under the ROC curve, 0.5 where no label has both classes."""
    usable = np.flatnonzero(_two_classes(truth))
    each = [roc_auc(*known_rows(truth[:, i], probabilities[:, i])) for i in usable]
    return float(np.mean(each)) if each else 0.5


def _roc_auc_micro(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve of all cells together, 0.5 where all are of one class."""
    cells, probabilities = known_rows(np.ravel(truth), np.ravel(probabilities))
    return roc_auc(cells, probabilities) if 0 < np.count_nonzero(cells) < cells.size else 0.5


def _ranking_precision_of_rows(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean over the true labels of a row of the precision of the labels down to each, ties counted to their end: `[N]`.

    A row whose cells are all 0 or all 1 has no ranking to get wrong, and counts as 1.
    """
    known = known_cells(truth)
    truth, probabilities = np.asarray(truth) == 1, np.where(known, probabilities, -1.0)  # unknown ones come last
    order = np.argsort(-probabilities, axis=1)
    true, scores = (np.take_along_axis(array, order, axis=1) for array in (truth, probabilities))
    labels = truth.shape[1]
    ends = np.where(np.diff(scores, axis=1, append=-np.inf) != 0, np.arange(labels), labels - 1)
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]  # place of the last label with the same score
    precision = np.take_along_axis(np.cumsum(true, axis=1), ends, axis=1) / (ends + 1)
    number = true.sum(axis=1)
    of_rows = (precision * true).sum(axis=1) / np.maximum(number, 1)
    return np.where((number == 0) | (number == known.sum(axis=1)), 1.0, of_rows)


# A row that has no label and is given none counts 1 in samples-F1 and Jaccard.
SCORES = (
    Score(
        "f1_macro",
        "macro-F1",
        lambda truth, predictions: f1_per_label(truth, predictions).mean(),
        logged=True,
        compared=True,
    ),
    Score(
        "f1_micro",
        "micro-F1",
        _f1_micro,
        logged=True,
        compared=True,
    ),
    Score(
        "f1_samples",
        "samples-F1",
        _mean_over_rows(_f1_of_rows),
        of_rows=_f1_of_rows,
    ),
    Score(
        "jaccard",
        "Jaccard",  # what SemEval-2018 E-c calls accuracy
        _mean_over_rows(_jaccard_of_rows),
        logged=True,
        compared=True,
        of_rows=_jaccard_of_rows,
    ),
    Score(
        "exact_match",
        "exact match",
        _mean_over_rows(_rows_that_match),
        of_rows=_rows_that_match,
    ),
    Score(
        "map",
        "mAP",
        _mean_average_precision,
        of_probabilities=True,
        logged=True,
        labels=_present,
        without="that no row has",
    ),
    Score(
        "lrap",
        "LRAP",
        _mean_over_rows(_ranking_precision_of_rows),
        of_probabilities=True,
        of_rows=_ranking_precision_of_rows,
    ),
    Score(
        "roc_auc_macro",
        "macro ROC-AUC",
        _roc_auc_macro,
        of_probabilities=True,
        logged=True,
        compared=True,
        labels=_two_classes,
        without="of which all rows or none are true",
    ),
    Score("roc_auc_micro", "micro ROC-AUC", _roc_auc_micro, of_probabilities=True, logged=True, compared=True),
)
OF_PREDICTIONS = tuple(score for score in SCORES if not score.of_probabilities)
OF_PROBABILITIES = tuple(score for score in SCORES if score.of_probabilities)
# Where a row takes one decision Jaccard is the accuracy, and these say the same as it or macro-F1 once more.
SAID_BY_ACCURACY = ("f1_micro", "f1_samples", "exact_match")


def shown_scores(scores: tuple[Score, ...], one_decision: bool) -> tuple[Score, ...]:
    """The scores that a table shows.

    Args:
        scores: of multi-label predictions.
        one_decision: whether a row takes one decision: then Jaccard is called accuracy, and what says the same is left
            out.
    """
    if not one_decision:
        return scores
    kept = (score for score in scores if score.name not in SAID_BY_ACCURACY)
    return tuple(replace(score, title=ACCURACY) if score.name == "jaccard" else score for score in kept)


def is_likeliest(metrics: Mapping[str, Any]) -> bool:
    """Whether metrics are those of the likeliest label of each text, given what `evaluate` gives."""
    return ACCURACY in metrics and not any(name.startswith("threshold/") for name in metrics)


def half_width_of(name: str) -> str:
    """The name of half of the interval of a score, `f1_macro_tuned`."""
    return f"{name}_half_width"


def with_half_width(metrics: Mapping[str, float], name: str) -> str:
    """A score with half of its interval, where that is known."""
    width = metrics.get(half_width_of(name))
    return f"{metrics[name]:.3f}" + ("" if width is None else f" ± {width:.3f}")


def by_name(name: str) -> Score:
    """The score of a name without a suffix, `f1_macro`."""
    return next(score for score in SCORES if score.name == name)


def left_out(truth: np.ndarray) -> dict[str, int]:
    """How many labels of truth `[N, L]` a score leaves out of its mean: `left_out/x` for each score x that does."""
    counts = {score.name: int((~score.labels(truth)).sum()) for score in SCORES if score.labels is not None}
    return {f"left_out/{name}": count for name, count in counts.items() if count}


def left_out_notes(counts: Mapping[str, float], scores: tuple[Score, ...] = SCORES) -> list[str]:
    """What to say below a table of scores: which of them leave labels out, given what `left_out` gives, or metrics that
    hold it."""
    return [
        f"{score.title} is the mean without the labels {score.without}: {counts[name]} left out."
        for score in scores
        if (name := f"left_out/{score.name}") in counts
    ]


def summary_rows(metrics: Mapping[str, Any], first: str = "f1_macro") -> tuple[list[str], list[list[Any]]]:
    """`(header, rows)` of the table of scores: of decoded labels, at 0.5 and tuned, as far as there are any.

    The score of the name `first` comes first.

    A score has its interval behind it where the metrics hold its ends, `f1_macro_low` and `f1_macro_high`. A run that
    was made before a score was added to the table does not have it.
    """
    kinds = [kind for kind in KINDS if f"f1_macro{kind}" in metrics]
    rows = []
    for score in sorted(shown_scores(SCORES, ACCURACY in metrics), key=lambda score: score.name != first):
        values = {kind: with_interval(metrics, f"{score.name}{kind}") for kind in kinds}
        if score.of_probabilities:
            values = {DECODED: "", AT_HALF: with_interval(metrics, score.name), TUNED: "same"}
        rows.append([score.title, *(values[kind] for kind in kinds)])
    titles = KINDS | ({AT_HALF: LIKELIEST} if is_likeliest(metrics) else {})
    return ["score", *(titles[kind] for kind in kinds)], rows


def with_interval(metrics: Mapping[str, Any], name: str) -> Any:
    """A score for a table, `f1_macro` or `f1/x` of label x, with its interval if that is known; `-` without a score."""
    what, slash, label = name.partition("/")
    low, high = (metrics.get(f"{what}_{end}{slash}{label}") for end in ("low", "high"))
    return metrics.get(name, "-") if low is None else f"{metrics[name]:.3f} [{low:.3f}, {high:.3f}]"


def higher_is_better(metric: str) -> bool:
    """Whether a higher value of a metric is the better one, given its name in logs (`eval_f1_macro_tuned`)."""
    name = metric.removeprefix("eval_")
    scores = {f"{score.name}{kind}": score for score in SCORES for kind in KINDS}
    return scores[name].higher_is_better if name in scores else not name.endswith("loss")
