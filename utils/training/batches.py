"""Batches of texts of one length, the same over any number of processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback

from utils.core.errors import UserError
from utils.core.files import remove_if_empty
from utils.models.layers import slow_first_layers

# Batches of one length are cut from this many batches of random rows.
BATCHES_PER_POOL = 50


class SameLengthSampler(Sampler):
    """Rows in an order in which each `batch_size` neighbours have about one length, another order every epoch.

    As in transformers' `LengthGroupedSampler`, rows are drawn at random, sorted by length within pools of 50 batches
    and cut into batches. Here the batches are then shuffled, so that the length does not fall steadily through a pool,
    and the order depends on seed and epoch alone, not on what else drew random numbers: a resumed run and one on
    another number of processes see the same batches.

    Args:
        lengths: tokens of the rows, `[N]`.
        batch_size: rows of a global batch.
        seed: of the order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = torch.tensor(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches = []
        for pool in torch.randperm(len(self), generator=generator).split(BATCHES_PER_POOL * self.batch_size):
            batches += pool[self.lengths[pool].argsort(descending=True, stable=True)].split(self.batch_size)
        # A short batch stays at the end, else all after it would straddle two lengths.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        for i in torch.randperm(len(full), generator=generator).tolist():
            yield from full[i].tolist()
        for batch in rest:
            yield from batch.tolist()


class SetEpoch(TrainerCallback):
    """Tells the sampler which epoch begins. After resuming in the middle of one over several processes the sampler lies
    too deep in accelerate's wrappers for Trainer to reach, and would begin with the order of the first epoch."""

    def __init__(self, sampler: SameLengthSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int(state.epoch + 1e-6))


class LengthGroupedBatches(Trainer):
    """What both trainers change in Trainer: batches of one length, also over several processes, and evaluation in row
    order."""

    # Trainer's own hints allow None.
    model: PreTrainedModel
    train_dataset: datasets.Dataset

    # Seconds that evaluating a row takes at most, in those of a training step for one; a label generator's differ.
    evaluation_cost = 1.0
    # The losses divide by the number of cells or tokens of the whole global batch.
    loss_is_scaled_for_ga = True

    _mean_weight: float | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer's; under FSDP 2 the gradients of the processes are added in fp32, not in the 16 bit of compute."""
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.mixed_precision_policy is not None:
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As Trainer's, with `--layer_lr_decay`."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        args: Any = self.args  # of our dataclass
        if is_new and args.layer_lr_decay < 1:
            slow_first_layers(optimizer, self.model if model is None else model, args.layer_lr_decay)
        return optimizer

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "weight" not in columns:  # what the loss takes, and the model does not
            columns.append("weight")

    def relative_weights(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        """Take the weights of a batch's rows out of it; divided by the mean of all training rows they are `[B]`.

        So the learning rate keeps its meaning, and the loss need not know how a batch is divided. None where rows have
        no weights, and in evaluation, which does not weigh rows.
        """
        weights = inputs.pop("weight", None)
        if weights is None or not self.model.training:
            return None
        if self._mean_weight is None:
            self._mean_weight = float(np.mean(self.train_dataset["weight"][:]))
        return weights / self._mean_weight

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        strategy = self.args.train_sampling_strategy
        if strategy not in ("group_by_length", "random"):
            return super()._get_train_sampler(train_dataset)
        # Trainer's own leaves out the number of processes, so that each has batches of another length.
        global_batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * max(1, self.args.world_size)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        lengths = self.train_dataset["length"][:] if strategy == "group_by_length" else [0] * len(self.train_dataset)
        sampler = SameLengthSampler(lengths, global_batch, seed)
        self.add_callback(SetEpoch(sampler))
        return sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler:
        # Trainer's own would shuffle the rows here too when training is grouped by length.
        return SequentialSampler(eval_dataset)

    def _load_callback_state(self) -> None:
        # Trainer makes callbacks anew from what a checkpoint holds of them.
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "trainer"):
                callback.trainer = self

    def _finalize_training(self, *args: object, **kwargs: object) -> object:
        # For the steps since the last log Trainer would count this process's part of the loss only.
        self._tr_loss = self.accelerator.reduce(self._tr_loss, reduction="mean")
        return super()._finalize_training(*args, **kwargs)


@contextmanager
def refusing_trackers(output_dir: str) -> Generator[None]:
    """Turn what Trainer raises while it is made, as for a tracker that is not installed, into a `UserError`.

    Args:
        output_dir: which Trainer makes at once; it is removed again where it was not there.
    """
    was_there = Path(output_dir).exists()
    try:
        yield
    except Exception as error:  # all kinds: TypeError for an option of accelerate, KeyError for a name
        if not was_there:
            remove_if_empty(output_dir)
        raise UserError(f"Trainer cannot be made with these flags: {type(error).__name__}: {error}") from error
