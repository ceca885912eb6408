"""Trainer, fitted to multi-label classification: defaults, batches of one length, and a readable log."""

import math
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import OptimizerNames

from utils.arguments import option
from utils.errors import UserError
from utils.launch import check_deepspeed_installed
from utils.preflight import costs, fingerprints, unchanged_tensors

# Batches of one length are cut from this many batches of random rows.
BATCHES_PER_POOL = 50

# What a run's result depends on, besides our own arguments. A run is resumed only with the same values.
RESULT_ARGUMENTS = [
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "eval_strategy",
    "metric_for_best_model",
    "load_best_model_at_end",
    "eval_steps",
    "save_strategy",
    "save_steps",
]


def machine_has_bf16(on_gpu):
    """Whether bf16 is fast here: NVIDIA GPUs from Ampere on, CPUs with AMX. With AVX512-bf16 alone fp32 is faster: a
    training step of MiniLM took half the time."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return False  # Apple's and others' are untested
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16"))


@dataclass
class TaskTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of this task."""

    _argument_group_name = "Trainer"

    learning_rate: float | None = option(None, "peak learning rate; left out: 2e-5 in full, 2e-4 with LoRA")
    optim: str | None = option(None, "optimizer; left out: adamw_torch_fused, with 4 bit on a GPU paged_adamw_8bit")
    num_train_epochs: float = option(5.0, "passes over the training rows")
    per_device_train_batch_size: int = option(32, "micro-batch of one process")
    per_device_eval_batch_size: int = option(128, "rows predicted at a time by one process")
    warmup_steps: float = option(0.1, "steps of rising learning rate; below 1 a share of all steps")
    weight_decay: float = option(0.01, "weight decay of AdamW")
    bf16: bool | None = option(None, "bf16 mixed precision; left out: where the machine is fast at it")
    logging_steps: float = option(20, "steps between two lines of the log; below 1 a share of all steps")
    eval_strategy: str = option("epoch", "when to evaluate", choices=["no", "steps", "epoch"])
    save_strategy: str | None = option(
        None,
        "when to save a checkpoint; left out: when it is evaluated",
        choices=[strategy.value for strategy in SaveStrategy],
    )
    save_total_limit: int | None = option(1, "checkpoints kept during the run, besides the best")
    load_best_model_at_end: bool = option(True, "end with the checkpoint with the best --metric_for_best_model")
    metric_for_best_model: str | None = option("f1_macro_tuned", "validation score that picks the best checkpoint")
    train_sampling_strategy: str = option(
        "group_by_length",
        "how batches are drawn; group_by_length pads least",
        choices=["random", "sequential", "group_by_length", "batch_rebalance"],
    )
    restore_callback_states_from_checkpoint: bool = option(True, "resume early stopping's count too")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "trackers: wandb, tensorboard, trackio, ...; all; none"}
    )
    # A finished run is pushed, once, by utils.hub.
    hub_strategy: str = field(default="end", init=False)
    hub_always_push: bool = field(default=False, init=False)
    hub_revision: str | None = field(default=None, init=False)
    ddp_find_unused_parameters: bool | None = option(False, "look for parameters without a gradient in every step")
    # Trainer's own help texts of these hold a bare percent sign, which argparse cannot print.
    lr_scheduler_kwargs: dict | str | None = field(default=None, metadata={"help": "JSON for the scheduler"})

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("give the folder of the run by --output_dir")
        self._check_values()
        check_deepspeed_installed(self.deepspeed)
        if self.save_strategy is None:
            self.save_strategy = "epoch" if self.eval_strategy == "no" else self.eval_strategy
            if self.eval_strategy == "steps" and self.eval_steps:
                self.save_steps = self.eval_steps
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False  # no evaluation says which is the best
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        self.optim_left_out = self.optim is None
        self.optim = self.optim or "adamw_torch_fused"
        if "paged" in self.optim and not on_gpu:
            raise UserError(f"--optim {self.optim} needs a CUDA GPU: leave it out")
        if self.bf16 is None:
            self.bf16 = not self.fp16 and machine_has_bf16(on_gpu)
            self.fp16 = self.fp16 or (on_gpu and not self.bf16)
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it TrainingArguments refuses bf16
        try:
            super().__post_init__()
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def compute_dtype(self):
        """Name of the dtype that matrix products are computed in."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"

    def _check_values(self):
        """Refuse values that Trainer would meet with a traceback, or ignore."""
        at_least = {
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "dataloader_num_workers": 0,
            "seed": 0,
            "learning_rate": 0,
            "weight_decay": 0,
            "warmup_steps": 0,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"--{name} {value}: must be {least} or more")
        if not (0 < self.num_train_epochs < math.inf or self.max_steps > 0):
            raise UserError(f"--num_train_epochs {self.num_train_epochs}: must be above 0")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be 0 or more and below 1")
        refused = {
            "label_smoothing_factor": "the multi-label losses do not smooth labels",
            "save_only_model": "a run could not be resumed from such checkpoints",
            "dataloader_drop_last": "rows would be missing from scores and submissions",
            "resume_from_checkpoint": "a run resumes by itself when its command is given again",
            "prediction_loss_only": "scores need the predictions",
        }
        for name, reason in refused.items():
            if getattr(self, name):
                raise UserError(f"--{name} is not supported: {reason}")


def choose_by_mode(training_args, model_args, eval_only=False):
    """Fill in what depends on how the model is trained: learning rate, optimizer, dtype of the weights.

    LoRA wants about ten times the learning rate of full fine-tuning.
    """
    if training_args.learning_rate is None:
        training_args.learning_rate = 2e-4 if model_args.use_peft else 2e-5
    if training_args.optim_left_out and model_args.load_in_4bit and not training_args.use_cpu:
        training_args.optim = OptimizerNames.PAGED_ADAMW_8BIT
    if model_args.dtype is None:
        model_args.dtype = training_args.compute_dtype if model_args.use_peft or eval_only else "float32"


def check_run(training_args, model_args, run_args, eval_only=False):
    """Refuse what does not go together, before anything is loaded."""
    if (model_args.load_in_4bit or model_args.load_in_8bit) and not (model_args.use_peft or eval_only):
        raise UserError("weights in 4 or 8 bit cannot be trained themselves: add --use_peft")
    output_dir = training_args.output_dir
    if Path(output_dir).resolve() == Path(model_args.model_name_or_path).resolve():
        raise UserError(f"--output_dir {output_dir} is the folder of the model to start from: choose another")
    if run_args.early_stopping_patience is not None and not training_args.load_best_model_at_end:
        raise UserError("--early_stopping_patience needs --load_best_model_at_end and an --eval_strategy")
    if run_args.merge_adapter and (not model_args.use_peft or model_args.pooling == "mean"):
        raise UserError("--merge_adapter is for runs with --use_peft and --pooling last")


def check_best_metric(training_args, metrics):
    """Refuse to choose checkpoints by a score that evaluations do not give."""
    name = training_args.metric_for_best_model or ""
    if training_args.load_best_model_at_end and name.removeprefix("eval_") not in metrics:
        known = ", ".join(metric for metric in sorted(metrics) if "/" not in metric)
        raise UserError(f"--metric_for_best_model {name}: there are {known}")


def arguments_of_result(training_args, run_args):
    """What a run's result depends on, of Trainer's arguments and the number of processes: for `run_args.json`."""
    processes = max(1, training_args.world_size)
    batch = training_args.train_batch_size * training_args.gradient_accumulation_steps * processes
    return {
        "early_stopping_patience": run_args.early_stopping_patience,
        "global_batch_size": batch,
        **{name: getattr(training_args, name) for name in RESULT_ARGUMENTS},
    }


def train(trainer, checkpoint, early_stopping_patience, log):
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


class LengthGroupedSampler(Sampler):
    """Rows in an order in which each `batch_size` neighbours have about one length, another order every epoch.

    As in transformers' sampler of this name, rows are drawn at random, sorted by length within pools of 50 batches and
    cut into batches. Here the batches are then shuffled, so that the length does not fall steadily through a pool, and
    the order depends on seed and epoch alone, not on what else drew random numbers: resuming and other numbers of
    processes see the same batches.
    """

    def __init__(self, lengths, batch_size, seed):
        self.lengths, self.batch_size, self.seed, self.epoch = torch.tensor(lengths), batch_size, seed, 0

    def __len__(self):
        return len(self.lengths)

    def set_epoch(self, epoch):
        """Called by accelerate's data loader at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self):
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

    def __init__(self, sampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch + 1e-6))


class LengthGroupedBatches:
    """What both trainers change in Trainer: batches of one length, also over several processes, and evaluation in row
    order."""

    # The losses divide by the number of cells or tokens of the whole global batch.
    loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset=None):
        strategy = self.args.train_sampling_strategy
        if strategy not in ("group_by_length", "random"):
            return super()._get_train_sampler(train_dataset)
        # Trainer's own leaves out the number of processes, so that each has batches of another length.
        global_batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * max(1, self.args.world_size)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        lengths = self.train_dataset["length"][:] if strategy == "group_by_length" else [0] * len(self.train_dataset)
        sampler = LengthGroupedSampler(lengths, global_batch, seed)
        self.add_callback(SetEpoch(sampler))
        return sampler

    def _get_eval_sampler(self, eval_dataset):
        # Trainer's own would shuffle the rows here too when training is grouped by length.
        return SequentialSampler(eval_dataset)

    def _finalize_training(self, *args, **kwargs):
        # Of the steps since the last log Trainer would count this process's part of the loss only.
        self._tr_loss = self.accelerator.reduce(self._tr_loss, reduction="mean")
        return super()._finalize_training(*args, **kwargs)


class MultiLabelTrainer(LengthGroupedBatches, Trainer):
    """Trainer for a classification head."""


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


def describe_logs(logs):
    """One line for the terminal: losses and summary scores, without the figures of each label."""
    if "eval_loss" in logs:
        tuned = f", {logs['eval_f1_macro_tuned']:.4f} tuned" if "eval_f1_macro_tuned" in logs else ""
        if "eval_f1_macro_decoded" in logs:
            tuned += f", {logs['eval_f1_macro_decoded']:.4f} of the answers"
        return (
            f"epoch {logs['epoch']:.2f}: validation loss {logs['eval_loss']:.4f}, "
            f"macro-F1 {logs['eval_f1_macro']:.4f} at 0.5{tuned}, micro-F1 {logs['eval_f1_micro']:.4f}, "
            f"Jaccard {logs['eval_jaccard']:.4f}, mAP {logs['eval_map']:.4f}"
        )
    if "loss" in logs:
        accuracy = f", token accuracy {logs['mean_token_accuracy']:.3f}" if "mean_token_accuracy" in logs else ""
        return (
            f"epoch {logs['epoch']:.2f}: loss {logs['loss']:.4f}{accuracy}, learning rate {logs['learning_rate']:.2e}"
        )
    return None


class LogWithProgressBar(ProgressCallback):
    """Trainer's progress bar; the log as readable lines above it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = describe_logs(logs)
        if line and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(line)


class LogWithoutProgressBar(PrinterCallback):
    """The log as readable lines, for `--disable_tqdm`."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = describe_logs(logs)
        if line and state.is_world_process_zero:
            print(line, flush=True)


def use_readable_log(trainer):
    """Replace the callback that prints Trainer's dictionaries."""
    trainer.remove_callback(PrinterCallback if trainer.args.disable_tqdm else ProgressCallback)
    trainer.add_callback(LogWithoutProgressBar if trainer.args.disable_tqdm else LogWithProgressBar)
