import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from utils.scoring import scores
from utils.scoring.evaluation import evaluate, metric_names, summary_table
from utils.scoring.metrics import prediction_scores, probability_scores
from utils.scoring.notes import interval_figures
from utils.scoring.predictions import Predictions
from utils.scoring.scores import left_out
from utils.scoring.thresholds import ThresholdRule

TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
PREDICTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]])
SCORES = np.array([[0.9, 0.2, 0.1], [0.4, 0.8, 0.3], [0.1, 0.2, 0.3], [0.6, 0.7, 0.2]])


def compute():
    return prediction_scores(TRUTH, PREDICTIONS, ["a", "b", "c"]) | probability_scores(TRUTH, SCORES)


def test_scores_by_hand():
    found = compute()
    assert found["f1/a"] == pytest.approx(0.5)
    assert found["f1/b"] == pytest.approx(1.0)
    assert found["f1/c"] == 0  # neither present nor predicted
    assert found["f1_macro"] == pytest.approx(0.5)
    assert found["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    # Rows: right; one of two; no label and none given, which is right; one too many.
    assert found["jaccard"] == pytest.approx((1 + 1 / 2 + 1 + 1 / 2) / 4)
    assert found["f1_samples"] == pytest.approx((1 + 2 / 3 + 1 + 2 / 3) / 4)
    assert found["exact_match"] == pytest.approx(0.5)
    assert found["support/a"] == 2


def test_ranking_scores():
    found = compute()
    precisions = [metrics.average_precision_score(TRUTH[:, i], SCORES[:, i]) for i in (0, 1)]
    assert found["map"] == pytest.approx(np.mean(precisions))
    assert found["lrap"] == pytest.approx(metrics.label_ranking_average_precision_score(TRUTH, SCORES))


@given(
    hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(2, 4)), elements=st.integers(0, 1)),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_roc_auc_is_the_share_of_pairs_in_the_right_order(truth, seed):
    scores = np.random.default_rng(seed).integers(0, 4, truth.shape) / 4  # coarse, so that ties are common

    def by_pairs(labels, values):
        pairs = [(p > n) + 0.5 * (p == n) for p in values[labels == 1] for n in values[labels == 0]]
        return np.mean(pairs) if pairs else None

    areas = [area for area in map(by_pairs, truth.T, scores.T) if area is not None]
    labels = list("abcd"[: truth.shape[1]])
    found = probability_scores(truth, scores)
    assert found["roc_auc_macro"] == pytest.approx(np.mean(areas) if areas else 0.5)
    whole = by_pairs(truth.ravel(), scores.ravel())
    assert found["roc_auc_micro"] == pytest.approx(0.5 if whole is None else whole)
    left = left_out(truth).get("left_out/roc_auc_macro", 0)
    assert left == len(labels) - len(areas)


@given(
    hnp.arrays(np.int8, st.tuples(st.integers(1, 12), st.integers(2, 4)), elements=st.integers(0, 1)),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=100)
def test_scores_are_those_of_scikit_learn(truth, seed):
    rng = np.random.default_rng(seed)
    predictions, probabilities = rng.integers(0, 2, truth.shape), rng.integers(0, 4, truth.shape) / 4
    found = prediction_scores(truth, predictions, list(range(truth.shape[1]))) | probability_scores(
        truth, probabilities
    )
    wanted = {
        "f1_macro": metrics.f1_score(truth, predictions, average="macro", zero_division=0.0),
        "f1_micro": metrics.f1_score(truth, predictions, average="micro", zero_division=0.0),
        "f1_samples": metrics.f1_score(truth, predictions, average="samples", zero_division=1.0),
        "jaccard": metrics.jaccard_score(truth, predictions, average="samples", zero_division=1.0),
        "exact_match": metrics.accuracy_score(truth, predictions),
        "lrap": metrics.label_ranking_average_precision_score(truth, probabilities),
    }
    per_label = metrics.precision_recall_fscore_support(truth, predictions, average=None, zero_division=0.0)
    for name, values in zip(("precision", "recall", "f1", "support"), per_label):
        wanted |= {f"{name}/{i}": value for i, value in enumerate(values)}
    present = truth.any(axis=0)
    if present.any():
        wanted["map"] = metrics.average_precision_score(truth[:, present], probabilities[:, present])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


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
    partitions = ThresholdRule("per_label", 0).cross_fit(probabilities, labels, np.arange(120))
    each = [metrics.f1_score(labels, one, average="macro", zero_division=0.0) for one in partitions]
    assert (len(each), np.ptp(each) > 0) == (10, True)  # it hangs on the partition, so the score is the mean of ten
    assert result.metrics["f1_macro_tuned"] == pytest.approx(np.mean(each))
    fixed = evaluate(rows, ThresholdRule("fixed", 0))
    assert "f1_macro_tuned" not in fixed.metrics
    assert fixed.metrics["f1_macro"] == pytest.approx(at_half)


def test_labels_that_a_score_leaves_out_are_named():
    truth = np.column_stack([TRUTH, np.ones(4, dtype=int)])  # c is never true, d always
    rows = Predictions(list("abcd"), list("1234"), list("wxyz"), truth, np.random.default_rng(0).random(truth.shape))
    evaluation = evaluate(rows, ThresholdRule("fixed", 0))
    assert evaluation.metrics["left_out/map"] == 1
    assert evaluation.metrics["left_out/roc_auc_macro"] == 2
    assert "mAP is the mean without the labels that no row has: 1 left out." in summary_table(evaluation.metrics)
    whole = evaluate(rows.in_order(["a", "b"]), ThresholdRule("fixed", 0))
    assert not [name for name in whole.metrics if name.startswith("left_out")]
    assert "left out" not in summary_table(whole.metrics)


def test_every_score_of_the_table_is_in_an_evaluation_and_has_its_interval():
    rows = Predictions(list("abc"), list("1234"), list("wxyz"), TRUTH, SCORES)
    evaluation = evaluate(rows, ThresholdRule("global", 0))
    names = {name for name in evaluation.metrics if not name.endswith("_half_width") and "left_out" not in name}
    assert names == metric_names(list("abc"), ThresholdRule("global", 0))
    ends = interval_figures(evaluation)
    for score in scores.SCORES:
        for kind in [""] if score.of_probabilities else ["", "_tuned"]:
            name = f"{score.name}{kind}"
            assert ends[f"eval_{name}_low"] <= evaluation.metrics[name] <= ends[f"eval_{name}_high"]
    assert {f"eval_{name}_low/{label}" for name in ("precision", "recall", "f1") for label in "abc"} < ends.keys()
    assert all(score.title in summary_table(evaluation.metrics) for score in scores.SCORES)
