"""Findings about the training: stopped too early, or past its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.core.tables import format_seconds
from utils.doctor.bars import LEVEL
from utils.doctor.finding import PROBLEM, WARNING, Check, Finding
from utils.scoring.scores import TUNED, by_name, with_half_width

# Whether it was still getting better is seen in its last part, from here on.
LAST_PART = 0.8
# Share of the planned steps below which a training that the time limit has ended was ended early.
NEARLY_ALL = 0.9
# Points of the training loss in the second half of a single epoch that a slope is read off.
FEWEST_LOSSES = 4


def check_learning(unchanged: int, tensors: int | None) -> Check:
    """Whether training changed all tensors that it was meant to.

    Args:
        unchanged: number of trainable tensors that it did not.
        tensors: number of trainable tensors, where it is known.
    """
    if not unchanged:
        return Check("trained tensors", "all have changed")
    of = f"{unchanged} of {tensors}" if tensors else f"{unchanged}"
    what = f"training did not change {of} trainable tensors: they have learnt nothing"
    remedy = (
        "--learning_rate 0, gradients that do not reach them, or 16-bit weights too coarse for the steps: see the log"
    )
    return Check("trained tensors", what, [Finding("not_trained", what, remedy, PROBLEM, {"unchanged": unchanged})])


def check_progress(
    log_history: Sequence[Mapping[str, Any]], score: str, half_width: float, best_is_kept: bool
) -> Check:
    """Whether the training stopped while it was getting better, or went on after its best.

    The bar for a change of the score between evaluations is half the width of its interval: the evaluations are of the
    same rows, so that their difference varies less than the score does.

    Args:
        log_history: of Trainer.
        score: name of the score in it, such as `eval_f1_macro_tuned`.
        half_width: of the 95 % interval of the score.
        best_is_kept: whether the run goes back to its best evaluation.
    """
    evaluated = [entry for entry in log_history if score in entry]
    points = [(float(entry["epoch"]), float(entry[score])) for entry in evaluated]
    if len(points) < 2:
        return _check_single(log_history)
    epochs, values = (np.array(column) for column in zip(*points))
    name = by_name(score.removeprefix("eval_").removesuffix(TUNED)).title
    best, last = int(values.argmax()), len(values) - 1
    shown = [with_half_width(entry, score) for entry in evaluated]
    seen = f"{name} {shown[0]} at epoch {epochs[0]:.3g}, best {shown[best]} at epoch {epochs[best]:.3g}, "
    seen += f"{shown[last]} at the end (epoch {epochs[last]:.3g})"
    before = max(0, int(np.searchsorted(epochs, LAST_PART * epochs[last], side="right")) - 1)
    before = min(before, last - 1)
    gain = values[last] - values[before]
    figures = {"gain": float(gain), "half_width": half_width}
    if best == last and gain > half_width:
        what = f"the training stopped while it was getting better: {name} rose from {shown[before]} to "
        what += f"{shown[last]} from epoch {epochs[before]:.3g} to its end, epoch {epochs[last]:.3g}, by more than "
        what += f"half its interval is wide ({half_width:.3f})"
        finding = Finding("still_learning", what, "train for more --num_train_epochs", WARNING, figures)
        return Check("course of the training", seen, [finding])
    since = values[best:]
    drop = float(values[best] - values[last])
    falls = len(since) > 4 and _falls(epochs[best:], since)
    if last - best >= 2 and (drop > half_width or falls):
        what = f"the training has been getting worse since epoch {epochs[best]:.3g}: {name} fell from "
        what += f"{shown[best]} to {shown[last]} at epoch {epochs[last]:.3g}"
        if best_is_kept:
            what += "; the run keeps the model of its best epoch, and the time after it was lost"
        remedy = f"train for about {max(1, round(float(epochs[best])))} epochs, pass --early_stopping_patience 2, or "
        remedy += "lower --learning_rate"
        severity = WARNING if best_is_kept else PROBLEM
        finding = Finding("overfitted", what, remedy, severity, {"best_epoch": float(epochs[best]), "drop": drop})
        return Check("course of the training", seen, [finding])
    return Check("course of the training", seen)


def check_time_limit(metrics: Mapping[str, Any]) -> Check:
    """Whether `--time_limit` ended the training early, given Trainer's metrics with those of the limit."""
    title = "time limit"
    if "time_limit" not in metrics:
        return Check(title, "ended nothing")
    steps, planned = int(metrics["steps"]), int(metrics["steps_planned"])
    limit = format_seconds(float(metrics["time_limit"]))
    seen = f"--time_limit ({limit}) ended the training at step {steps:,} of {planned:,}"
    if steps >= NEARLY_ALL * planned:
        return Check(title, seen)
    remedy = "give it more time, or plan fewer steps: fewer --num_train_epochs, whose learning rate falls to its end"
    finding = Finding("time_limit", seen, remedy, WARNING, {"steps": float(steps), "steps_planned": float(planned)})
    return Check(title, seen, [finding])


def _falls(epochs: np.ndarray, values: np.ndarray) -> bool:
    """Whether values fall in the course of the epochs: Mann and Kendall's test of a trend."""
    from scipy.stats import kendalltau  # late, as in `utils.doctor.bars`

    test: Any = kendalltau(epochs, values, alternative="less")
    return bool(test.pvalue < 1 - LEVEL)


def _check_single(log_history: Sequence[Mapping[str, Any]]) -> Check:
    """A training with a single evaluation: only its own loss says whether it was still getting better.

    In the first epoch no row has been seen before, so that the loss in training is one on new rows.
    """
    from scipy.stats import linregress  # late, as in `utils.doctor.bars`

    losses = [(float(entry["epoch"]), float(entry["loss"])) for entry in log_history if "loss" in entry]
    end = max((float(entry["epoch"]) for entry in log_history if "epoch" in entry), default=0.0)
    late = [point for point in losses if end / 2 < point[0] <= 1.0]
    title = "course of the training"
    if end > 1 or len(late) < FEWEST_LOSSES:
        return Check(title, "evaluated once: too little is known of it")
    epochs, values = (np.array(column) for column in zip(*late))
    slope: Any = linregress(epochs, values, alternative="less")
    seen = f"loss in training {values[0]:.3f} at epoch {epochs[0]:.2f}, {values[-1]:.3f} at epoch {epochs[-1]:.2f}"
    if slope.pvalue >= 1 - LEVEL:
        return Check(title, seen)
    what = (
        "the training stopped while it was getting better: in the second half of its only epoch the loss of new rows "
        f"fell from {values[0]:.3f} to {values[-1]:.3f} (slope {slope.slope:.2f} ± {slope.stderr:.2f} an epoch)"
    )
    finding = Finding(
        "still_learning", what, "train for more --num_train_epochs", WARNING, {"slope": float(slope.slope)}
    )
    return Check(title, seen, [finding])
