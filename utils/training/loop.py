"""Train to the end, or to a signal that says stop."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from utils.core.arguments import RunArguments, seconds_of
from utils.core.errors import UserError
from utils.core.log import log
from utils.models.parameters import costs, fingerprints, unchanged_tensors
from utils.runs.checkpoints import write_files
from utils.runs.folder import ARGUMENTS_FILE
from utils.training.space import bytes_of_a_checkpoint
from utils.training.time_limit import BYTES_A_SECOND, TimeLimit

if TYPE_CHECKING:
    from utils.models.approaches import Approach
    from utils.training.batches import LengthGroupedBatches

# Ctrl-C, the launcher and a sweep may each signal the same stop; within this window they count once.
SECONDS_OF_ONE_STOP = 2


def train_to_the_end(trainer: LengthGroupedBatches, checkpoint: str | None, run_args: RunArguments) -> dict[str, float]:
    """Train to the end; on SIGTERM or SIGINT save a checkpoint and exit.

    Args:
        trainer: that trains.
        checkpoint: folder to resume from, or None.
        run_args: when it stops: `early_stopping_patience`, `time_limit`.

    Returns:
        Trainer's metrics, with memory, numbers of weights, and the number of trainable tensors that did not change.
        Time and speeds are those of the whole run, including its parts before `checkpoint`.
    """
    stop_on_signal = StopOnSignal()
    trainer.add_callback(stop_on_signal)
    trainer.add_callback(TrainingTime())
    trainer.add_callback(FolderIsThere())
    trainer.add_callback(WholeCheckpoints(trainer))
    loss_so_far = LossSoFar()
    loss_so_far.trainer = trainer
    trainer.add_callback(loss_so_far)
    if run_args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(run_args.early_stopping_patience))
    time_limit = None
    if run_args.time_limit is not None and run_args.deadline is not None:
        eval_dataset: Any = trainer.eval_dataset
        rows, cost = len(eval_dataset), trainer.evaluation_cost
        saving = bytes_of_a_checkpoint(trainer)[1] / BYTES_A_SECOND
        time_limit = TimeLimit(seconds_of(run_args.time_limit), run_args.deadline, rows, cost, saving, run_args.report)
        trainer.add_callback(time_limit)
    resumed_at = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    if checkpoint:
        log(f"resuming from {checkpoint}")
    change = Change()
    trainer.add_callback(change)
    with _one_line_errors(trainer, checkpoint):
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if stop_on_signal.received:
        # A process that has ended would let torch's launcher end the one that is still saving.
        trainer.accelerator.wait_for_everyone()
        log(f"stopped at step {trainer.state.global_step}: give the same command again to go on from there")
        sys.exit(128 + stop_on_signal.received)
    if checkpoint:
        metrics |= _speeds_of_all_parts(metrics, trainer) | _loss_of_all_parts(metrics, trainer, resumed_at)
    unchanged = change.unchanged if trainer.state.global_step > resumed_at else []
    if unchanged and not (time_limit is not None and time_limit.stopped):  # which has said why
        log(
            f"WARNING: training did not change {len(unchanged)} of {change.tensors} trainable tensors, or not in all "
            f"processes, the first of them {unchanged[0]}: they have learnt nothing"
        )
    if time_limit is not None:
        metrics |= time_limit.figures(trainer.state)
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


def _loss_of_all_parts(metrics: dict[str, float], trainer: LengthGroupedBatches, resumed_at: int) -> dict[str, float]:
    """Mean loss of all steps of a resumed run; Trainer's is of those since step `resumed_at`."""
    [loss_so_far] = [c for c in trainer.callback_handler.callbacks if isinstance(c, LossSoFar)]
    steps = trainer.state.global_step
    since = metrics["train_loss"] * (steps - resumed_at)
    return {"train_loss": (loss_so_far.earlier + since) / max(steps, 1)}


@contextmanager
def _one_line_errors(trainer: LengthGroupedBatches, checkpoint: str | None) -> Generator[None]:
    """Turn what a full disk, a folder that is gone and a damaged checkpoint raise into a `UserError`.

    The checkpoints before stay.
    """
    output_dir = str(trainer.args.output_dir)
    written = f"cannot write {output_dir}"
    resumed_at = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if checkpoint and trainer.state.global_step <= resumed_at:
            raise UserError(
                f"cannot go on from {checkpoint}: {type(error).__name__}: {error}: delete that folder to go on from "
                "the one before, if there is one, or pass --overwrite"
            ) from error
        kept = any(Path(output_dir).glob("checkpoint-*/trainer_state.json"))
        again = "the last complete checkpoint is kept: give the same command again to go on from it"
        again = again if kept else "give the same command again"
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{written}: {error.strerror}: free some space; {again}") from error
        # torch and safetensors write from C++ and Rust, where a full disk has no number.
        if (
            isinstance(error, SafetensorError)
            or "PytorchStreamWriter" in str(error)
            or "inline_container" in str(error)
        ):
            raise UserError(f"{written}: a file was not written whole: free some space; {again}") from error
        raise


class LossSoFar(TrainerCallback, ExportableState):
    """Keeps in each checkpoint the sum of the losses of all steps; Trainer counts those since a resumption only.

    Args:
        earlier: sum up to the checkpoint that the training goes on from.
    """

    # Set when the callback is added, and again by the trainer when it has made it anew from a checkpoint.
    trainer: LengthGroupedBatches | None = None

    def __init__(self, earlier: float = 0.0):
        self.earlier, self.logged, self.since = earlier, 0.0, torch.zeros(())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as Trainer wants it."""
        return {"args": {"earlier": self.earlier + self.logged + float(self.since)}, "attributes": {}}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer is not None:
            since = self.trainer._tr_loss.detach().clone()  # since the last log, of this process
            self.since = self.trainer.accelerator.reduce(since, reduction="mean") if args.world_size > 1 else since
            self.logged = self.trainer._total_loss_scalar


class FolderIsThere(TrainerCallback):
    """Ends a training whose folder was deleted or moved: Trainer would make another, without what makes it a run."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_run = Path(args.output_dir, ARGUMENTS_FILE).is_file()  # a Trainer may be used without one

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_run and not Path(args.output_dir, ARGUMENTS_FILE).is_file():
            raise UserError(f"--output_dir {args.output_dir} is gone: it was deleted or moved during the training")


class WholeCheckpoints(TrainerCallback):
    """Writes down what the files of each checkpoint are, and finds the best one again in a run that was moved.

    Args:
        trainer: that saves them.
    """

    def __init__(self, trainer: LengthGroupedBatches):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = Path(args.output_dir, f"checkpoint-{state.best_global_step}")
        if best.is_dir():  # the state has the path that it was saved under
            state.best_model_checkpoint = str(best)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()  # each process writes files of its own
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if state.is_world_process_zero and folder.is_dir():
            write_files(folder)


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
            log(f"{signal.Signals(number).name}: saving a checkpoint after this step")
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
