import numpy as np
import pytest
from sklearn import metrics

from utils.scoring.evaluation import evaluate
from utils.scoring.metrics import MultiLabelMetric
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
PREDICTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]])
SCORES = np.array([[0.9, 0.2, 0.1], [0.4, 0.8, 0.3], [0.1, 0.2, 0.3], [0.6, 0.7, 0.2]])


def compute():
    metric = MultiLabelMetric(keep_in_memory=True)
    return metric.compute(predictions=PREDICTIONS, scores=SCORES, references=TRUTH, label_names=["a", "b", "c"])


def test_scores_by_hand():
    scores = compute()
    assert scores["f1/a"] == pytest.approx(0.5)
    assert scores["f1/b"] == pytest.approx(1.0)
    assert scores["f1/c"] == 0  # neither present nor predicted
    assert scores["f1_macro"] == pytest.approx(0.5)
    assert scores["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    # Rows: right; one of two; no label and none given, which is right; one too many.
    assert scores["jaccard"] == pytest.approx((1 + 1 / 2 + 1 + 1 / 2) / 4)
    assert scores["f1_samples"] == pytest.approx((1 + 2 / 3 + 1 + 2 / 3) / 4)
    assert scores["exact_match"] == pytest.approx(0.5)
    assert scores["support/a"] == 2


def test_ranking_scores():
    scores = compute()
    precisions = [metrics.average_precision_score(TRUTH[:, i], SCORES[:, i]) for i in (0, 1)]
    assert scores["map"] == pytest.approx(np.mean(precisions))
    assert scores["lrap"] == pytest.approx(metrics.label_ranking_average_precision_score(TRUTH, SCORES))


def test_evaluation_has_both_figures_and_never_the_flattering_one():
    rng = np.random.default_rng(1)
    labels = (rng.random((120, 4)) < [0.4, 0.2, 0.1, 0.05]).astype(np.int8)
    probabilities = np.clip(0.3 * labels + 0.5 * rng.random(labels.shape), 0, 1)
    ids = [str(i) for i in range(120)]
    rows = Predictions(list("abcd"), ids, truth=labels, probabilities=probabilities, groups=np.arange(120))
    result = evaluate(rows, ThresholdRule("per_label", 0))
    at_half = metrics.f1_score(labels, probabilities >= 0.5, average="macro", zero_division=0.0)
    on_itself = metrics.f1_score(labels, probabilities >= result.thresholds.values, average="macro", zero_division=0.0)
    assert result.metrics["f1_macro"] == pytest.approx(at_half)
    assert result.metrics["f1_macro_tuned"] < on_itself
    assert on_itself not in result.metrics.values()
    per_label = np.mean([result.metrics[f"f1/{name}"] for name in "abcd"])
    assert per_label == pytest.approx(result.metrics["f1_macro_tuned"])
    fixed = evaluate(rows, ThresholdRule("fixed", 0))
    assert "f1_macro_tuned" not in fixed.metrics
    assert fixed.metrics["f1_macro"] == pytest.approx(at_half)
