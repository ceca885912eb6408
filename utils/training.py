"""Train to the end, or to a signal that says stop."""

import signal
import sys

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from utils.preflight import costs, fingerprints, unchanged_tensors


def train_to_the_end(trainer, checkpoint, early_stopping_patience, log):
    """Train to the end, from `checkpoint` on if there is one; on SIGTERM or SIGINT save one and exit.

    Returns:
        Trainer's metrics, with what the run took and the number of trainable tensors that did not change.
    """
    stop_on_signal = StopOnSignal()
    trainer.add_callback(stop_on_signal)
    if early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience))
    resumed_at = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    if checkpoint:
        log(f"resuming from {checkpoint}")
    before = fingerprints(trainer.model)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if stop_on_signal.received:
        log(f"stopped at step {trainer.state.global_step}: give the same command again to go on from there")
        sys.exit(128 + stop_on_signal.received)
    unchanged = unchanged_tensors(before, trainer.model) if trainer.state.global_step > resumed_at else []
    if unchanged:
        log(
            f"WARNING: training did not change {len(unchanged)} of {len(before)} trainable tensors, "
            f"the first of them {unchanged[0]}: they have learnt nothing"
        )
    return metrics | {"unchanged_tensors": len(unchanged), **costs(trainer.model)}


class StopOnSignal(TrainerCallback):
    """On SIGTERM or SIGINT (Ctrl-C): end the training after the step at hand, with a checkpoint to resume from.

    `received` is the number of the signal, 0 without one. A second signal ends the process at once.
    """

    def __init__(self):
        self.received = 0
        self.handlers = {}

    def _receive(self, number, frame):
        self.received = number
        self._restore()
        print(f"{signal.Signals(number).name}: saving a checkpoint after this step", file=sys.stderr, flush=True)

    def _restore(self):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def on_train_begin(self, args, state, control, **kwargs):
        self.handlers = {n: signal.signal(n, self._receive) for n in (signal.SIGTERM, signal.SIGINT)}

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            # The processes must stop after the same step, and not all of them may have got the signal yet.
            received = torch.tensor(self.received, device=args.device)
            torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
            self.received = int(received)
        if self.received:
            control.should_save = control.should_training_stop = True
            args.save_total_limit = None  # else Trainer deletes all but the best checkpoint when training ends

    def on_epoch_end(self, args, state, control, **kwargs):
        # After part of an epoch an evaluation would be one that the undisturbed run does not make.
        if self.received and state.epoch % 1:
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        self._restore()
