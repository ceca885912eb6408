"""Thresholds for scores that are no mean over the labels: micro-F1, samples-F1, Jaccard and exact match.

What a label's threshold is worth depends on those of the others there, so they are not searched one by one. With one
threshold for all labels the best is found by exact search. With one for each, coordinate ascent: each in turn is set to
the best one, exactly, while the others stay, until none gets better. For micro-F1 what it arrives at is the best there
is, as a ratio of sums over the labels has no other such point. For the means over the rows it need not be. Begun where
micro-F1 is best, it finds the best there is in 38 or 39 of 40 cases with 8 rows and 3 labels, and is 0.002 to 0.006
below it on average; begun at one threshold for all, in 32 to 37.

As for macro-F1, the threshold that a label gets by itself is mostly noise, and shrunk: towards the one threshold for
all labels (`per_label`), or towards where the label's calibrated probability reaches the one threshold of these
(`calibrated`).
"""

from __future__ import annotations

import numpy as np

from utils.scoring.scores import ratio

# Rounds over all labels, of which coordinate ascent takes a few.
ROUNDS = 50
# A score that gains less has not changed.
ROUNDING = 1e-12


def counted_score(name: str, right: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """What rows score, or all rows together for micro-F1, given how many of their cells are so; arrays of one shape.

    Args:
        name: of the score.
        right: cells that are true and predicted.
        predicted: cells that are predicted.
        true: cells that are true.
    """
    if name == "f1_micro":
        return ratio(2 * right, predicted + true, 0.0)
    if name == "f1_samples":
        return ratio(2 * right, predicted + true, 1.0)
    if name == "jaccard":
        return ratio(right, predicted + true - right, 1.0)
    return ((right == true) & (predicted == true)).astype(float)


def one_threshold(name: str, scores: np.ndarray, truth: np.ndarray) -> float:
    """The one threshold for all labels with the highest score, by exact search over all values.

    Going down the values, each cell changes the score of its own row only.

    Args:
        name: of the score.
        scores: `[N, L]`, with at least one row; below 0 where the truth is not known.
        truth: 0/1 array `[N, L]`.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    down, true = np.take_along_axis(scores, order, axis=1), np.take_along_axis(truth, order, axis=1)
    number = truth.sum(axis=1, keepdims=True)
    values = down.ravel()
    globally = np.argsort(-values, kind="stable")  # a row's cells stay in their order
    values = values[globally]
    if name == "f1_micro":
        right = np.cumsum(true.ravel()[globally])
        total = counted_score(name, right, np.arange(1, len(values) + 1), np.full(len(values), truth.sum()))
        none = 0.0
    else:
        right, given = np.cumsum(true, axis=1), np.broadcast_to(np.arange(1, truth.shape[1] + 1), true.shape)
        after = counted_score(name, right, given, np.broadcast_to(number, true.shape))
        before = counted_score(name, 0 * number, 0 * number, number)
        changes = np.diff(after, axis=1, prepend=before)
        none = float(before.sum())
        total = none + np.cumsum(changes.ravel()[globally])
    total[np.diff(values, append=-np.inf) == 0] = -1
    best = int(np.argmax(total))
    if none > total[best] + ROUNDING:
        return above(values[0])
    return float(between(values[best], max(0.0, values[best + 1]) if best + 1 < len(values) else 0.0))


def thresholds_by_ascent(name: str, scores: np.ndarray, truth: np.ndarray, start: np.ndarray) -> np.ndarray:
    """A threshold for each label, `[L]`, by coordinate ascent.

    Args:
        name: of the score.
        scores: `[N, L]`, with at least one row; below 0 where the truth is not known.
        truth: 0/1 array `[N, L]`, 0 there.
        start: thresholds to begin with, `[L]`.

    Returns:
        thresholds; a label's stays where no other is better.
    """
    if name != "f1_micro":
        start = thresholds_by_ascent("f1_micro", scores, truth, start)
    truth = np.asarray(truth).astype(np.int64)
    thresholds = np.array(start, dtype=float)
    order = np.argsort(-scores, axis=0, kind="stable")
    down = np.take_along_axis(scores, order, axis=0)
    ends = np.diff(down, axis=0, append=-np.inf) != 0  # a cut is possible only where the next score is lower
    decided = (scores >= thresholds).astype(np.int64)
    right, given, true = (truth * decided).sum(axis=1), decided.sum(axis=1), truth.sum(axis=1)
    for _ in range(ROUNDS):
        changed = False
        for label in range(scores.shape[1]):
            yes, mine = decided[:, label], truth[:, label]
            right_else, given_else = right - yes * mine, given - yes
            totals = _totals(name, right_else, given_else, true, mine, order[:, label])
            totals[1:][~ends[:, label]] = -1
            best, now = int(np.argmax(totals)), int(yes.sum())
            # The rows that are given a label are the highest of it, so their number says where the threshold is.
            if totals[best] <= totals[now] + ROUNDING:
                continue
            changed = True
            values = down[:, label]
            lower = max(0.0, values[best]) if best < len(values) else 0.0
            thresholds[label] = above(values[0]) if best == 0 else between(values[best - 1], lower)
            decided[:, label] = scores[:, label] >= thresholds[label]
            right, given = right_else + decided[:, label] * mine, given_else + decided[:, label]
        if not changed:
            break
    return thresholds


def _totals(
    name: str, right: np.ndarray, given: np.ndarray, true: np.ndarray, mine: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """What all rows score if the k highest of a label are given it, for each k: `[N + 1]`.

    Args:
        name: of the score.
        right: of each row, cells of other labels that are true and predicted, `[N]`.
        given: likewise, predicted.
        true: true cells of each row, those of this label too.
        mine: truth of this label, `[N]`.
        order: numbers of the rows from the highest score of this label down, `[N]`.
    """
    if name == "f1_micro":
        hits = np.append(0, np.cumsum(mine[order]))
        return counted_score(
            name, right.sum() + hits, given.sum() + np.arange(len(hits)), np.full(len(hits), true.sum())
        )
    without = counted_score(name, right, given, true)
    gains = counted_score(name, right + mine, given + 1, true) - without
    return without.sum() + np.append(0, np.cumsum(gains[order]))


def above(score: float) -> float:
    """A threshold that `score` does not reach; 1 for a score of 1, which nothing is above."""
    return (float(score) + 1) / 2


def between(upper: np.ndarray | float, lower: np.ndarray | float) -> np.ndarray | float:
    """A threshold that `upper` reaches and `lower` does not, halfway if floats allow."""
    middle = (upper + lower) / 2
    return np.where(middle > lower, middle, upper)
