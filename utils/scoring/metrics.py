"""Multi-label scores, computed by scikit-learn, as an `evaluate.Metric` that needs no hub."""

from statistics import fmean
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from utils.scoring.scores import OF_PREDICTIONS, OF_PROBABILITIES, PER_LABEL, SCORES

DESCRIPTION = (
    "Scores for multi-label classification from 0/1 predictions and from probabilities: "
    + ", ".join(f"{score.name} ({score.title})" for score in SCORES)
    + "; and precision/x, recall/x, f1/x, support/x of each label x."
)


class MultiLabelMetric(evaluate.Metric):
    """`compute(predictions=[N, L] of 0/1, scores=[N, L], references=[N, L] of 0/1, label_names=[L])`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("int8")),
                    "scores": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int8")),
                }
            ),
        )

    def _compute(self, predictions: Any, scores: Any, references: Any, label_names: list[str]) -> dict[str, float]:
        predictions, probabilities, truth = np.asarray(predictions), np.asarray(scores), np.asarray(references)
        results = {score.name: _plain(score.compute(truth, probabilities)) for score in OF_PROBABILITIES}
        return results | prediction_scores(truth, predictions, label_names)


def prediction_scores(truth: np.ndarray, predictions: np.ndarray, label_names: list[str]) -> dict[str, float]:
    """The scores of 0/1 predictions, and `precision/x`, `recall/x`, `f1/x`, `support/x` of each label x.

    Args:
        truth: 0/1 array `[N, L]`.
        predictions: 0/1 array `[N, L]`.
        label_names: `[L]`.
    """
    results = {score.name: score.compute(truth, predictions) for score in OF_PREDICTIONS}
    per_label = precision_recall_fscore_support(truth, predictions, average=None, zero_division=0.0)
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
