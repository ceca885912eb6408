"""Trainer's arguments: the defaults of this task, what is refused, and what a run's result depends on."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import OptimizerNames
from transformers.utils import is_liger_kernel_available

from utils.core.arguments import ARGMAX, ModelArguments, RunArguments, ThresholdArguments
from utils.core.errors import UserError
from utils.core.parser import option
from utils.models.precision import bf16_is_fast
from utils.scoring.scores import TUNED, higher_is_better
from utils.scoring.thresholds import ThresholdRule
from utils.training.launch import check_deepspeed_installed, fsdp_storage

MOST_EPOCHS = 1_000_000
# So many processes that read data are taken on any machine.
LEAST_WORKERS = 16
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
    "layer_lr_decay",
    "label_smoothing_factor",
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


@dataclass
class TaskTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of this task."""

    _argument_group_name = "Trainer"

    output_dir: str = option(None, "folder of the run: model, scores, report (needed)")
    learning_rate: float | None = option(None, "peak learning rate; left out: 2e-5 in full, 2e-4 with LoRA")
    optim: str | None = option(None, "optimizer; left out: adamw_torch_fused, with 4 bit on a GPU paged_adamw_8bit")
    num_train_epochs: float = option(5.0, "passes over the training rows")
    per_device_train_batch_size: int = option(32, "micro-batch of one process")
    per_device_eval_batch_size: int = option(128, "rows predicted at a time by one process")
    warmup_steps: float = option(0.1, "steps of rising learning rate; below 1 a share of all steps")
    weight_decay: float = option(0.01, "weight decay of AdamW")
    layer_lr_decay: float = option(
        1.0, "learning rate of a layer as a share of that of the layer above it; the head has --learning_rate"
    )
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
    metric_for_best_model: str | None = option(
        None,
        "validation score that picks the best checkpoint; left out: map, which flatters little, where --best_by is "
        "f1_macro, else that score with tuned thresholds",
    )
    train_sampling_strategy: str = option(
        "group_by_length",
        "how batches are drawn; group_by_length pads least",
        choices=["random", "sequential", "group_by_length", "batch_rebalance"],
    )
    restore_callback_states_from_checkpoint: bool = option(True, "resume early stopping's count too")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "trackers: wandb, tensorboard, trackio, ...; all; none"}
    )
    # utils.hub pushes the run once, when it is finished.
    hub_strategy: str = field(default="end", init=False)
    hub_always_push: bool = field(default=False, init=False)
    hub_revision: str | None = field(default=None, init=False)
    # --label_names is the file with the names of the labels.
    label_names: list[str] | None = field(default=None, init=False)
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
        self.best_metric_left_out = self.metric_for_best_model is None
        self.metric_for_best_model = self.metric_for_best_model or "map"
        if self.greater_is_better is None:
            self.greater_is_better = higher_is_better(self.metric_for_best_model)
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        self.optim_left_out = self.optim is None
        self.optim = self.optim or "adamw_torch_fused"
        if "paged" in self.optim and not on_gpu:
            raise UserError(f"--optim {self.optim} needs a CUDA GPU: leave it out")
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bf16_is_fast(on_gpu)
            self.fp16 = self.fp16 or (on_gpu and not self.bf16)
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it TrainingArguments refuses bf16
        try:
            super().__post_init__()
        except Exception as error:  # Trainer's own checks raise all kinds; what they check are flags
            raise UserError(f"{type(error).__name__}: {error}: see --help_all for Trainer's flags") from error
        options = self.activation_checkpointing_kwargs
        if options is not None and not isinstance(options, dict):
            raise UserError(f"--activation_checkpointing_kwargs {options}: give JSON with names and values, in braces")

    @property
    def optimizer_name(self) -> str:
        """Name of the optimizer that is used."""
        return OptimizerNames(self.optim).value

    @property
    def compute_dtype(self) -> str:
        """Name of the dtype that matrix products are computed in."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"

    @property
    def torch_compute_dtype(self) -> torch.dtype:
        """The same for torch."""
        return getattr(torch, self.compute_dtype)

    @property
    def checkpoints_activations(self) -> bool:
        """Whether activations are computed again in the backward pass, asked for by the new flag or the old one."""
        return bool(self.activation_checkpointing or self.gradient_checkpointing)

    def _check_values(self) -> None:
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
            "max_grad_norm": 0,
            "adam_epsilon": 0,
            "logging_steps": 0,
            "eval_delay": 0,
            "save_total_limit": 1,
            "eval_accumulation_steps": 1,
            "dataloader_prefetch_factor": 1,
            "data_seed": 0,
            "neftune_noise_alpha": 0,
            "ddp_timeout": 1,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"--{name} {value}: must be {least} or more")
        if not (0 < self.num_train_epochs < math.inf or self.max_steps > 0):
            raise UserError(f"--num_train_epochs {self.num_train_epochs}: must be above 0")
        if self.num_train_epochs > MOST_EPOCHS:
            raise UserError(f"--num_train_epochs {self.num_train_epochs}: must be {MOST_EPOCHS} or less")
        for name in ("eval_steps", "save_steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name} {value}: must be above 0")
        if not 0 < self.layer_lr_decay <= 1:
            raise UserError(f"--layer_lr_decay {self.layer_lr_decay}: must be above 0, and 1 or less")
        if not 0 <= self.label_smoothing_factor < 1:
            raise UserError(f"--label_smoothing_factor {self.label_smoothing_factor}: must be 0 or more and below 1")
        cores = os.cpu_count() or 1
        most = max(LEAST_WORKERS, 4 * cores)
        if self.dataloader_num_workers > most:
            raise UserError(
                f"--dataloader_num_workers {self.dataloader_num_workers}: this machine has {cores} cores, and each "
                f"worker is a process: take {most} or fewer, or leave it out"
            )
        if self.max_steps == 0 or self.max_steps < -1:
            raise UserError(f"--max_steps {self.max_steps}: must be above 0; leave it out to go by --num_train_epochs")
        of_workers = (
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
        )
        for name in of_workers:
            if getattr(self, name, None) and not self.dataloader_num_workers:
                raise UserError(f"--{name} is for --dataloader_num_workers: add it, or leave both out")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be 0 or more and below 1")
        if self.use_liger_kernel and not is_liger_kernel_available():
            raise UserError("--use_liger_kernel needs the package liger-kernel: pip install liger-kernel")
        refused = {
            "save_only_model": "a run could not be resumed from such checkpoints",
            "dataloader_drop_last": "rows would be missing from scores and submissions",
            "resume_from_checkpoint": "a run resumes by itself when its command is given again",
            "prediction_loss_only": "scores need the predictions",
        }
        for name, reason in refused.items():
            if getattr(self, name):
                raise UserError(f"--{name} is not supported: {reason}")


def fill_in(
    model_args: ModelArguments,
    threshold_args: ThresholdArguments,
    training_args: TaskTrainingArguments,
    eval_only: bool = False,
) -> None:
    """Fill in what was left out and depends on other flags or on the launch. Nothing else changes arguments.

    Args:
        model_args: gets the dtype of the weights that are not 4-bit: fp32 in full, bf16 with LoRA where the machine
            computes in it. Without bf16 they stay fp32 under fp16 autocast: hidden states of Qwen exceed fp16's
            range. For 4-bit weights under FSDP it is the dtype that they are packed in.
        threshold_args: say what is chosen for, and whether there will be scores at tuned thresholds.
        training_args: gets the learning rate (LoRA wants about ten times that of full fine-tuning), the optimizer, the
            score that picks the checkpoint, and the name that trackers give to the run.
        eval_only: whether the model is scored as it is.
    """
    if training_args.learning_rate is None:
        training_args.learning_rate = 2e-4 if model_args.use_peft else 2e-5
    storage = fsdp_storage(model_args, training_args)
    if model_args.dtype is None:
        in_bf16 = training_args.bf16 and (model_args.use_peft or eval_only)
        model_args.dtype = storage or ("bfloat16" if in_bf16 else "float32")
    if storage is not None and model_args.bnb_4bit_quant_storage is None:
        model_args.bnb_4bit_quant_storage = storage
    # bitsandbytes' optimizers do not know FSDP's sharded weights.
    if training_args.optim_left_out and model_args.load_in_4bit and not training_args.use_cpu and storage is None:
        training_args.optim = OptimizerNames.PAGED_ADAMW_8BIT
    rule = ThresholdRule.asked_for(threshold_args)
    if training_args.best_metric_left_out and rule.best_by != "f1_macro":
        training_args.metric_for_best_model = rule.main_score
    if threshold_args.threshold_strategy in ("fixed", ARGMAX) and training_args.metric_for_best_model:
        training_args.metric_for_best_model = training_args.metric_for_best_model.removesuffix(TUNED)
    # Without a name trackio would begin another run for each part of the script.
    training_args.run_name = training_args.run_name or Path(training_args.output_dir).resolve().name


def check_early_stopping(run_args: RunArguments, training_args: TaskTrainingArguments) -> None:
    """Refuse early stopping where no evaluation chooses a checkpoint; `check_start` has checked the rest."""
    if run_args.early_stopping_patience is not None and not training_args.load_best_model_at_end:
        raise UserError("--early_stopping_patience needs --load_best_model_at_end and an --eval_strategy")


def check_optimizer(training_args: TaskTrainingArguments) -> None:
    """Refuse optimizers and schedulers that could not be made, before the folder of the run is: they are tried out.

    Raises:
        UserError: with what the library says of it.
    """
    model: Any = torch.nn.Linear(2, 2)
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(training_args, model)
        if not {"params", "model", "optimizer_dict"} & set(options):
            optimizer = kind(model.parameters(), **options)
            steps = 10
            more: Any = training_args.lr_scheduler_kwargs
            scheduler = get_scheduler(
                training_args.lr_scheduler_type, optimizer, 1, steps, scheduler_specific_kwargs=more
            )
            if training_args.lr_scheduler_type != "reduce_lr_on_plateau":
                for _ in range(steps):
                    optimizer.step()
                    scheduler.step()
    except Exception as error:  # packages that are missing, options that are unknown, values that do not fit
        raise UserError(
            f"--optim {training_args.optim}, --lr_scheduler_type {training_args.lr_scheduler_type} and their options "
            f"do not work: {type(error).__name__}: {error}"
        ) from error


def check_best_metric(training_args: TaskTrainingArguments, metrics: set[str]) -> None:
    """Refuse to choose checkpoints by a score that is none of `metrics`, those that evaluations give."""
    name = training_args.metric_for_best_model or ""
    if training_args.load_best_model_at_end and name.removeprefix("eval_") not in metrics:
        known = ", ".join(metric for metric in sorted(metrics) if "/" not in metric)
        raise UserError(f"--metric_for_best_model {name}: there are {known}")


def arguments_of_result(run_args: RunArguments, training_args: TaskTrainingArguments) -> dict[str, Any]:
    """Trainer's arguments, and the number of processes, that a run's result depends on: for `run_args.json`."""
    processes = max(1, training_args.world_size)
    batch = training_args.train_batch_size * training_args.gradient_accumulation_steps * processes
    return {
        "early_stopping_patience": run_args.early_stopping_patience,
        "global_batch_size": batch,
        **{name: getattr(training_args, name) for name in RESULT_ARGUMENTS},
    }
