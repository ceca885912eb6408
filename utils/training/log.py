"""The log of a training as lines that a person reads."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from utils.core.log import log, say
from utils.core.progress import Progress
from utils.scoring.scores import (
    ACCURACY,
    AT_HALF,
    DECODED,
    SCORES,
    TUNED,
    by_name,
    is_likeliest,
    shown_scores,
    with_half_width,
)

HOW = {AT_HALF: "at 0.5", TUNED: "tuned", DECODED: "of the answers"}


def describe_logs(logs: dict[str, float], best_by: str = "f1_macro") -> str | None:
    """One line for the terminal: losses and scores, without the figures of each label; None for other entries.

    Args:
        logs: an entry of Trainer's log.
        best_by: the score that stands first, of every kind of predictions. Behind each score stands half of its 95 %
            interval over the rows.
    """
    if "eval_loss" in logs:
        scores = {name.removeprefix("eval_"): value for name, value in logs.items()}
        main = by_name(best_by)
        alone = main.of_probabilities or is_likeliest(scores)
        kinds = {kind: how for kind, how in HOW.items() if f"{best_by}{kind}" in scores}
        values = [
            f"{with_half_width(scores, f'{best_by}{kind}')} {'' if alone else how}".strip()
            for kind, how in kinds.items()
        ]
        first = f"{main.title} {', '.join(values)}"
        others = tuple(score for score in SCORES if score.logged and score is not main)
        shown = shown_scores(others, ACCURACY in scores)
        more = "".join(f", {score.title} {with_half_width(scores, score.name)}" for score in shown)
        return f"epoch {logs['epoch']:.2f}: validation loss {logs['eval_loss']:.4f}, {first}{more}"
    if "loss" in logs:
        accuracy = f", token accuracy {logs['mean_token_accuracy']:.3f}" if "mean_token_accuracy" in logs else ""
        return (
            f"epoch {logs['epoch']:.2f}: loss {logs['loss']:.4f}{accuracy}, learning rate {logs['learning_rate']:.2e}"
        )
    return None


class TrainingProgress(TrainerCallback):
    """Says how far a training and its evaluations are, with the last loss and score; without progress lines
    (`--disable_tqdm`) a line of the log every `--logging_steps`.

    Args:
        best_by: the score, which stands first in the log.
    """

    def __init__(self, best_by: str):
        self.best_by = best_by
        self.training: Progress | None = None
        self.evaluating: Progress | None = None
        self.figures: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        off = {"disable": True} if args.disable_tqdm else {}
        self.training = Progress("training", state.max_steps, "steps", initial=state.global_step, **off)
        address = getattr(getattr(sys.modules.get("wandb"), "run", None), "url", None)
        if address:  # W&B's own words are in run.log
            log(f"W&B: {address}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training is not None:
            self.training.update(state.global_step - self.training.n)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if args.disable_tqdm:
            return
        if self.evaluating is None:
            self.evaluating = Progress("evaluating", len(eval_dataloader), "batches")
        self.evaluating.update()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self._evaluated()

    def _evaluated(self) -> None:
        if self.evaluating is not None:
            self.evaluating.close()
        self.evaluating = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = describe_logs(logs, self.best_by)
        if "eval_loss" in logs:
            self._evaluated()
        if line is None or not state.is_world_process_zero:
            return
        for name, title in (("loss", "loss"), (f"eval_{self.best_by}", by_name(self.best_by).title)):
            if name in logs:
                self.figures[title] = f"{title} {with_half_width(logs, name)}"
        if self.training is None or args.disable_tqdm:
            say(line, flush=True)
            return
        self.training.set_postfix_str(", ".join(self.figures.values()), refresh=False)
        if "eval_loss" in logs:
            self.training.say(line)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training is not None:
            self.training.close()


def use_readable_log(trainer: Trainer, best_by: str = "f1_macro") -> None:
    """Replace the callback that prints Trainer's dictionaries; the score that all is chosen for stands first."""
    trainer.remove_callback(PrinterCallback if trainer.args.disable_tqdm else ProgressCallback)
    trainer.add_callback(TrainingProgress(best_by))


# Heights of a curve's points in a line of text.
LEVELS = "▁▂▃▄▅▆▇█"
MOST_POINTS = 40
LOSSES = (("loss", "loss"), ("eval_loss", "validation loss"))


def training_curves(log_history: list[dict[str, Any]], best_by: str = "f1_macro") -> str:
    """Loss and a score over a training, a line of text for each: first value, curve, last value; else empty.

    Behind values of a score stands half of its 95 % interval over the rows.

    Args:
        log_history: of Trainer.
        best_by: name of the score.
    """
    main, rows = by_name(best_by), []
    scores = {name.removeprefix("eval_"): None for entry in log_history for name in entry}
    alone = main.of_probabilities or is_likeliest(scores)
    lines = [(f"eval_{best_by}{kind}", main.title if alone else f"{main.title} {how}") for kind, how in HOW.items()]
    for name, title in (*LOSSES, *lines):
        entries = [entry for entry in log_history if isinstance(entry.get(name), int | float)]
        if len(entries) > 1:
            line = sparkline([entry[name] for entry in entries])
            rows.append((title, with_half_width(entries[0], name), line, with_half_width(entries[-1], name)))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return "\n".join(
        f"{title.ljust(widths[0])}  {first.rjust(widths[1])} {curve} {last}" for title, first, curve, last in rows
    )


def sparkline(values: list[float]) -> str:
    """Values as blocks of all heights between the least and the largest; where there are many, means of neighbours."""
    parts = np.array_split(np.asarray(values, dtype=float), min(len(values), MOST_POINTS))
    points = np.array([part.mean() for part in parts])
    span = points.max() - points.min()
    heights = (points - points.min()) / span if span > 0 else np.full(len(points), 0.5)
    return "".join(LEVELS[round(height * (len(LEVELS) - 1))] for height in heights)
