"""How much of a score, or of a difference of scores, is luck of the rows: the bootstrap.

Percentile intervals: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Paired comparison of two
systems on the same rows: Koehn, Statistical significance tests for machine translation evaluation, EMNLP 2004;
Berg-Kirkpatrick, Burkett and Klein, An empirical investigation of statistical significance in NLP, EMNLP 2012.

What is drawn anew is the rows, and the rows alone. The luck of the training (seed, order of the batches) is not in
these intervals: train several seeds to see it. Rows count as independent: near-duplicates make intervals too narrow.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
SCORES = ("f1_macro", "f1_micro", "jaccard")
# Cells of the weight matrix [resamples, N] held at a time: 64 MiB as float32.
CELLS_AT_A_TIME = 2**24


@dataclass
class Resampled:
    """Scores of `B` resamples of the rows; `f1` is `[B, L]`, the others `[B]`."""

    f1_macro: np.ndarray
    f1_micro: np.ndarray
    jaccard: np.ndarray
    f1: np.ndarray


def _scores(weights, hits, sizes, jaccard):
    """Scores where row n counts `weights[b, n]` times.

    Args:
        weights: float array `[B, N]`.
        hits: `[N, L]`, 1 where a label is both true and predicted.
        sizes: `[N, L]`, true + predicted, so that F1 = 2 hits / sizes.
        jaccard: `[N]`.
    """
    hits, sizes = weights @ hits, weights @ sizes
    f1 = np.divide(2 * hits, sizes, out=np.zeros(sizes.shape), where=sizes > 0)
    hits, sizes = hits.sum(axis=1), sizes.sum(axis=1)
    micro = np.divide(2 * hits, sizes, out=np.zeros(sizes.shape), where=sizes > 0)
    return Resampled(f1.mean(axis=1), micro, weights @ jaccard / weights.sum(axis=1), f1)


def _counts(truth, predictions, dtype):
    truth, predictions = np.asarray(truth, dtype=bool), np.asarray(predictions, dtype=bool)
    if truth.shape != predictions.shape:
        raise ValueError(f"truth has the shape {truth.shape}, the predictions {predictions.shape}")
    union = (truth | predictions).sum(axis=1)
    # A row with no label that is given none counts 1, as in utils.scoring.metrics.
    jaccard = np.divide((truth & predictions).sum(axis=1), union, out=np.ones(len(union)), where=union > 0)
    return (truth & predictions).astype(dtype), truth.astype(dtype) + predictions, jaccard.astype(dtype)


def plain_scores(truth, predictions):
    """Scores of 0/1 predictions `[N, L]` on all rows as they are.

    Returns:
        dict with `f1_macro`, `f1_micro`, `jaccard` (floats, as `utils.scoring.metrics` defines them) and `f1` (`[L]`).
    """
    counts = _counts(truth, predictions, float)
    scores = _scores(np.ones((1, len(counts[0]))), *counts)
    overall = {name: float(getattr(scores, name)[0]) for name in SCORES}
    return overall | {"f1": scores.f1[0]}


def resample(truth, predictions, resamples, seed):
    """Scores of 0/1 predictions `[N, L]` on `resamples` draws of N rows with replacement.

    The draws depend on N, `resamples` and `seed` alone: two calls with other predictions for the same rows in the same
    order see the same draws, which is what makes a comparison of the two a paired one.
    """
    counts = _counts(truth, predictions, np.float32)
    rows = len(counts[0])
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, max(1, CELLS_AT_A_TIME // rows)):
        draws = min(resamples - start, max(1, CELLS_AT_A_TIME // rows))
        # How often each row is drawn: a multinomial, counted from row numbers, which is faster than drawing it.
        drawn = rng.integers(rows, size=(draws, rows)) + rows * np.arange(draws)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float32)
        parts.append(_scores(weights, *counts))
    names = Resampled.__dataclass_fields__
    return Resampled(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def interval(values, level=LEVEL):
    """Percentile interval over the first axis of resampled values: `(low, high)`, floats or arrays."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)


@dataclass
class Difference:
    """A score minus that of another system on the same rows.

    `p_value`: two-sided, twice the share of resamples in which the difference has the other sign or is 0, with one
    counted on top, so that it is never 0; 1 for systems that predict the same.
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def is_noise(self):
        """Whether 0 lies in the interval: other rows could as well have shown no difference, or the opposite one."""
        return self.low <= 0 <= self.high


def paired_difference(value, other, values, others, level=LEVEL):
    """Compare two systems from their scores on all rows and those of the same resamples, `[B]` each."""
    differences = np.asarray(values) - np.asarray(others)
    low, high = interval(differences, level)
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return Difference(value - other, low, high, float(min(1.0, 2 * (tail + 1) / (len(differences) + 1))))


def paired_bootstrap(truth, predictions, other_predictions, resamples, seed, score="f1_macro", level=LEVEL):
    """`Difference` in `score` of two 0/1 predictions `[N, L]` for the same rows, in the same order.

    `score`: `f1_macro`, `f1_micro` or `jaccard`.
    """
    values = [plain_scores(truth, array)[score] for array in (predictions, other_predictions)]
    drawn = [getattr(resample(truth, array, resamples, seed), score) for array in (predictions, other_predictions)]
    return paired_difference(*values, *drawn, level)
