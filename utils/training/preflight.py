"""Checks and a summary before training.

A run with frozen LoRA weights, a head that is not trained or a pooled pad position still finishes, with scores that
look like those of a weak model. Here it does not start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.core.arguments import ModelArguments
from utils.core.errors import UserError
from utils.core.tables import format_share, format_table
from utils.doctor.bars import some_rows
from utils.doctor.texts import MOST_TEXTS, find_unknown
from utils.models.approaches import Approach
from utils.models.parameters import (
    count_parameters,
    parameter_kind,
    quantized_modules,
    without_adapter,
)
from utils.models.sharding import is_sharded
from utils.training.memory import Memory

if TYPE_CHECKING:
    from utils.data.examples import Examples
    from utils.training.arguments import TaskTrainingArguments


@dataclass
class Texts:
    """Lengths of the training texts in tokens, the limit, and how many are longer.

    Args:
        longest: tokens of the longest text.
        truncated: texts that lose tokens.
        rows: number of texts.
        limit: tokens that the model sees at a time.
        longer: texts that are longer than the limit, whatever is done with them; left out: those that lose tokens.
        most: tokens of the longest text as the model reads it, in windows that overlap.
        long_texts: what is done with longer ones: `cut`, `middle` or `windows`.
    """

    longest: int
    truncated: int
    rows: int
    limit: int
    longer: int | None = None
    most: int = 0
    long_texts: str = "cut"

    @classmethod
    def of(cls, tokens: datasets.Dataset, limit: int, long_texts: str) -> Texts:
        """Lengths of texts that an approach has encoded.

        Args:
            tokens: of the texts.
            limit: tokens that the model reads at a time.
            long_texts: what is done with longer ones.
        """
        lengths, full_lengths = np.array(tokens["length"][:]), np.array(tokens["full_length"][:])
        truncated = int((full_lengths > lengths).sum())
        longer = int((full_lengths > limit).sum()) if long_texts == "windows" else truncated
        return cls(int(full_lengths.max()), truncated, len(tokens), limit, longer, int(lengths.max()), long_texts)

    def describe(self) -> str:
        """The lengths in words, and what is done with longer texts."""
        text = f"longest {self.longest} tokens, limit {self.limit}, "
        if self.long_texts == "windows":
            windows = -(-self.most // self.limit)
            return f"{text}{self._share} longer, read in up to {windows} windows"
        how = ", their middle left out" if self.long_texts == "middle" else ""
        return f"{text}{self._share} truncated{how}"

    @property
    def _share(self) -> str:
        longer = self.truncated if self.longer is None else self.longer
        return f"{longer} of {self.rows}" + (f" ({format_share(longer / self.rows)})" if longer else "")


class Preflight:
    """Checks and a summary before training. Making one does the checks; trackers get its figures.

    Args:
        approach: what is to be trained.
        tokens: training texts as it has encoded them.
        training_args: Trainer's arguments.
        rows: the training rows.
        pos_weights: weights of the positive cells of each label `[L]`, where the loss has them.

    Raises:
        UserError: for what would not train as it must.
    """

    def __init__(
        self,
        approach: Approach,
        tokens: datasets.Dataset,
        training_args: TaskTrainingArguments,
        rows: Examples,
        pos_weights: np.ndarray | None = None,
    ):
        self.approach, self.training_args, self.pos_weights = approach, training_args, pos_weights
        self.texts = Texts.of(tokens, approach.max_length, approach.task.long_texts)
        self.unknown = unknown_tokens(rows, approach.tokenizer)
        approach.check()
        base = without_adapter(approach.model)
        if training_args.checkpoints_activations and not base.supports_gradient_checkpointing:
            kind = base.config.model_type
            raise UserError(f"--activation_checkpointing: {kind} models cannot compute activations again: leave it out")
        check_weights(approach.model, approach.model_args, approach.tokenizer, self.texts)
        self.total, self.trainable = count_parameters(approach.model)
        self.memory = Memory(approach, tokens, training_args)

    def summary(self) -> str:
        """The preflight as text for the terminal."""
        model, model_args, args = self.approach.model, self.approach.model_args, self.training_args
        total, trainable = self.total, sum(self.trainable.values())
        quantized = quantized_modules(model)
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.memory.parts.items())
        rows = [
            ["base model", f"{model_args.model_name_or_path} ({without_adapter(model).config.model_type})"],
            ["parameters", f"{total:,}"],
            ["trainable", f"{trainable:,} ({trainable / total:.2%})"],
            *([f"  {kind}", f"{count:,}"] for kind, count in self.trainable.items() if count),
            ["quantised", f"{len(quantized)} linear layers" if quantized else "nothing"],
            ["weights, compute", f"{model_args.dtype}, {args.compute_dtype}"],
            *self.approach.preflight_rows(),
            ["learning rate", f"{args.learning_rate:g}, {args.optimizer_name}"],
            ["pad, eos", f"{_token(self.approach.tokenizer, 'pad')}, {_token(self.approach.tokenizer, 'eos')}"],
            ["texts", self.texts.describe()],
            ["unknown tokens", self.unknown],
            ["memory, estimated", f"{_size(self.memory.total)}: {parts}"],
        ]
        if self.memory.problem:
            rows[-1][1] += f"; {self.memory.problem}"
        advice = self.memory.advice()
        rows += [["WARNING", f"a step {advice}"]] if advice else []
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows) + "\n\n" + self._label_counts()

    def _label_counts(self) -> str:
        """Table of the training rows of each label, and the weights of its positive cells."""
        task = self.approach.task
        columns: dict[str, list] = {"label": task.labels, "training rows": task.train_positives}
        if task.train_annotated:
            columns["annotated"] = task.train_annotated
        if self.pos_weights is not None:
            columns["pos_weight"] = [f"{weight:.2f}" for weight in self.pos_weights]
        return format_table(list(columns), [list(row) for row in zip(*columns.values())]) + "\n"

    def figures(self) -> dict[str, float]:
        """The figures by name, for trackers: numbers of weights, lengths of texts, bytes of memory."""
        return {
            "parameters": self.total,
            "trainable": sum(self.trainable.values()),
            **{f"trainable/{kind}": count for kind, count in self.trainable.items() if count},
            "quantised_layers": len(quantized_modules(self.approach.model)),
            "longest_text": self.texts.longest,
            "truncated_texts": self.texts.truncated,
            "max_length": self.texts.limit,
            **{f"memory/{name}": size for name, size in self.memory.parts.items()},
        }


def unknown_tokens(rows: Examples, tokenizer: PreTrainedTokenizerBase) -> str:
    """How many training texts, of a sample if there are many, hold tokens that the model does not know, and which."""
    chosen = some_rows(len(rows), MOST_TEXTS)
    unknown = find_unknown(rows.rows.select(chosen)["text"][:], tokenizer)
    which = f": {unknown.describe()}" if len(unknown.rows) else ""
    return f"in {len(unknown.rows):,} of {len(chosen):,} texts{which}"


def check_weights(
    model: PreTrainedModel, model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase, texts: Texts
) -> None:
    """Refuse what would train nothing, with any approach.

    Args:
        model: as it is to be trained.
        model_args: how it was loaded.
        tokenizer: of the model.
        texts: lengths of the training texts.

    Raises:
        UserError: where LoRA is asked for and no LoRA weight is trainable, nothing is trainable, a tensor would be
            trained in fp16, the pad id is missing or another in the tokenizer, or every text is truncated.
    """
    base = without_adapter(model)
    trainable = {parameter_kind(name) for name, p in model.named_parameters() if p.requires_grad}
    if model_args.use_peft and "LoRA" not in trainable:
        raise UserError("no LoRA weight is trainable: the adapters are frozen, so nothing but the head would learn")
    halves = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype == torch.float16]
    if halves and not is_sharded(model):  # DeepSpeed scales fp16 gradients itself
        raise UserError(
            f"{halves[0]} would be trained in fp16, whose gradients the gradient scaler does not take: --dtype float32"
        )
    if not trainable:
        raise UserError("nothing of the model is trainable")
    if tokenizer.pad_token_id is None or base.config.pad_token_id is None:
        raise UserError("the pad id is missing: set it on the tokenizer and on the model's configuration")
    if base.config.pad_token_id != tokenizer.pad_token_id:
        raise UserError(
            f"the pad ids differ: {tokenizer.pad_token_id} in the tokenizer, {base.config.pad_token_id} in the model, "
            "which would pool a pad position"
        )
    if model_args.use_dora and model_args.load_in_8bit:
        raise UserError("--use_dora does not work with --load_in_8bit: pass --load_in_4bit, or leave one of them out")
    if texts.truncated == texts.rows and texts.long_texts == "cut":
        raise UserError(
            f"every text is longer than {texts.limit} tokens and would be cut: raise --max_length, or see --long_texts"
        )


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _token(tokenizer: PreTrainedTokenizerBase, kind: str) -> str:
    value = getattr(tokenizer, f"{kind}_token")
    return "none" if value is None else f"{value} ({getattr(tokenizer, f'{kind}_token_id')})"
