"""Multi-label scores, computed by scikit-learn, as an `evaluate.Metric` that needs no hub."""

import warnings

import datasets
import evaluate
import numpy as np
from sklearn import metrics

DESCRIPTION = """\
Scores for multi-label classification from 0/1 predictions and from probabilities.

f1_macro: mean of the labels' F1s, a label neither present nor predicted counting 0.
f1_micro: F1 over all cells.
f1_samples, jaccard: mean over the rows, a row with no label that is given none counting 1. jaccard is what SemEval-2018
E-c calls accuracy.
exact_match: share of the rows with every cell right.
map: mean over the labels with a positive row of the average precision; lrap: label ranking average precision.
precision/x, recall/x, f1/x, support/x: of label x.
"""


class MultiLabelMetric(evaluate.Metric):
    """`compute(predictions=[N, L] of 0/1, scores=[N, L], references=[N, L] of 0/1, label_names=[L])`."""

    def _info(self):
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

    def _compute(self, predictions, scores, references, label_names):
        predictions, scores, truth = np.asarray(predictions), np.asarray(scores), np.asarray(references)
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            truth, predictions, average=None, zero_division=0.0
        )
        present = truth.any(axis=0)
        with warnings.catch_warnings():
            # A row whose cells are all 0 or all 1 has no ranking to get wrong: scikit-learn counts it as 1 and warns.
            warnings.simplefilter("ignore")
            lrap = metrics.label_ranking_average_precision_score(truth, scores)
        results = {
            "f1_macro": f1.mean(),
            "f1_micro": metrics.f1_score(truth, predictions, average="micro", zero_division=0.0),
            "f1_samples": metrics.f1_score(truth, predictions, average="samples", zero_division=1.0),
            "jaccard": metrics.jaccard_score(truth, predictions, average="samples", zero_division=1.0),
            "exact_match": metrics.accuracy_score(truth, predictions),
            "map": metrics.average_precision_score(truth[:, present], scores[:, present]) if present.any() else 0.0,
            "lrap": lrap,
        }
        for i, name in enumerate(label_names):
            results |= {f"precision/{name}": precision[i], f"recall/{name}": recall[i], f"f1/{name}": f1[i]}
            results[f"support/{name}"] = support[i]
        # Trainer state and the result files are JSON: no numpy numbers.
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in results.items()}
