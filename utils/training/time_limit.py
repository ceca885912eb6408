"""`--time_limit`: end the training so that evaluation, report and folder are complete when the time is up."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch
from transformers import TrainerCallback

from utils.core.log import log
from utils.core.tables import format_seconds

# What is kept for the end is measured, times this.
MARGIN = 1.25
# How fast checkpoints are taken to be written, until one was.
BYTES_A_SECOND = 100e6
# Seconds for thresholds, intervals, card and manifest; and for the report with its pictures. On two busy cores.
SECONDS_TO_FINISH, SECONDS_OF_REPORT = 10.0, 20.0
STEPS_REMEMBERED = 20


class TimeLimit(TrainerCallback):
    """Stops a training, in all processes after the same step, while there is time to finish the run.

    Kept for the end: two evaluations (one that tells whether the last weights are the best, and that of the finished
    run), and three times what saving a checkpoint takes (this one, reading the best, writing the model). Both are
    measured as the training goes; before the first evaluation its time is estimated from that of the steps, and that of
    saving from the size. Where one
    evaluation is all there is time for, the last weights are not evaluated, and the best so far are kept.

    Args:
        seconds: the limit, counted from the start of the script.
        deadline: when it is over, by `time.monotonic`.
        rows: to evaluate.
        cost: seconds that evaluating a row takes at most, in those of training on one: for the time before the first
            evaluation.
        saving: seconds that a checkpoint takes, for the time before the first.
        report: whether there will be a report.
    """

    def __init__(self, seconds: float, deadline: float, rows: int, cost: float, saving: float, report: bool):
        self.seconds, self.deadline, self.rows, self.cost = seconds, deadline, rows, cost
        self.finishing = SECONDS_TO_FINISH + (SECONDS_OF_REPORT if report else 0)
        self.stopped = False
        self.steps: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self.evaluation: float | None = None
        self.saving = saving
        self.last = time.monotonic()  # when the last step, evaluation or checkpoint was done

    def _since_last(self) -> float:
        now = time.monotonic()
        since, self.last = now - self.last, now
        return since

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since_last()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(self._since_last())
        rows_of_a_step = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        evaluation = self.evaluation
        if evaluation is None:
            evaluation = self.cost * self.rows * sum(self.steps) / (len(self.steps) * rows_of_a_step)
        left = self.deadline - time.monotonic()
        needed = MARGIN * (2 * evaluation + 3 * self.saving) + self.finishing
        decision = [float(left - MARGIN * max(self.steps) < needed), float(left < needed)]
        if args.world_size > 1:  # clocks and speeds differ: the first that must stop decides for all
            decided = torch.tensor(decision, device=args.device)
            torch.distributed.all_reduce(decided, torch.distributed.ReduceOp.MAX)
            decision = decided.tolist()
        stop, no_time_to_evaluate = map(bool, decision)
        if not stop or state.global_step >= state.max_steps:
            return
        self.stopped = True
        control.should_training_stop = True
        control.should_evaluate = args.eval_strategy != "no" and not no_time_to_evaluate
        control.should_save = control.should_evaluate  # the last weights may be the best
        log(
            f"time limit: the training ends at step {state.global_step} of {state.max_steps}, "
            f"{format_seconds(max(left, 0))} before the time is up, of which {format_seconds(needed)} are kept for "
            "evaluating and saving"
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        taken = self._since_last()
        self.evaluation = max(self.evaluation or 0.0, (metrics or {}).get("eval_runtime", taken))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saving = max(self.saving, self._since_last())

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:  # what there was time for was done after the step
            control.should_evaluate = control.should_save = False

    def figures(self, state: Any) -> dict[str, float]:
        """For the results of the run, where the limit has ended its training: limit, steps done, steps planned."""
        if not self.stopped:
            return {}
        return {"time_limit": self.seconds, "steps": state.global_step, "steps_planned": state.max_steps}
