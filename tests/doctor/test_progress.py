"""Findings about the course of a training, from its log."""

import numpy as np
import pytest

from utils.doctor.examine import Training, check_course
from utils.doctor.progress import check_learning, check_progress, check_time_limit

SCORE = "eval_f1_macro_tuned"


def log(*values, losses=()):
    """A log with an evaluation each epoch, and losses in training spread over them."""
    entries = [{"epoch": float(i + 1), SCORE: value} for i, value in enumerate(values)]
    end = max(1, len(values))
    return entries + [{"epoch": end * (i + 1) / len(losses), "loss": loss} for i, loss in enumerate(losses)]


def findings(history, half_width=0.05, best_is_kept=True):
    return list(check_progress(history, SCORE, half_width, best_is_kept).findings)


@pytest.mark.parametrize(
    "values",
    [
        (0.30, 0.45, 0.52, 0.54, 0.545),
        (0.5, 0.52, 0.51, 0.52, 0.515, 0.518),
        (0.4, 0.55, 0.54, 0.53, 0.54),
        (0.30, 0.34),  # within the interval
    ],
)
def test_sound_courses(values):
    assert findings(log(*values)) == []


def test_still_getting_better():
    [finding] = findings(log(0.2, 0.31, 0.45))
    assert finding.kind == "still_learning"
    assert finding.figures == {"gain": pytest.approx(0.14), "half_width": 0.05}
    assert "rose from 0.310 to 0.450 from epoch 2 to its end, epoch 3, by more than half its interval" in finding.what


def test_the_last_fifth_of_many_evaluations_counts():
    values = np.concatenate([np.linspace(0.2, 0.4, 10), np.linspace(0.4, 0.41, 10)])
    assert findings(log(*values)) == []
    [finding] = findings(log(*np.linspace(0.0, 0.6, 20)))
    assert "from epoch 16 to its end, epoch 20" in finding.what


@pytest.mark.parametrize(("best_is_kept", "severity"), [(True, "warning"), (False, "problem")])
def test_past_its_best(best_is_kept, severity):
    [finding] = findings(log(0.3, 0.5, 0.45, 0.42, 0.4), best_is_kept=best_is_kept)
    assert (finding.kind, finding.severity) == ("overfitted", severity)
    assert "since epoch 2: macro-F1 fell from 0.500 to 0.400 at epoch 5" in finding.what
    assert ("keeps the model of its best epoch" in finding.what) == best_is_kept


def test_a_long_fall_within_the_interval():
    assert findings(log(0.5, 0.49, 0.485, 0.48, 0.475, 0.47), half_width=0.1)[0].kind == "overfitted"


def test_a_single_epoch_whose_loss_still_falls():
    history = log(0.3, losses=np.linspace(0.7, 0.4, 20))
    [finding] = findings(history)
    assert finding.kind == "still_learning"
    assert "in the second half of its only epoch" in finding.what
    flat = 0.5 + 0.01 * np.random.default_rng(0).normal(size=20)
    assert findings(log(0.3, losses=flat)) == []
    assert findings(log(0.3, losses=[0.7, 0.4])) == []
    assert findings([]) == []


def test_tensors_that_did_not_change():
    assert check_learning(0, None).findings == ()
    [finding] = check_learning(2, 40).findings
    assert finding.severity == "problem"
    assert "2 of 40 trainable tensors" in finding.what


def test_map_shows_on_few_rows_that_it_was_still_getting_better():
    results = {f"{name}_{end}": value for name in (SCORE, "eval_map") for end, value in (("low", 0.4), ("high", 0.52))}

    def course(*by_map):
        history = [entry | {"eval_map": value} for entry, value in zip(log(0.48, 0.508), by_map)]
        training = Training(None, np.ones(1), np.ones(1), 8, history)
        return [finding.kind for finding in check_course(training, results, SCORE).findings]

    assert course(0.449, 0.576) == ["still_learning"]
    assert course(0.549, 0.576) == []
    assert course(0.576, 0.449) == []


def test_a_training_that_the_time_limit_ended():
    assert check_time_limit({}).findings == ()
    assert check_time_limit({"time_limit": 90.0, "steps": 95, "steps_planned": 100}).findings == ()
    [finding] = check_time_limit({"time_limit": 90.0, "steps": 3, "steps_planned": 65}).findings
    assert "--time_limit (1.5 min) ended the training at step 3 of 65" in finding.what
