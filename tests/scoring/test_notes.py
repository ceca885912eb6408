"""What is said below scores: how much too good choosing a checkpoint makes them."""

import numpy as np
import pytest

from utils.scoring.notes import OWN_SHARE, choice_lift, choice_note, leak_note


@pytest.mark.parametrize("checkpoints", [2, 5, 10])
def test_lift_of_checkpoints_that_are_equally_good(checkpoints):
    """The score of the best is too good by about what the formula says; its own figure has the noise of the log."""
    rng = np.random.default_rng(0)
    error = 0.01
    scores = 0.5 + OWN_SHARE * error * rng.normal(size=(4000, checkpoints))
    true_lift = (scores.max(axis=1) - 0.5).mean()
    said = np.mean([choice_lift(row, error) for row in scores])
    assert said == pytest.approx(true_lift, abs=0.0008)


def test_checkpoints_that_are_far_behind_lift_nothing():
    assert choice_lift([0.2, 0.4, 0.6], 0.01) == 0
    assert choice_lift([0.2, 0.59, 0.6], 0.01) == pytest.approx(OWN_SHARE * 0.01 * 0.564, rel=0.06)
    assert choice_lift([0.2, 0.59, 0.6], 0.02) > choice_lift([0.2, 0.59, 0.6], 0.01)


def test_words_on_the_choice():
    run = {"eval_chosen_among": 5, "best_metric_name": "f1_macro_tuned", "eval_choice_lift": 0.0062}
    assert choice_note([run]) == (
        "The checkpoint was chosen on the same rows, as the best of 5 by f1_macro_tuned: by that alone expect 0.006 "
        "less macro-F1 on new rows (estimated)."
    )
    other = run | {"eval_chosen_among": 8, "eval_choice_lift": 0.0081}
    assert "each as the best of up to 8" in choice_note([run, other, {}])
    assert "0.006 to 0.008 less" in choice_note([run, other, {}])
    by_loss = {"eval_chosen_among": 3, "best_metric_name": "loss"}
    assert choice_note([by_loss]).endswith("as the best of 3 by loss: the scores are a little too good by that.")
    assert choice_note([{}]) == ""


def test_words_on_leaks():
    assert leak_note({}) == ""
    assert leak_note({"eval_leaked_rows": 0, "eval_samples": 886}).endswith("have a near-duplicate in training.")
    said = leak_note({"eval_leaked_rows": 12, "eval_samples": 1886})
    assert said.startswith("12 of 1,886 validation rows have a near-duplicate in training, which makes")
