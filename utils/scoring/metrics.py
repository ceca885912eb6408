"""Multi-label scores, computed by scikit-learn, as an `evaluate.Metric` that needs no hub."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from utils.scoring.scores import PER_LABEL, SCORES

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

    def _compute(  # ty: ignore[incompatible-method-override] (what `compute` gets is known: all of it, by name)
        self, predictions: Any, scores: Any, references: Any, label_names: list[str]
    ) -> dict[str, float]:
        predictions, probabilities, truth = np.asarray(predictions), np.asarray(scores), np.asarray(references)
        results = {
            score.name: score.compute(truth, probabilities if score.of_probabilities else predictions)
            for score in SCORES
        }
        per_label = precision_recall_fscore_support(truth, predictions, average=None, zero_division=0.0)
        for i, label in enumerate(label_names):
            results |= {f"{name}/{label}": values[i] for name, values in zip(PER_LABEL, per_label)}
        # Trainer's state and the result files are JSON, which knows no numpy numbers.
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in results.items()}
