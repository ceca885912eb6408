"""Findings about predictions, on made-up ones whose fault is known, and none on sound ones."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from utils.doctor.bars import count_rows, rank
from utils.doctor.mislabelled import check_mislabelled, find_suspects
from utils.doctor.predicted import (
    beside_linear,
    check_chance,
    check_given,
    check_spread,
    check_support,
    check_swapped,
)
from utils.scoring.thresholds import ThresholdRule, Thresholds

LABELS = ["anger", "fear", "joy", "trust"]
RATES = np.array([0.4, 0.2, 0.3, 0.1])
RULE = ThresholdRule("calibrated")


def rows(seed=0, number=400, skill=2.0):
    """`(truth, probabilities)` of a calibrated model that ranks well; `skill` 0: one that knows the rates alone."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(number, len(LABELS))) * skill + np.log(RATES / (1 - RATES)) * (1 + skill / 2)
    probabilities = expit(scores)
    return (rng.random(probabilities.shape) < probabilities).astype(np.int8), probabilities


def all_checks(truth, probabilities, thresholds=None, train=None):
    """The findings of all checks of predictions, by kind."""
    thresholds = RULE.fit(probabilities, truth) if thresholds is None else Thresholds(np.array(thresholds), RULE)
    train = tuple(4 * counts for counts in count_rows(truth)) if train is None else train
    spread, same = check_spread(LABELS, probabilities, train)
    ranking = rank(truth, probabilities)
    checks = [spread, check_chance(LABELS, ranking, same), check_swapped(LABELS, truth, probabilities)]
    checks += check_given(LABELS, truth, probabilities, thresholds, same)
    checks += [check_support(LABELS, truth, train[0], np.full(len(LABELS), 0.5), ranking)]
    checks += [check_mislabelled(LABELS, truth, probabilities)]
    return {finding.kind: finding for check in checks for finding in check.findings}


def test_nothing_is_wrong_with_sound_predictions():
    wrong = [kind for seed in range(40) for kind in all_checks(*rows(seed))]
    assert len(wrong) <= 1, wrong  # of 40 runs and 8 checks each


def test_the_same_for_every_text():
    truth, _ = rows()
    probabilities = np.tile(RATES, (len(truth), 1)) + np.random.default_rng(9).normal(size=truth.shape) * 1e-4
    findings = all_checks(truth, probabilities)
    assert set(findings) == {"same_for_every_text", "chance"}  # always given would say the same once more
    finding = findings["same_for_every_text"]
    assert finding.labels == LABELS
    assert "all 4 labels (95 % of the texts: anger 0.400 to 0.400" in finding.what
    assert finding.severity == "problem"


def test_the_same_for_one_label():
    truth, probabilities = rows()
    probabilities[:, 1] = 0.2
    finding = all_checks(truth, probabilities)["same_for_every_text"]
    assert (finding.labels, finding.severity) == (["fear"], "warning")
    assert finding.figures == {"span/fear": 0.0}


def test_chance():
    truth, probabilities = rows()
    shuffled = np.random.default_rng(0).permutation(probabilities)
    finding = all_checks(truth, shuffled)["chance"]
    assert finding.severity == "problem"
    assert finding.figures["roc_auc_macro"] <= finding.figures["chance"] < 0.6
    probabilities[:, 2] = shuffled[:, 2]
    findings = all_checks(truth, probabilities)
    assert findings["chance_for_labels"].labels == ["joy"]
    assert "chance" not in findings


def test_exchanged_labels():
    truth, probabilities = rows()
    finding = all_checks(truth[:, [2, 1, 0, 3]], probabilities)["exchanged_labels"]
    assert finding.labels == ["anger", "joy"]
    assert finding.severity == "problem"


def test_labels_that_go_together_are_not_called_exchanged():
    rng = np.random.default_rng(0)
    truth, probabilities = rows()
    truth[:, 1] = np.where(rng.random(len(truth)) < 0.9, truth[:, 0], truth[:, 1])
    probabilities[:, 1] = probabilities[:, 0]
    assert check_swapped(LABELS, truth, probabilities).findings == ()


@pytest.mark.parametrize(("threshold", "kind", "count"), [(0.9999, "never_given", 0), (1e-6, "always_given", 400)])
def test_labels_never_or_always_given(threshold, kind, count):
    truth, probabilities = rows()
    thresholds = RULE.fit(probabilities, truth).values
    thresholds[2] = threshold
    finding = all_checks(truth, probabilities, thresholds)[kind]
    assert finding.labels == ["joy"]
    assert finding.figures == {"true/joy": float(truth[:, 2].sum())}
    assert f"validation rows (true: joy {truth[:, 2].sum()} rows, threshold {threshold:.3f}" in finding.what


def test_a_label_that_no_row_has_may_be_given_to_none():
    truth, probabilities = rows()
    truth[:, 2] = 0
    thresholds = [*RULE.fit(probabilities, truth).values[:2], 1.0, 0.3]
    assert "never_given" not in all_checks(truth, probabilities, thresholds)


def test_thresholds_at_the_edge():
    truth, probabilities = rows()
    squeezed = probabilities.copy()
    squeezed[:, 0] = 1 - (1 - probabilities[:, 0]) / 200  # as a weight of thousands on positive cells does
    findings = all_checks(truth, squeezed)
    assert findings["threshold_at_edge"].labels == ["anger"]
    assert findings["threshold_at_edge"].figures["threshold/anger"] > 0.99


def test_labels_with_few_rows():
    truth, probabilities = rows(number=400)
    truth[:, 3] = 0
    truth[[5, 9], 3] = 1
    ranking = rank(truth, probabilities)
    low = np.array([0.6, 0.5, 0.6, 0.0])
    train = np.array([100, 0, 100, 10])
    check = check_support(LABELS, truth, train, low, ranking)
    few, unseen = (next(one for one in check.findings if one.kind == kind) for kind in ("few_rows", "never_seen"))
    assert few.figures == {"rows/trust": 2.0}
    assert unseen.labels == ["fear"]
    assert unseen.severity == "problem"
    # A poor label with many rows is not noise.
    assert not check_support(
        LABELS[:3], truth[:, :3], None, np.zeros(3), rank(truth[:, :3], probabilities[:, :3])
    ).findings


def test_a_label_with_nine_rows_whose_score_looks_good():
    truth, probabilities = rows(number=400)
    for number, expected in ((9, ["trust"]), (10, [])):
        truth[:, 3] = 0
        truth[:number, 3] = 1
        check = check_support(LABELS, truth, None, np.full(4, 0.6), rank(truth, probabilities))
        assert [label for finding in check.findings for label in finding.labels] == expected
    truth[:, 3] = 0  # none at all: there is no score that could be noise
    assert check_support(LABELS, truth, None, np.full(4, 0.6), rank(truth, probabilities)).findings == []


def test_a_linear_model_says_whether_chance_is_the_rows():
    truth, probabilities = rows()
    check = check_chance(LABELS, rank(truth, np.random.default_rng(0).permutation(probabilities)), [])
    for at_chance, words in ((True, "texts and labels do not belong together"), (False, "do belong together")):
        [finding] = beside_linear(check, at_chance).findings
        assert finding.what.endswith(words)
        assert finding.figures["linear_at_chance"] == at_chance
    assert beside_linear(check_chance(LABELS, rank(truth, probabilities), []), True).findings == []


def test_wrong_labels():
    truth, probabilities = rows(number=1000, skill=4.0)
    turned = np.random.default_rng(3).random(truth.shape) < 0.05
    finding = all_checks(np.where(turned, 1 - truth, truth), probabilities)["mislabelled"]
    assert finding.figures["contradicted"] > 3 * finding.figures["expected"]


def test_suspects_are_the_cells_that_were_turned():
    truth, probabilities = rows(number=1000, skill=4.0)
    turned = np.zeros(truth.shape, dtype=bool)
    turned[np.random.default_rng(0).integers(1000, size=30), np.random.default_rng(1).integers(4, size=30)] = True
    given = np.where(turned, 1 - truth, truth)
    suspects = find_suspects(given, probabilities)
    assert (np.diff(suspects.confidence) >= 0).all()
    held = np.where(given == 1, probabilities, 1 - probabilities)
    assert suspects.confidence == pytest.approx(held[suspects.rows, suspects.columns])
    assert turned[suspects.rows[:20], suspects.columns[:20]].mean() > 0.6


def test_suspects_by_the_definition_of_confident_learning():
    truth = np.array([[1], [1], [1], [0], [0], [0]])
    probabilities = np.array([[0.9], [0.8], [0.1], [0.2], [0.1], [0.9]])
    # Mean probability of yes where it is true 0.6, of no where that is true 0.6.
    suspects = find_suspects(truth, probabilities)
    assert sorted(suspects.rows.tolist()) == [2, 5]
    assert suspects.confidence == pytest.approx([0.1, 0.1])
    assert len(find_suspects(truth, np.full((6, 1), 0.5)).rows) == 0


def test_cells_that_nobody_has_annotated_count_nowhere():
    truth, probabilities = rows(number=600)
    unknown = np.random.default_rng(0).random(truth.shape) < 0.3
    wanting = np.where(unknown, np.nan, truth)
    # What the unknown cells say changes nothing, whatever the model says of them.
    contrary = np.where(unknown, 1 - probabilities, probabilities)
    assert all_checks(wanting, probabilities).keys() == set()
    ranking, other = rank(wanting, probabilities), rank(wanting, contrary)
    assert (ranking.auc == other.auc).all()
    for i in range(len(LABELS)):
        known = ~unknown[:, i]
        assert ranking.auc[i] == pytest.approx(roc_auc_score(truth[known, i], probabilities[known, i]))
    suspects = find_suspects(wanting, contrary)
    assert not unknown[suspects.rows, suspects.columns].any()


def test_where_each_text_has_one_label():
    rng = np.random.default_rng(0)
    truth = np.eye(4, dtype=np.int8)[rng.choice(4, size=400, p=[0.4, 0.2, 0.3, 0.1])]
    probabilities = expit(rng.normal(size=truth.shape) + 3 * truth)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    thresholds = Thresholds(np.full(4, np.nan), ThresholdRule("argmax"))
    [check] = check_given(LABELS, truth, probabilities, thresholds, [])
    assert check.findings == []
    probabilities[:, 3] = 0
    [check] = check_given(LABELS, truth, probabilities, thresholds, [])
    assert [finding.kind for finding in check.findings] == ["never_given"]
