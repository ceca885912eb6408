"""Train to the end, or to a signal that says stop."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from utils.core.log import log
from utils.models.parameters import costs, fingerprints, unchanged_tensors

if TYPE_CHECKING:
    from utils.models.approaches import Approach
    from utils.training.batches import LengthGroupedBatches

# Ctrl-C, the launcher and a sweep may each signal the same stop; within this window they count once.
SECONDS_OF_ONE_STOP = 2


def train_to_the_end(
    trainer: LengthGroupedBatches, checkpoint: str | None, early_stopping_patience: int | None
) -> dict[str, float]:
    """Train to the end; on SIGTERM or SIGINT save a checkpoint and exit.

    Args:
        trainer: that trains.
        checkpoint: folder to resume from, or None.
        early_stopping_patience: evaluations without a better score after which it stops; None: it does not.

    Returns:
        Trainer's metrics, with memory, numbers of weights, and the number of trainable tensors that did not change.
        Time and speeds are those of the whole run, including its parts before `checkpoint`.
    """
    stop_on_signal = StopOnSignal()
    trainer.add_callback(stop_on_signal)
    trainer.add_callback(TrainingTime())
    if early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience))
    resumed_at = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    if checkpoint:
        log(f"resuming from {checkpoint}")
    change = Change()
    trainer.add_callback(change)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if stop_on_signal.received:
        # A process that has ended would let torch's launcher end the one that is still saving.
        trainer.accelerator.wait_for_everyone()
        log(f"stopped at step {trainer.state.global_step}: give the same command again to go on from there")
        sys.exit(128 + stop_on_signal.received)
    if checkpoint:
        metrics |= _speeds_of_all_parts(metrics, trainer)
    unchanged = change.unchanged if trainer.state.global_step > resumed_at else []
    if unchanged:
        log(
            f"WARNING: training did not change {len(unchanged)} of {change.tensors} trainable tensors, or not in all "
            f"processes, the first of them {unchanged[0]}: they have learnt nothing"
        )
    return metrics | {"unchanged_tensors": len(unchanged), **costs(trainer.model)}


def release(approach: Approach, trainer: LengthGroupedBatches | None) -> None:
    """Give back the memory of a model that has been trained, its gradients and its optimizer."""
    freed: Any = approach
    freed.model = None
    if trainer is not None:
        holders: Any = (trainer, trainer.callback_handler)
        for holder in holders:
            holder.model = holder.optimizer = holder.lr_scheduler = None
        holders[0].model_wrapped = None
        trainer.accelerator.free_memory()


def _speeds_of_all_parts(metrics: dict[str, float], trainer: LengthGroupedBatches) -> dict[str, float]:
    """Time and speeds of a resumed run as a whole; Trainer's are those of the part since the checkpoint."""
    [training_time] = [c for c in trainer.callback_handler.callbacks if isinstance(c, TrainingTime)]
    seconds = training_time.earlier + metrics["train_runtime"]
    rows = len(trainer.train_dataset) * trainer.state.epoch
    return {
        "train_runtime": round(seconds, 4),
        "train_samples_per_second": round(rows / seconds, 3),
        "train_steps_per_second": round(trainer.state.global_step / seconds, 3),
    }


class Change(TrainerCallback):
    """Finds the trainable tensors that training does not change.

    Compares the model, once it is sharded if it is, with what the last step leaves, before Trainer goes back to the
    best checkpoint.
    """

    def __init__(self):
        self.unchanged: list[str] = []
        self.tensors = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.before = fingerprints(model)
        self.tensors = sum(parameter.requires_grad for parameter in model.parameters())

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.unchanged = unchanged_tensors(self.before, model)


class TrainingTime(TrainerCallback, ExportableState):
    """Keeps in each checkpoint the seconds that the training has taken up to it, all its parts together.

    Args:
        earlier: seconds up to the checkpoint that was resumed from; Trainer makes a new callback with it then.
    """

    def __init__(self, earlier: float = 0.0):
        self.earlier: float = earlier
        self.begun: float | None = None

    def state(self) -> dict[str, Any]:
        """What Trainer writes into the checkpoint's trainer_state.json, and gives to `__init__` on resuming."""
        since = 0.0 if self.begun is None else time.monotonic() - self.begun
        return {"args": {"earlier": self.earlier + since}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = time.monotonic()


class StopOnSignal(TrainerCallback):
    """On SIGTERM or SIGINT (Ctrl-C): end the training after the current step, with a checkpoint to resume from.

    `received` is the number of the signal, 0 without one. A second signal, seconds later, ends the process at once.
    """

    def __init__(self):
        self.received = 0
        self.first: float | None = None  # time of the first signal
        self.handlers: dict[int, Any] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.received, self.first = number, time.monotonic()
            print(f"{signal.Signals(number).name}: saving a checkpoint after this step", file=sys.stderr, flush=True)
        elif time.monotonic() - self.first > SECONDS_OF_ONE_STOP:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.handlers = {n: signal.signal(n, self._receive) for n in (signal.SIGTERM, signal.SIGINT)}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            # The processes must stop after the same step, and not all of them may have got the signal yet.
            received = torch.tensor(self.received, device=args.device)
            torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
            self.received = int(received)
        if self.received:
            control.should_save = control.should_training_stop = True
            args.save_total_limit = None  # else Trainer deletes all but the best checkpoint when training ends

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # After part of an epoch an evaluation would be one that the undisturbed run does not make.
        if self.received and state.epoch % 1:
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.received:
            self._restore()
