"""Trainer, fitted to a classification head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from transformers import EvalPrediction
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import EvalLoopOutput

from utils.core.arguments import CROSS_ENTROPY, LossArguments
from utils.core.errors import UserError
from utils.models.classifier import Classifier
from utils.models.encoding import longest_first
from utils.scoring.evaluation import Evaluator
from utils.training.arguments import TaskTrainingArguments
from utils.training.batches import LengthGroupedBatches, refusing_trackers
from utils.training.log import use_readable_log
from utils.training.losses import MultiLabelLoss, class_weights, positive_weights


class MultiLabelTrainer(LengthGroupedBatches):
    """Trainer for a classification head.

    Args:
        classifier: to train.
        args: Trainer's arguments.
        train_tokens: training examples as the classifier has encoded them.
        validation_tokens: validation examples, likewise.
        loss: of logits and labels.
        evaluate: scores the validation examples; None without evaluations.
    """

    def __init__(
        self,
        classifier: Classifier,
        args: TaskTrainingArguments,
        train_tokens: datasets.Dataset,
        validation_tokens: datasets.Dataset,
        loss: MultiLabelLoss,
        evaluate: Evaluator | None = None,
    ):
        # Evaluated with the longest first, scored in the order of the file.
        order = longest_first(validation_tokens["length"][:])
        self.to_probabilities = classifier.probabilities
        self.loss = loss
        scored = partial(_compute_metrics, evaluate, self.to_probabilities, order) if evaluate else None

        with refusing_trackers(args.output_dir):
            super().__init__(
                model=classifier.model,
                args=args,
                train_dataset=train_tokens,
                eval_dataset=validation_tokens.select(order),
                processing_class=classifier.tokenizer,
                data_collator=classifier.collator(on_gpu=not args.use_cpu),
                compute_loss_func=loss,
                compute_metrics=scored,
            )
        use_readable_log(self, evaluate.rule.best_by if evaluate else "f1_macro")

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, with the weights of the rows, if they have any."""
        self.compute_loss_func = partial(self.loss, weights=self.relative_weights(inputs))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As Trainer's, with the loss as the mean over all known cells of the rows, whose labels are not smoothed.

        Trainer takes the mean of the batches' losses, in which batches with fewer known cells weigh too much, and rows
        count twice that fill up the last batch of several processes.
        """
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        metrics: Any = output.metrics
        logits, labels = (torch.tensor(np.asarray(array)) for array in (output.predictions, output.label_ids))
        loss = replace(self.loss, smoothing=0.0)
        metrics[f"{metric_key_prefix}_loss"] = loss(SequenceClassifierOutput(logits=logits), labels).item()
        return output

    def predict_in_order(self, tokens: datasets.Dataset) -> np.ndarray:
        """Probabilities `[N, L]` of encoded examples, in their order, with any number of processes."""
        order = longest_first(tokens["length"][:])
        logits = self.predict(tokens.select(order), metric_key_prefix="eval").predictions
        return _in_order(self.to_probabilities, logits, order)


def _compute_metrics(
    evaluate: Evaluator,
    to_probabilities: Callable[[np.ndarray], np.ndarray],
    order: np.ndarray,
    prediction: EvalPrediction,
) -> dict[str, float]:
    """Scores of rows that were predicted in another order, as Trainer asks for them."""
    return evaluate(_in_order(to_probabilities, prediction.predictions, order)).metrics


def _in_order(to_probabilities: Callable[[np.ndarray], np.ndarray], logits: Any, order: np.ndarray) -> np.ndarray:
    """Probabilities `[N, L]` of rows from their logits `[N, L]`, which are in another order."""
    probabilities = np.empty(logits.shape)
    probabilities[order] = to_probabilities(logits.astype(float))
    return probabilities


def make_loss(
    loss_args: LossArguments, labels: np.ndarray, row_weights: np.ndarray | None = None, smoothing: float = 0.0
) -> MultiLabelLoss:
    """The loss that the flags ask for.

    Args:
        loss_args: the flags.
        labels: of the training rows, `[N, L]`; they give the weights of positive cells.
        row_weights: of the training rows, `[N]`; None where all count the same.
        smoothing: share of each target that is taken from the labels, `--label_smoothing_factor`.

    Raises:
        UserError: for smoothed labels with a loss that tells cells apart by what they are.
    """
    if smoothing and loss_args.loss not in ("bce", CROSS_ENTROPY):
        raise UserError(f"--label_smoothing_factor is for --loss bce and {CROSS_ENTROPY}, not {loss_args.loss}")
    weigh = class_weights if loss_args.loss == CROSS_ENTROPY else positive_weights
    weights = weigh(labels, loss_args.pos_weight, loss_args.max_pos_weight, row_weights)
    return MultiLabelLoss(
        loss_args.loss,
        torch.tensor(weights, dtype=torch.float32),
        loss_args.focal_gamma,
        loss_args.asl_gamma_positive,
        loss_args.asl_gamma_negative,
        loss_args.asl_clip,
        smoothing,
    )
