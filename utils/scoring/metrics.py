"""Multi-label scores: of probabilities, and of 0/1 predictions."""

from statistics import fmean
from typing import Any

import numpy as np

from utils.scoring.scores import OF_PREDICTIONS, OF_PROBABILITIES, PER_LABEL, Counts, f1_per_label, ratio


def probability_scores(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The scores of probabilities `[N, L]`, given 0/1 truth `[N, L]`."""
    return {score.name: _plain(score.compute(truth, probabilities)) for score in OF_PROBABILITIES}


def prediction_scores(truth: np.ndarray, predictions: np.ndarray, label_names: list[str]) -> dict[str, float]:
    """The scores of 0/1 predictions, and `precision/x`, `recall/x`, `f1/x`, `support/x` of each label x.

    Args:
        truth: 0/1 array `[N, L]`.
        predictions: 0/1 array `[N, L]`.
        label_names: `[L]`.
    """
    results = {score.name: score.compute(truth, predictions) for score in OF_PREDICTIONS}
    counts = Counts.over(0, truth, predictions)
    precision, recall = (ratio(counts.right, of, 0.0) for of in (counts.predicted, counts.true))
    per_label = (precision, recall, f1_per_label(truth, predictions), counts.true)
    for i, label in enumerate(label_names):
        results |= {f"{name}/{label}": values[i] for name, values in zip(PER_LABEL, per_label)}
    return {name: _plain(value) for name, value in results.items()}


def mean_scores(truth: np.ndarray, decisions: np.ndarray, label_names: list[str]) -> dict[str, float]:
    """The mean of `prediction_scores` over P sets of predictions for the same rows.

    Args:
        truth: 0/1 array `[N, L]`.
        decisions: 0/1 array `[P, N, L]`, as `Predictions.decide` gives it.
        label_names: `[L]`.
    """
    each = [prediction_scores(truth, predictions, label_names) for predictions in decisions]
    # What is the same in all of them, as the support is, stays what it is.
    return {
        name: value if len({one[name] for one in each}) == 1 else fmean(one[name] for one in each)
        for name, value in each[0].items()
    }


def _plain(value: Any) -> Any:
    """A Python number: Trainer's state and the result files are JSON, which knows no numpy numbers."""
    return value.item() if isinstance(value, np.generic) else value
