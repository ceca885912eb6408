"""Simple methods beside a model: what they score, how the difference is told, and that they stay cheap."""

import time

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from conftest import scikit_learn
from utils.doctor.baselines import (
    FREQUENT,
    LINEAR,
    baseline_table,
    check_baselines,
    compare_with_baselines,
    frequent_labels,
    linear_at_chance,
    predict_linearly,
    training_rows,
)
from utils.scoring.bootstrap import plain_scores
from utils.scoring.predictions import Predictions
from utils.scoring.scores import by_name
from utils.scoring.thresholds import ThresholdRule

WORDS = ["rain", "sun", "train", "bread", "match", "exam"]


def sentences(number, seed, noise=0.1, labels=3):
    """`(texts, truth)`: a word tells each label, most of the time."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((number, labels)) < [0.5, 0.3, 0.2][:labels]).astype(np.int8)
    told = np.where(rng.random(truth.shape) < noise, 1 - truth, truth)
    words = [[WORDS[i] if yes else "and" for i, yes in enumerate(row)] + [f"word{rng.integers(500)}"] for row in told]
    return [" ".join(row) for row in words], truth


def compare(model, rule="calibrated", seed=0):
    """The rows of a comparison, where a model gives the truth `[N, L]` of the validation rows these probabilities."""
    train, validation = sentences(300, seed), sentences(200, seed + 1)
    predictions = Predictions(list("abc"), [str(i) for i in range(200)], validation[0], validation[1])
    predictions.probabilities = model(validation[1], np.random.default_rng(5))
    decided = predictions.decide(ThresholdRule(rule))["_tuned" if rule != "fixed" else ""]
    return predictions, decided, compare_with_baselines(predictions, decided, ThresholdRule(rule), *train)


def good(truth, rng):
    return np.clip(truth * 0.9 + 0.05 + rng.normal(size=truth.shape) * 0.01, 0, 1)


def poor(truth, rng):
    return np.clip(0.3 + truth * 0.02 + rng.normal(size=truth.shape) * 0.1, 0, 1)


@pytest.mark.parametrize("rule", ["calibrated", "fixed"])
def test_scores_beside_the_model(rule):
    predictions, decided, (model, frequent, linear) = compare(good, rule)
    assert [row["name"] for row in (model, frequent, linear)] == ["this model", FREQUENT, LINEAR]
    expected = np.mean([scikit_learn(predictions.truth, one)["f1_macro"] for one in decided])
    assert model["f1_macro"]["value"] == pytest.approx(expected)
    assert 0.7 < linear["f1_macro"]["value"] < model["f1_macro"]["value"]
    for row in (frequent, linear):
        for score in ("f1_macro", "f1_micro", "jaccard"):
            cell = row[score]
            assert cell["difference"] == pytest.approx(model[score]["value"] - cell["value"])
            assert cell["low"] <= cell["difference"] <= cell["high"]
            assert cell["value_low"] <= cell["value"] <= cell["value_high"]
    low, high = (linear["f1_macro"][f"value_{end}"] for end in ("low", "high"))
    assert 0.02 < high - low < 0.2
    assert f" [{low:.3f}, {high:.3f}]" in baseline_table([model, frequent, linear])[1][2][1]
    assert check_baselines([model, frequent, linear]).findings == []


def test_a_model_below_the_linear_one():
    _, _, rows = compare(poor)
    [finding] = check_baselines(rows).findings
    assert finding.severity == "problem"
    cell = rows[2]["f1_macro"]
    interval = f"[{cell['value_low']:.3f}, {cell['value_high']:.3f}]"
    assert finding.what.startswith(f"{LINEAR} scores {cell['value']:.3f} {interval} of macro-F1")
    assert finding.figures["high"] < 0
    header, cells = baseline_table(rows)
    assert len(header) == len(cells[0])
    assert cells[2][-1].startswith("-0.")


def test_a_difference_that_the_rows_do_not_carry_is_no_finding():
    _, _, rows = compare(lambda truth, rng: np.where(rng.random(truth.shape) < 0.08, 1 - truth, truth) * 0.8 + 0.1)
    cell = rows[2]["f1_macro"]
    assert cell["low"] < 0 < cell["high"]
    assert check_baselines(rows).findings == []


@pytest.mark.parametrize("best_by", ["f1_samples", "exact_match", "roc_auc_macro"])
@pytest.mark.parametrize("model", [good, poor])
def test_scores_that_a_run_may_be_chosen_by(best_by, model):
    """Their values are the scores of the methods' own predictions, and a poor model is found by them too."""
    train, validation = sentences(300, 0), sentences(200, 1)
    predictions = Predictions(list("abc"), [str(i) for i in range(200)], validation[0], validation[1])
    predictions.probabilities = model(validation[1], np.random.default_rng(5))
    rule = ThresholdRule("calibrated", None, best_by)
    rows = compare_with_baselines(predictions, predictions.decide(rule)["_tuned"], rule, *train)
    linear = predict_linearly(*train, validation[0])
    if best_by == "roc_auc_macro":
        expected = [roc_auc_score(validation[1], some) for some in (predictions.probabilities, linear)]
        assert [rows[0][best_by]["value"], rows[2][best_by]["value"]] == pytest.approx(expected)
        assert rows[1][best_by]["value"] == 0.5
    else:
        answers = Predictions(predictions.labels, predictions.ids, truth=validation[1], probabilities=linear)
        expected = plain_scores(validation[1], answers.decide(rule)["_tuned"])[best_by]
        assert rows[2][best_by]["value"] == pytest.approx(expected, abs=0.03)  # other groups of near-duplicates
        most = max(np.mean(score_rows(validation[1], train[1], best_by, number)) for number in (1, 2, 3))
        assert rows[1][best_by]["value"] <= most + 1e-9
    check = check_baselines(rows, best_by)
    assert by_name(best_by).title in check.seen
    assert [finding.kind for finding in check.findings] == ([] if model is good else ["below_baseline"])
    assert linear_at_chance(rows) is False


def score_rows(truth, train, name, number):
    """The score of each row if it is given the most frequent labels."""
    given = np.zeros(3, dtype=np.int8)
    given[np.argsort(-train.sum(axis=0), kind="stable")[:number]] = 1
    return by_name(name).of_rows(truth, np.tile(given, (len(truth), 1)))


def test_the_linear_model_is_scikit_learns():
    (texts, truth), (new, _) = sentences(200, 3), sentences(50, 4)
    truth[:, 2] = 0  # a label that no row has is as likely as in training
    found = predict_linearly(texts, truth, new)
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    known = vectors.fit_transform(texts)
    model = LogisticRegression(class_weight="balanced", solver="liblinear", dual=True, random_state=0)
    for i in range(2):
        expected = model.fit(known, truth[:, i]).predict_proba(vectors.transform(new))[:, 1]
        assert found[:, i] == pytest.approx(expected)
    assert (found[:, 2] == 0).all()


def test_frequent_labels_are_as_many_as_score_best():
    truth = np.zeros((100, 3), dtype=np.int8)
    truth[:90, 0] = truth[:20, 1] = truth[:2, 2] = 1
    for score, expected in (("f1_macro", [1, 1, 1]), ("f1_micro", [1, 0, 0]), ("jaccard", [1, 0, 0])):
        assert frequent_labels(truth, score).tolist() == expected
        sets = [np.tile([i < number for i in range(3)], (100, 1)).astype(int) for number in range(1, 4)]
        best = max(scikit_learn(truth, one)[score] for one in sets)
        chosen = np.tile(frequent_labels(truth, score), (100, 1))
        assert scikit_learn(truth, chosen)[score] == pytest.approx(best)


def test_the_linear_model_takes_as_many_rows_as_it_has_seconds_for():
    assert len(training_rows(7000, 11, 100)) == 7000
    assert len(training_rows(1_000_000, 28, 70)) == 300_000 // 28
    assert len(training_rows(1_000_000, 28, 3000)) == 1000
    assert len(training_rows(1_000_000, 5000, 70)) == 500
    started = time.process_time()
    texts, truth = sentences(3000, 0)
    predict_linearly(texts, np.tile(truth, (1, 20)), texts[:100])
    assert time.process_time() - started < 20


def test_unknown_cells_are_left_out_of_the_linear_model():
    (texts, truth), (new, _) = sentences(200, 3), sentences(50, 4)
    wanting = truth.astype(float)
    wanting[:80, 1] = np.nan
    found = predict_linearly(texts, wanting, new)
    assert found[:, [0, 2]] == pytest.approx(predict_linearly(texts, truth, new)[:, [0, 2]])
    turned = np.where(np.isnan(wanting), 1 - truth, truth)
    assert np.abs(found[:, 1] - predict_linearly(texts, turned, new)[:, 1]).max() > 0.05
    assert frequent_labels(wanting, "jaccard").shape == (3,)
    assert frequent_labels(truth, "f1_macro", only_one=True).tolist() == [1, 0, 0]
