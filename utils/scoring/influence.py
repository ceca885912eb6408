"""How much each row moves a score: its interval without resampling, for many rows and for the log of a training.

The influence of a row is the derivative of a score by the weight of the row. To first order a score on other rows is
the score plus the influences of the rows drawn (the infinitesimal jackknife; Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, chapter 21). Where a label has few rows that is less exact than resampling; the bias is not in it.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from utils.scoring.ranking import Ranking
from utils.scoring.scores import Score, known_cells, on_known_cells

LEVEL = 0.95


def influence(score: Score, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The influence of each row on a score, `[N]`; they sum to 0.

    Args:
        score: of `utils.scoring.scores`.
        truth: 0/1 array `[N, L]`.
        predicted: 0/1 predictions or probabilities `[N, L]`, whichever the score is of.
    """
    truth = np.asarray(truth)
    if score.of_rows is not None:
        of_rows = score.of_rows(truth, predicted)
        return (of_rows - of_rows.mean()) / len(truth)
    if score.of_probabilities:
        return _of_probabilities(score.name, truth, np.asarray(predicted, dtype=float))
    truth, predicted = on_known_cells(truth, predicted)
    hits, sizes = 2.0 * (truth & predicted), truth.astype(float) + predicted  # [N, L], F1 = sum of hits / sum of sizes
    if score.name == "f1_micro":
        hits, sizes = hits.sum(axis=1, keepdims=True), sizes.sum(axis=1, keepdims=True)
    counts = np.maximum(sizes.sum(axis=0), 1)
    return ((hits - hits.sum(axis=0) / counts * sizes) / counts).mean(axis=1)


def _of_probabilities(name: str, truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Influences on mAP or a ROC-AUC, `[N]`: the mean over the labels that the score is the mean over."""
    if name == "roc_auc_micro":
        if not ((truth == 1).any() and (truth == 0).any()):
            return np.zeros(len(truth))
        moves, known = np.zeros(truth.shape), known_cells(truth)
        moves[known] = Ranking(truth[known], probabilities[known]).influences()[1]
        return moves.sum(axis=1)
    total, number = np.zeros(len(truth)), 0
    for label in np.flatnonzero((truth == 1).any(axis=0)):
        if name == "map" or (truth[:, label] == 0).any():
            known = known_cells(truth[:, label])
            total[known] += Ranking(truth[known, label], probabilities[known, label]).influences()[name != "map"]
            number += 1
    return total / max(number, 1)


def half_width(influences: np.ndarray, groups: np.ndarray) -> float:
    """Half of the 95 % interval of a score over the rows.

    Args:
        influences: of the rows, `[N]`.
        groups: `[N]`, equal for near-duplicates, which are drawn together.
    """
    of_groups = np.bincount(np.unique(groups, return_inverse=True)[1], weights=influences)
    return float(ndtri((1 + LEVEL) / 2) * np.sqrt(np.square(of_groups).sum()))
