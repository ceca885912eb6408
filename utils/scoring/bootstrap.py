"""The bootstrap: how much a score, or a difference of scores, depends on the rows that happen to be in the data.

Percentile intervals: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

Only the rows are resampled, near-duplicates together: groups are drawn, not rows (the cluster bootstrap; Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). What the luck of the training seed adds,
`utils.scoring.differences` does.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

LEVEL = 0.95
SCORES = ("f1_macro", "f1_micro", "jaccard")
# Cells of the weight matrix [resamples, N] in memory at a time: 64 MiB as float32.
CELLS_AT_A_TIME = 2**24


@dataclass
class Resampled:
    """Scores of B resamples of the rows.

    Args:
        f1_macro: `[B]`.
        f1_micro: `[B]`.
        jaccard: `[B]`, mean over the rows.
        f1: of each label, `[B, L]`.
    """

    f1_macro: np.ndarray
    f1_micro: np.ndarray
    jaccard: np.ndarray
    f1: np.ndarray


def _scores(weights: np.ndarray, hits: np.ndarray, sizes: np.ndarray, jaccard: np.ndarray) -> Resampled:
    """Scores if row n counts `weights[b, n]` times in resample b, mean over P sets of predictions.

    Args:
        weights: float array `[B, N]`.
        hits: `[P, N, L]`, 1 where a label is both true and predicted.
        sizes: `[P, N, L]`, true + predicted, so that F1 = 2 hits / sizes.
        jaccard: Jaccard index of each row, mean over the sets, `[N]`.
    """
    f1, micro = 0, 0
    for some_hits, some_sizes in zip(hits, sizes):
        some_hits, some_sizes = weights @ some_hits, weights @ some_sizes
        # Counts are whole numbers, so that 0 / 1 stands for 0 / 0.
        f1 = f1 + 2 * some_hits / np.maximum(some_sizes, 1)
        micro = micro + 2 * some_hits.sum(axis=1) / np.maximum(some_sizes.sum(axis=1), 1)
    f1, micro = f1 / len(hits), micro / len(hits)
    return Resampled(f1.mean(axis=1), micro, weights @ jaccard / weights.sum(axis=1), f1)


def _counts(truth: np.ndarray, predictions: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(hits [P, N, L], sizes [P, N, L], jaccard [N])` as `_scores` takes them, in `dtype`.

    Raises:
        ValueError: if the shapes of truth and of a set of predictions differ.
    """
    truth, predictions = np.asarray(truth, dtype=bool), np.asarray(predictions, dtype=bool)
    if truth.shape != predictions.shape[-2:] or predictions.ndim > 3:
        raise ValueError(f"truth has the shape {truth.shape}, the predictions {predictions.shape}")
    predictions = predictions.reshape(-1, *truth.shape)
    union = (truth | predictions).sum(axis=2)
    # A row without labels counts 1 if none is predicted, as in utils.scoring.metrics.
    jaccard = np.divide((truth & predictions).sum(axis=2), union, out=np.ones(union.shape), where=union > 0)
    return (truth & predictions).astype(dtype), truth.astype(dtype) + predictions, jaccard.mean(axis=0).astype(dtype)


def plain_scores(truth: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    """Scores of 0/1 predictions `[N, L]` on all rows, without resampling; of `[P, N, L]` the mean over the sets.

    Returns:
        dict with `f1_macro`, `f1_micro`, `jaccard` (floats, as `utils.scoring.metrics` defines them) and `f1` (`[L]`).
    """
    counts = _counts(truth, predictions, float)
    scores = _scores(np.ones((1, len(truth))), *counts)
    overall = {name: float(getattr(scores, name)[0]) for name in SCORES}
    return overall | {"f1": scores.f1[0]}


def resample(
    truth: np.ndarray, predictions: np.ndarray, resamples: int, seed: int, groups: np.ndarray | None = None
) -> Resampled:
    """Scores on B draws of the N rows with replacement, as many groups of near-duplicates as there are.

    The draws depend only on N, `groups`, `resamples` and `seed`. So two systems' predictions for the same rows in the
    same order are scored on the same draws, as `utils.scoring.differences` needs.

    Args:
        truth: 0/1 array `[N, L]`.
        predictions: 0/1 array `[N, L]`, or `[P, N, L]` for scores that are the mean over P sets.
        resamples: B.
        seed: decides the draws.
        groups: `[N]`, equal for rows that are drawn together; left out: each row is drawn alone.

    Raises:
        ValueError: if the shapes of `truth` and of a set of predictions differ.
    """
    counts = _counts(truth, predictions, np.float32)
    rows = len(truth)
    group_of_row = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    number = group_of_row.max() + 1
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, max(1, CELLS_AT_A_TIME // rows)):
        draws = min(resamples - start, max(1, CELLS_AT_A_TIME // rows))
        # How often each group is drawn is multinomial; counting drawn numbers is faster than drawing from it.
        drawn = rng.integers(number, size=(draws, number)) + number * np.arange(draws)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=draws * number).reshape(draws, number).astype(np.float32)
        parts.append(_scores(weights if number == rows else weights[:, group_of_row], *counts))
    return Resampled(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Resampled)))


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | tuple[np.ndarray, np.ndarray]:
    """Percentile interval of resampled values.

    Args:
        values: `[B]` or `[B, L]`.
        level: share of the values in the interval.

    Returns:
        `(low, high)`: floats, or arrays `[L]`.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)
