"""The rows of each label by falling probability, and the thresholds with the best F1 among them."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from utils.scoring.calibration import EDGE, MANY_ROWS, finite_logit, gather_at_nodes, platt_coefficients, start_curves
from utils.scoring.joint_thresholds import between
from utils.scoring.scores import known_cells

# Logits further out (probabilities under 0.001, over 0.999) count as this when a curve is fitted: no threshold lies
# there, and where the scores are not logistic a few of them turn the curve away from where thresholds lie.
MIDDLE = 7.0
# Cells [F, L, N] in work at a time: they stay in the processor's cache.
CELLS_AT_A_TIME = 2**17


class SortedRows:
    """The rows of each label by falling probability, for searches on many subsets of them.

    Args:
        probabilities: `[N, L]`.
        truth: 0/1 array `[N, L]`, NaN for cells that are not known: no fit sees them.
    """

    def __init__(self, probabilities: np.ndarray, truth: np.ndarray):
        self.order = np.argsort(-probabilities.T, axis=1, kind="stable")  # [L, N], numbers of the rows
        self.scores = np.take_along_axis(probabilities.T, self.order, axis=1)
        self.known = np.take_along_axis(known_cells(truth).T, self.order, axis=1)
        self.truth = np.take_along_axis((truth == 1).T, self.order, axis=1).astype(float)
        # Rows with the same score are on the same side: a cut is possible only where the next score is lower.
        self.cuts = np.diff(self.scores, axis=1, append=-np.inf) < 0

    def of_label(self, label: int) -> SortedRows:
        """The rows as they are sorted for one label."""
        one = copy(self)
        for name in ("order", "scores", "known", "truth", "cuts", "logits"):
            setattr(one, name, getattr(self, name)[label : label + 1])
        return one

    @cached_property
    def logits(self) -> np.ndarray:
        """Logits as curves are fitted to them, those far out moved to `MIDDLE`, or to the label's median: `[L, N]`."""
        logits = finite_logit(self.scores)
        median: Any = 0.0
        if self.known.any(axis=1).all():
            known = logits if self.known.all() else np.where(self.known, logits, np.nan)
            median = np.nanmedian(known, axis=1, keepdims=True) if logits.size else 0.0
        return np.clip(logits, np.minimum(-MIDDLE, median), np.maximum(MIDDLE, median))

    @property
    def logits_of_rows(self) -> np.ndarray:
        """The same in the order of the rows: `[N, L]`."""
        logits = np.empty(self.logits.shape)
        np.put_along_axis(logits, self.order, self.logits, axis=1)
        return logits.T

    @cached_property
    def curves(self) -> np.ndarray:
        """Platt's fits on all rows, `[1 + L, 2]`, from where those on most of them are near."""
        return start_curves(self.logits, self.truth, self.known)

    def counts(self, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(true rows, rows)` from the top down to each one, `[F, L, N]` both, among `counted` `[F, L, N]`."""
        return np.cumsum(counted * self.truth, axis=2), np.cumsum(counted, axis=2)

    def best_thresholds(
        self, counted: np.ndarray, hits: np.ndarray, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The threshold of each label with the highest F1, by exact search.

        Args:
            counted: which rows each fit sees, in the order of the scores: `[F, L, N]` of booleans.
            hits: of `counts`.
            numbers: of `counts`.

        Returns:
            `(thresholds, F1)`, both `[F, L]`; `(nan, 0)` where no row is positive, as no threshold is better than
            another then.
        """
        f1 = _f1(hits, numbers)
        f1[:, ~self.cuts] = -1
        cut = np.argmax(f1, axis=2)[..., None]
        best = np.take_along_axis(f1, cut, axis=2)[..., 0]
        upper = np.take_along_axis(np.broadcast_to(self.scores, f1.shape), cut, axis=2)[..., 0]
        lower = _first_below(cut, counted, np.broadcast_to(self.scores, f1.shape))
        return np.where(hits[..., -1] > 0, between(upper, lower), np.nan), np.where(hits[..., -1] > 0, best, 0.0)

    def best_global_thresholds(self, counted: np.ndarray, hits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The one threshold for all labels with the highest macro-F1, by exact search over all scores: `[F]`.

        Going down the scores, each one changes the F1 of its own label only, so macro-F1 is a running sum.

        Args:
            counted: as for `best_thresholds`.
            hits: of `counts`.
            numbers: of `counts`.
        """
        fits = len(counted)
        changes = np.diff(_f1(hits, numbers), axis=2, prepend=0.0).reshape(fits, -1)
        # A stable sort keeps equal scores of a label in their order.
        order = np.argsort(-self.scores.ravel(), kind="stable")
        scores = self.scores.ravel()[order]
        macro_f1 = np.cumsum(changes[:, order], axis=1)
        macro_f1[:, np.diff(scores, append=-np.inf) == 0] = -1
        cut = np.argmax(macro_f1, axis=1)[:, None]
        lower = _first_below(cut, counted.reshape(fits, -1)[:, order], np.broadcast_to(scores, macro_f1.shape))
        return np.where(hits[..., -1].any(axis=1), between(scores[cut[:, 0]], lower), 0.5)


def curves_of_subsets(rows: SortedRows, counted: np.ndarray) -> np.ndarray:
    """Platt's curves of the fits that see the rows `counted` `[F, N]`: slopes and intercepts, `[F, L, 2]`."""
    if counted.shape[1] >= MANY_ROWS:
        return platt_coefficients(*gather_at_nodes(rows.logits, rows.truth, rows.order, counted, rows.known))
    at_a_time = max(1, CELLS_AT_A_TIME // max(1, rows.truth.size))
    parts = [counted[first : first + at_a_time, rows.order] & rows.known for first in range(0, len(counted), at_a_time)]
    return np.concatenate([platt_coefficients(rows.logits, rows.truth, part, start=rows.curves) for part in parts])


def where_calibrated(threshold: float, curves: np.ndarray, calibrated: np.ndarray) -> np.ndarray:
    """Thresholds `[L]` of the probabilities where the calibrated ones reach one threshold.

    Args:
        threshold: of the calibrated probabilities.
        curves: slopes and intercepts, `[L, 2]`.
        calibrated: probabilities of the rows, `[N, L]`, below 0 for cells that are not known.
    """
    slope, intercept = curves[:, 0], curves[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        where = (finite_logit(threshold) - intercept) / slope
    # Scores that say nothing, or the opposite: then all rows are given the label or none, whichever most call for.
    most = 2 * (calibrated >= threshold).sum(axis=0) >= (calibrated >= 0).sum(axis=0)
    return np.where(slope > 0, expit(where), np.where(most, 0.0, 1.0))


def calibrated_thresholds(rows: SortedRows, counted: np.ndarray) -> np.ndarray:
    """Where the calibrated probability of a label is half of the best F1 that these probabilities promise.

    For known probabilities this is the best threshold: Lipton, Elkan and Narayanaswamy, Optimal thresholding of
    classifiers to maximize F1 measure, ECML PKDD 2014. The best F1 is that of the calibrated probabilities of the
    rows themselves, without their truth: if the k highest are given the label, twice the sum of these over k plus the
    sum of all. A curve with two numbers is much less noisy than a threshold read off the rows, if not exactly right.

    Args:
        rows: N of them.
        counted: which of them each fit sees, `[F, L, N]`, in the order of the scores.

    Returns:
        thresholds `[F, L]`.
    """
    curves = platt_coefficients(rows.logits, rows.truth, counted, start=rows.curves)
    slope, intercept = curves[..., 0], curves[..., 1]
    promised = np.cumsum(counted * expit(slope[..., None] * rows.logits + intercept[..., None]), axis=2)
    numbers = np.cumsum(counted, axis=2)
    best = (2 * promised / np.maximum(numbers + promised[..., -1:], EDGE)).max(axis=2)
    last = numbers.shape[2] - 1
    highest = np.take_along_axis(rows.logits, np.argmax(counted, axis=2).T, axis=1).T
    lowest = np.take_along_axis(rows.logits, last - np.argmax(counted[..., ::-1], axis=2).T, axis=1).T
    return _where_half_of_best(best, curves, lowest, highest, numbers[..., -1] > 0)


def thresholds_at_top(
    rows: SortedRows, seen: np.ndarray, positives: np.ndarray, expected: np.ndarray, curves: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """A label's own thresholds and its calibrated ones, `[F]` both, looked for among its highest scores.

    Args:
        rows: of one label.
        seen: which rows each fit sees, in the order of the scores: `[F, N]` of booleans.
        positives: how many of them are true, `[F]`.
        expected: sum of their calibrated probabilities, `[F]`.
        curves: slopes and intercepts, `[F, 2]`.
        top: number of rows, from the highest score on, to look at.

    Returns:
        None if one may lie lower.
    """
    truth, logits = rows.truth[0], rows.logits[0]
    slope, intercept = curves[:, :1], curves[:, 1:]
    numbers = np.cumsum(seen[:, :top], axis=1, dtype=float)
    rest = positives[:, None]
    # Own: as `best_thresholds`. Further down no row can do better than if all true ones had been reached already.
    f1 = 2 * np.cumsum(seen[:, :top] * truth[:top], axis=1) / np.maximum(numbers + rest, 1)
    f1[:, ~rows.cuts[0, :top]] = -1
    cut = np.argmax(f1, axis=1)[:, None]
    best = np.take_along_axis(f1, cut, axis=1)
    # Calibrated: as `calibrated_thresholds`. A row whose probability is less than half of the best F1 lowers it.
    probabilities = expit(slope * logits[:top] + intercept)
    promised = 2 * np.cumsum(seen[:, :top] * probabilities, axis=1) / np.maximum(numbers + expected[:, None], EDGE)
    promised = promised.max(axis=1, keepdims=True)
    if top < len(truth):
        own_is_final = (rest == 0) | (
            (best >= 2 * rest / (numbers[:, -1:] + rest)) & (numbers[:, -1:] > np.take_along_axis(numbers, cut, axis=1))
        )
        other_is_final = (slope <= 0) | (probabilities[:, -1:] <= promised / 2)
        if not (own_is_final & other_is_final).all():
            return None
    scores = np.broadcast_to(rows.scores[0, :top], f1.shape)
    upper = np.take_along_axis(scores, cut, axis=1)[:, 0]
    own = np.where(positives > 0, between(upper, _first_below(cut, seen[:, :top], scores)), np.nan)
    highest = logits[np.argmax(seen, axis=1)]
    lowest = logits[len(truth) - 1 - np.argmax(seen[:, ::-1], axis=1)]
    return own, _where_half_of_best(promised[:, 0], curves, lowest, highest, np.any(seen, axis=1))


def _where_half_of_best(
    best: np.ndarray, curves: np.ndarray, lowest: np.ndarray, highest: np.ndarray, any_row: np.ndarray
) -> np.ndarray:
    """Thresholds where calibrated probabilities are half of the best F1.

    Args:
        best: the F1, `[...]`.
        curves: slopes and intercepts, `[..., 2]`.
        lowest: logit of the lowest row, `[...]`.
        highest: of the highest.
        any_row: whether there are rows; 0.5 where not.
    """
    slope, intercept = curves[..., 0], curves[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        where = (finite_logit(best / 2) - intercept) / slope
    # Scores that say nothing, or the opposite: then all rows are given the label, which is 1 below the lowest.
    where = np.where(slope > 0, np.clip(where, lowest - 1, highest), lowest - 1)
    return np.where(any_row, expit(where), 0.5)


def _f1(hits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """F1 of a label if the rows down to each one are given it, `[..., N]`; see `SortedRows.counts`."""
    f1 = 2 * hits
    f1 /= np.maximum(numbers + hits[..., -1:], 1)
    return f1


def _first_below(cut: np.ndarray, counted: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The score of the first counted row below a cut, 0 where there is none: `[...]`.

    Args:
        cut: `[..., 1]`.
        counted: `[..., N]` of booleans.
        scores: `[..., N]`, falling.
    """
    below = counted & (np.arange(counted.shape[-1]) > cut)
    first = np.argmax(below, axis=-1)[..., None]
    score = np.take_along_axis(scores, first, axis=-1)[..., 0]
    return np.where(np.take_along_axis(below, first, axis=-1)[..., 0], score, 0.0)
