"""Whether probabilities say how often they are right, before and after they are calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.scoring.bootstrap import RESAMPLES, SEED, draw_weights, interval
from utils.scoring.calibration import fit_platt
from utils.scoring.scores import known_cells
from utils.scoring.thresholds import random_parts

BINS = 10


@dataclass
class Reliability:
    """Cells of all labels together, in bins of equal width by their probability.

    Args:
        predicted: mean probability of each bin, `[bins]`, NaN where it is empty.
        true: share of true cells, likewise.
        counts: number of cells.
        error: the expected calibration error: the mean distance of probability and truth over the bins, weighted by
            their cells (Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning,
            AAAI 2015).
        low: of its 95 % interval over the rows.
        high: likewise.
    """

    predicted: np.ndarray
    true: np.ndarray
    counts: np.ndarray
    error: float
    low: float
    high: float


def reliability(
    truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray | None = None, bins: int = BINS
) -> Reliability:
    """Group cells by their probability.

    Args:
        truth: 0/1, `[N, L]`, NaN for cells that are not known and do not count.
        probabilities: `[N, L]`.
        groups: `[N]`, equal for near-duplicates, which are drawn together.
        bins: number of bins.
    """
    truth, probabilities = np.asarray(truth, dtype=float), np.asarray(probabilities, dtype=float)
    known = known_cells(truth)
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(which[known], minlength=bins)
    sums = [np.bincount(which[known], weights=values[known], minlength=bins) for values in (probabilities, truth)]
    predicted, true = (np.divide(s, counts, out=np.full(bins, np.nan), where=counts > 0) for s in sums)
    error = float(np.abs(sums[0] - sums[1]).sum() / counts.sum())
    # How far each row pulls the sums of each bin apart: [N, bins].
    cells = which + bins * np.arange(len(truth))[:, None]
    apart = np.bincount(cells[known], weights=(probabilities - truth)[known], minlength=bins * len(truth))
    apart = apart.reshape(len(truth), bins).astype(np.float32)
    drawn = np.concatenate(
        [
            np.abs(weights @ apart).sum(axis=1) / (weights @ known.sum(axis=1).astype(np.float32))
            for weights in draw_weights(len(truth), RESAMPLES, SEED, groups)
        ]
    )
    return Reliability(predicted, true, counts, error, *interval(drawn, error))


def calibrate_out_of_sample(probabilities: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Calibrated probabilities `[N, L]`, each row by curves that were fitted without it and its near-duplicates.

    Args:
        probabilities: `[N, L]`.
        truth: 0/1, `[N, L]`.
        groups: `[N]`, equal for near-duplicates.
    """
    parts, calibrated = random_parts(groups), np.empty(np.shape(probabilities))
    for part in np.unique(parts):
        out = parts == part
        seen = ~out if (~out).any() else out  # of near-duplicates alone, which are all there is
        calibrated[out] = fit_platt(probabilities[seen], truth[seen]).apply(probabilities[out])
    return calibrated
