"""TRL's SFTTrainer, fitted to answers that are lists of labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.parser import option
from utils.core.shown import quote
from utils.data.examples import Examples
from utils.models.encoding import longest_first
from utils.models.generator.generator import LabelGenerator
from utils.models.generator.prompts import IGNORED
from utils.scoring.evaluation import Evaluation, Evaluator
from utils.training.arguments import TaskTrainingArguments
from utils.training.batches import LengthGroupedBatches, refusing_trackers
from utils.training.log import use_readable_log


@dataclass
class GeneratorTrainingArguments(TaskTrainingArguments, SFTConfig):
    """`trl.SFTConfig` with the defaults of this task; what would change prompts, answers or batches is ours."""

    per_device_train_batch_size: int = option(16, "micro-batch of one process")
    per_device_eval_batch_size: int = option(64, "rows scored at a time by one process")
    gradient_checkpointing: bool | None = option(None, "the old name of --activation_checkpointing")
    label_smoothing_factor: float = field(default=0.0, init=False)  # answers that are written in one way have one
    # Rows come tokenised, with their answers marked, and are neither cut, packed nor shuffled by TRL.
    dataset_kwargs: dict | None = field(default_factory=lambda: {"skip_prepare_dataset": True}, init=False)
    max_length: int | None = field(default=None, init=False)
    model_init_kwargs: dict | None = field(default=None, init=False)
    chat_template_path: str | None = field(default=None, init=False)
    dataset_text_field: str = field(default="text", init=False)
    dataset_num_proc: int | None = field(default=None, init=False)
    eos_token: str | None = field(default=None, init=False)
    pad_token: str | None = field(default=None, init=False)
    truncation_mode: str = field(default="keep_start", init=False)
    shuffle_dataset: bool = field(default=False, init=False)
    packing: bool = field(default=False, init=False)
    packing_strategy: str = field(default="bfd", init=False)
    padding_free: bool = field(default=False, init=False)
    pad_to_multiple_of: int | None = field(default=None, init=False)
    eval_packing: bool | None = field(default=None, init=False)
    completion_only_loss: bool | None = field(default=None, init=False)
    assistant_only_loss: bool = field(default=False, init=False)
    loss_type: str = field(default="nll", init=False)
    trust_remote_code: bool = field(default=False, init=False)  # ModelArguments have the flag


def check_whole_answers(train: Examples) -> None:
    """Refuse training rows that do not say what their whole answer is.

    Raises:
        UserError: for rows with cells that nobody has annotated.
    """
    unknown = np.isnan(train.labels).any(axis=1)
    if unknown.any():
        raise UserError(
            f"{unknown.sum()} of {len(train)} training rows have cells that are not annotated, the first with id "
            f'"{quote(train.ids[int(np.argmax(unknown))])}": a label generator is taught whole answers, in which a '
            "label that is left out means no: take these rows out, or train a head with run_classifier.py, which "
            "leaves such cells out of its loss"
        )


class AnswerEvaluator:
    """Asks a generator for the labels of validation texts, and scores its answers.

    Args:
        generator: to ask.
        examples: validation rows.
        evaluate: scores their predictions.
        batch_size: rows that one process takes at a time.
    """

    def __init__(self, generator: LabelGenerator, examples: Examples, evaluate: Evaluator, batch_size: int):
        self.generator, self.evaluate, self.batch_size = generator, evaluate, batch_size
        self.token_ids = generator.tokenize(examples.texts)
        shortened = generator.count_cut(self.token_ids)
        if shortened:
            log(f"{shortened} of {len(examples)} validation texts are shortened to {generator.form.budget} tokens")

    def __call__(self, coverage: float | None = None) -> Evaluation:
        """Answers, probabilities and scores; `coverage` is as in `LabelGenerator.answer`."""
        predictions = self.generator.answer(self.token_ids, self.batch_size, coverage)
        if "unknown_words" in predictions.figures:
            often = ", ".join(f"{word[:40]!r} ({n})" for word, n in self.generator.unknown_words.most_common(10))
            log(f"words in free answers that are no label: {often or 'none'}")
        return self.evaluate(predictions)


class LabelTrainer(LengthGroupedBatches, SFTTrainer):
    """SFTTrainer that runs the language head for the answers' tokens only, and scores labels when it evaluates.

    Args:
        generator: to train.
        args: Trainer's arguments.
        train_tokens: training examples as the generator has encoded them.
        validation_tokens: validation examples, likewise.
        evaluate: scores the answers to the validation examples, at each evaluation and in all processes; None without
            evaluations.
        eval_coverage: probability of the answers to reach then.
    """

    evaluation_cost = 4.0  # the loss, and the search over answers

    def __init__(
        self,
        generator: LabelGenerator,
        args: GeneratorTrainingArguments,
        train_tokens: datasets.Dataset,
        validation_tokens: datasets.Dataset,
        evaluate: AnswerEvaluator | None,
        eval_coverage: float,
    ):
        with refusing_trackers(args.output_dir):
            super().__init__(
                model=generator.model,
                args=args,
                train_dataset=train_tokens,
                eval_dataset=validation_tokens.select(longest_first(validation_tokens["length"][:])),
                processing_class=generator.tokenizer,
                data_collator=generator.collator(on_gpu=not args.use_cpu),
            )
        self.generator, self.evaluate_answers, self.eval_coverage = generator, evaluate, eval_coverage
        self._counted_since_log: list[torch.Tensor] = []  # `_sums_of_rows` of each micro-batch, summed up
        # SFTTrainer turns the adapters of quantised models into bf16, in which Adam's second moment stands still: a
        # thousandth of it is less than a bf16 can change by.
        if getattr(self.model, "is_quantized", False):
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        use_readable_log(self, evaluate.evaluate.rule.best_by if evaluate else "f1_macro")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy of the answers' tokens over the global batch.

        As SFTTrainer's own, which on a CPU runs the head over all positions, and which leaves out what some models
        (BERT) have between their last hidden state and their output embeddings.

        Args:
            model: as Trainer has wrapped it.
            inputs: of `AnswerCollator`.
            return_outputs: whether the model's outputs are wanted too.
            num_items_in_batch: answer tokens of the global batch.
        """
        labels, weights = inputs.pop("labels"), self.relative_weights(inputs)
        outputs = model(**inputs, use_cache=False, logits_to_keep=labels.shape[1])
        logits, labels = outputs.logits[:, :-1].float(), labels[:, 1:]
        counted = labels != IGNORED
        losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        if weights is not None:
            losses = weights[:, None] * losses
        loss = losses.sum() / (counted.sum() if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean over the processes
        rows = _sums_of_rows(logits, labels, losses, inputs["attention_mask"])
        if self.model.training:
            self._counted_since_log.append(rows.sum(dim=0))
        else:  # leaves out the rows that only fill up the last batch of several processes
            self._evaluated += self.accelerator.gather_for_metrics(rows).cpu().double().sum(dim=0)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As SFTTrainer's, whose figures are read off the device here only: each step would wait for them."""
        if self.model.training and self._counted_since_log:
            sums = torch.stack(self._counted_since_log).sum(dim=0, keepdim=True)
            answers, correct, entropy, _, tokens = self.accelerator.gather(sums).sum(dim=0).tolist()
            self._counted_since_log = []
            self._total_train_tokens += int(tokens)
            figures = {"mean_token_accuracy": correct / max(answers, 1), "entropy": entropy / max(answers, 1)}
            figures["num_tokens"] = self._total_train_tokens
            self._metrics["train"].update({name: [figure] for name, figure in figures.items()})
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Loss and token accuracy, then the labels' scores: added here, early stopping and the trackers see them.

        Loss and accuracy are means over all answer tokens of the rows, and do not depend on how these are batched;
        Trainer would take the mean of the batches' means.
        """
        self._evaluated = torch.zeros(5, dtype=torch.float64)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        answers, correct, entropy, loss, _ = self._evaluated.tolist()
        metrics: Any = output.metrics
        metrics[f"{metric_key_prefix}_loss"] = loss / max(answers, 1)
        self._metrics["eval"]["mean_token_accuracy"] = [correct / max(answers, 1)]
        self._metrics["eval"]["entropy"] = [entropy / max(answers, 1)]
        self.generator.model = self.model
        if self.evaluate_answers is not None:
            scores = self.evaluate_answers(self.eval_coverage).metrics
            metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Ours is written when the run is finished."""


@torch.no_grad()
def _sums_of_rows(logits: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What SFTTrainer logs, as sums of each row: answer tokens, right ones, entropy, loss, all tokens `[B, 5]`.

    Args:
        logits: of the answers' tokens, `[B, T, V]`.
        labels: IGNORED where there is no answer, `[B, T]`.
        losses: `[B, T]`.
        mask: of prompt, text and answer, `[B, S]`.
    """
    counted = labels != IGNORED
    right = (logits.argmax(dim=-1) == labels) & counted
    entropy = torch.distributions.Categorical(logits=logits).entropy() * counted
    return torch.stack([part.sum(dim=1).float() for part in (counted, right, entropy, losses, mask)], dim=1)
