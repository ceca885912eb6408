"""Probabilities that say how often they are right: Platt's fit of each label.

Platt, Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods, in: Advances
in Large Margin Classifiers, 1999.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from utils.scoring.scores import known_cells

RIDGE = 5.0
# Of probabilities, so that those of 0 and 1 have a logit.
EDGE = 1e-12
NEWTON_STEPS = 200
# So short a step is the last one: the error that it leaves is about its square.
NEARLY = 1e-6
# The logarithm of a probability of 0 is that of this.
LEAST = 1e-300
# Fits on many rows: width in logits of the intervals that rows are gathered in, and nodes of each. A curve of slope 4
# is interpolated with an error of 3e-9 there, one of slope 1 of 5e-14. The number of rows from which on
# this is done.
INTERVAL = 0.25
NODES = 8
MANY_ROWS = 10_000


def finite_logit(probabilities: np.ndarray | float) -> np.ndarray:
    """The logit of probabilities, those next to 0 and 1 moved to where it is finite."""
    return logit(np.clip(np.asarray(probabilities, dtype=float), EDGE, 1 - EDGE))


@dataclass(frozen=True)
class Platt:
    """A logistic curve of each label: the probability of yes is `expit(slope * logit(p) + intercept)`.

    Args:
        slopes: `[L]`.
        intercepts: `[L]`.
    """

    slopes: np.ndarray
    intercepts: np.ndarray

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `[N, L]`."""
        return expit(self.slopes * finite_logit(probabilities) + self.intercepts)


def fit_platt(probabilities: np.ndarray, truth: np.ndarray, ridge: float = RIDGE) -> Platt:
    """Fit the curve of each label, pulled towards that of all labels together: rare labels have little to say.

    Args:
        probabilities: `[N, L]`.
        truth: 0/1 array `[N, L]`, NaN for cells that are not known and do not count.
        ridge: strength of the pull, `ridge / 2` times the squared distance from the pooled slope and intercept, which
            are pulled as much towards 1 and 0.
    """
    truth = np.asarray(truth)
    x, y = finite_logit(probabilities).T, (truth == 1).T.astype(float)
    known = known_cells(truth).T
    counted = known[None].astype(float)
    if len(truth) >= MANY_ROWS:
        order = np.argsort(-x, axis=1)
        x, y, known = (np.take_along_axis(array, order, axis=1) for array in (x, y, known))
        x, y, counted = gather_at_nodes(x, y, order, np.ones((1, len(truth)), dtype=bool), known)
    curves = platt_coefficients(x, y, counted, ridge)[0]
    return Platt(curves[:, 0], curves[:, 1])


def platt_coefficients(
    x: np.ndarray, y: np.ndarray, counted: np.ndarray, ridge: float = RIDGE, start: np.ndarray | None = None
) -> np.ndarray:
    """The curves of F fits, each on some of the rows. The rows of each label may be in an order of its own.

    Args:
        x: logits `[L, N]`.
        y: truth `[L, N]`.
        counted: how often each fit counts a row, `[F, L, N]`.
        ridge: see `fit_platt`.
        start: curves to start from, `[1 + L, 2]`, the pooled one first, as `start_curves` gives them.

    Returns:
        slopes and intercepts, `[F, L, 2]`.
    """
    fits, labels, rows = counted.shape
    identity = np.broadcast_to([1.0, 0.0], (fits, 1, 2))
    pooled_start = identity if start is None else np.broadcast_to(start[:1], (fits, 1, 2))
    flat = (x.reshape(1, -1), y.reshape(1, -1), counted.reshape(fits, 1, labels * rows))
    pooled = fit_logistic(*flat, ridge, identity, pooled_start)
    towards = np.broadcast_to(pooled, (fits, labels, 2))
    label_start = towards if start is None else np.broadcast_to(start[1:], (fits, labels, 2))
    return fit_logistic(x, y, counted, ridge, towards, label_start)


def start_curves(x: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The pooled curve of all rows and those of the labels, `[1 + L, 2]`: next to those of most of the rows.

    Args:
        x: logits `[L, N]`.
        y: truth `[L, N]`.
        known: which cells count, `[L, N]` of booleans.
    """
    everything = known[None].astype(float)
    identity = np.array([[[1.0, 0.0]]])
    flat = (x.reshape(1, -1), y.reshape(1, -1), everything.reshape(1, 1, -1))
    pooled = fit_logistic(*flat, RIDGE, identity, identity)
    towards = np.broadcast_to(pooled, (1, len(x), 2))
    return np.concatenate([pooled[0], fit_logistic(x, y, everything, RIDGE, towards, towards)[0]])


def fit_logistic(
    x: np.ndarray, y: np.ndarray, counted: np.ndarray, ridge: float, towards: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Logistic regressions on one variable, by Newton's method, F times L at once.

    The ridge makes each of them strictly convex, so that there is one solution for any rows. A step that does not bring
    the cost down is halved until it does, as a short enough one must.

    Args:
        x: `[L, N]`.
        y: 0 or 1, `[L, N]`.
        counted: weights of the rows, `[F, L, N]`.
        ridge: above 0; `ridge / 2` times the squared distance from `towards` is added to the negative log-likelihood.
        towards: slopes and intercepts `[F, L, 2]`.
        start: likewise, where to begin.

    Returns:
        slopes and intercepts, `[F, L, 2]`.
    """
    powers = np.stack([x * x, x, np.ones_like(x)], axis=-1)  # [L, N, 3]
    sign = 2 * y - 1
    signed = sign[..., None] * powers[..., 1:]
    best, least = np.array(start, dtype=float), np.full(counted.shape[:2], np.inf)
    step, scale = np.zeros_like(best), np.ones(counted.shape[:2])
    for _ in range(NEWTON_STEPS):
        curve = best - scale[..., None] * step
        right = expit(sign * (curve[..., :1] * x + curve[..., 1:]))  # probability of what is true
        cost = -(counted * np.log(np.maximum(right, LEAST))).sum(axis=-1)
        cost += ridge / 2 * np.square(curve - towards).sum(axis=-1)
        # What differs by rounding alone counts as lower, so that the last steps are not refused.
        better = cost <= least + 1e-12 * np.abs(np.where(np.isinf(least), 0, least))
        missing = counted * (1 - right)
        slope = ridge * (curve - towards) - _moments(missing, signed)
        xx, x_one, one = np.moveaxis(_moments(missing * right, powers), -1, 0)
        xx, one = xx + ridge, one + ridge
        determinant = xx * one - x_one * x_one
        newton = np.stack([one * slope[..., 0] - x_one * slope[..., 1], xx * slope[..., 1] - x_one * slope[..., 0]], -1)
        newton /= determinant[..., None]
        step = np.where(better[..., None], newton, step)
        best = np.where(better[..., None], curve, best)
        least = np.where(better, cost, least)
        scale = np.where(better, 1.0, scale / 2)
        if (np.abs(step) * scale[..., None] < NEARLY).all():
            break
    return best - scale[..., None] * step


def _moments(weights: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Sums over the rows of weights `[F, L, N]` times `[L, N, P]`: `[F, L, P]`."""
    return np.matmul(weights.transpose(1, 0, 2), powers).transpose(1, 0, 2)


def gather_at_nodes(
    x: np.ndarray, y: np.ndarray, order: np.ndarray, counted: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A few hundred rows with weights that give F fits the curves of many rows: arguments of `platt_coefficients`.

    Rows enter a fit by sums of smooth functions of their logit. In a short interval such a function is a polynomial of
    its values at a few fixed nodes, so each row counts as these nodes with the weights of Lagrange interpolation.

    Args:
        x: logits `[L, N]`, falling.
        y: truth `[L, N]`.
        order: number of the row of each place, `[L, N]`.
        counted: which rows each fit sees, `[F, N]` of booleans.
        known: which cells count, `[L, N]` of booleans, in the order of the logits.

    Returns:
        logits `[L, M]`, truth `[L, M]`, and weights `[F, L, M]`.
    """
    fits = counted.astype(float)
    top, intervals = float(x.max()), max(1, int(np.ceil((x.max() - x.min()) / INTERVAL)))
    nodes = np.cos((2 * np.arange(NODES) + 1) * np.pi / (2 * NODES))  # Chebyshev's, in [-1, 1]
    from_moments = np.linalg.inv(np.vander(nodes, increasing=True).T)
    centres = top - (np.arange(intervals) + 0.5) * INTERVAL
    weights = np.zeros((len(fits), len(x), 2, intervals, NODES))  # 2: rows that are not true, rows that are
    for label in range(len(x)):
        ends = len(x[label]) - np.searchsorted(x[label, ::-1], centres - INTERVAL / 2, side="right")
        ends[-1] = len(x[label])
        for k, (begin, end) in enumerate(zip([0, *ends[:-1]], ends)):
            if begin == end:
                continue
            seen = fits[:, order[label, begin:end]] * known[label, begin:end]
            true = seen * y[label, begin:end]
            powers = np.vander((x[label, begin:end] - centres[k]) / (INTERVAL / 2), NODES, increasing=True)
            weights[:, label, :, k] = np.stack([seen - true, true], axis=1) @ powers @ from_moments.T
    logits = (centres[:, None] + nodes * (INTERVAL / 2)).ravel()
    size = len(logits)
    return (
        np.tile(logits, (len(x), 2)),
        np.tile(np.repeat([0.0, 1.0], size), (len(x), 1)),
        weights.reshape(len(fits), len(x), 2 * size),
    )
