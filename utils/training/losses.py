"""Losses of cells, or of the one label of a row, and weights of the positive cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from utils.core.arguments import CROSS_ENTROPY
from utils.models.encoding import UNKNOWN


def positive_weights(labels: np.ndarray, setting: str, cap: float, row_weights: np.ndarray | None = None) -> np.ndarray:
    """Weight of each label's positive cells in the loss.

    Args:
        labels: `[N, L]`, the training rows: 0/1 or shares, NaN for cells that are not known and do not count.
        setting: `none` (1), `balanced` (negatives / positives), `sqrt` (the square root of that), or a number.
        cap: `balanced` and `sqrt` weights are clipped to 1 / cap and cap, so that they stay finite and positive for a
            label without positive or negative rows.
        row_weights: how much each row counts, `[N]`; None where all count the same.

    Returns:
        float array `[L]`.
    """
    rows = np.ones((len(labels), 1)) if row_weights is None else np.reshape(row_weights, (-1, 1)).astype(float)
    positives = np.nansum(rows * labels, axis=0)
    ratio = ((rows * ~np.isnan(labels)).sum(axis=0) - positives) / np.maximum(positives, 1e-9)
    if setting == "none":
        return np.ones(len(positives))
    if setting == "balanced":
        return np.clip(ratio, 1 / cap, cap)
    if setting == "sqrt":
        return np.clip(np.sqrt(ratio), 1 / cap, cap)
    return np.full(len(positives), float(setting))


def class_weights(labels: np.ndarray, setting: str, cap: float, row_weights: np.ndarray | None = None) -> np.ndarray:
    """Weight of each label in the loss of rows that have one label each.

    Args:
        labels: `[N, L]`, the training rows: 0/1 with a 1 in each row, or shares with the sum 1.
        setting: as `positive_weights` takes it.
        cap: likewise.
        row_weights: likewise.

    Returns:
        float array `[L]`, scaled so that its mean over the rows is 1: the learning rate keeps its meaning.
    """
    weights = positive_weights(labels, setting, cap, row_weights)
    return weights / np.average(np.asarray(labels) @ weights, weights=row_weights)


def bce(logits: torch.Tensor, labels: torch.Tensor, pos_weight: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each cell.

    Args:
        logits: `[N, L]`.
        labels: 0/1 or shares between them, `[N, L]`.
        pos_weight: factor on the loss of each label's positive cells, `[L]`.

    Returns:
        losses, `[N, L]`.
    """
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")


def focal(logits: torch.Tensor, labels: torch.Tensor, pos_weight: torch.Tensor, gamma: float) -> torch.Tensor:
    """Focal loss of each cell (Lin et al. 2017, eq. 4): the more certain a right prediction, the less it counts.

    Args:
        logits: `[N, L]`.
        labels: 0/1, `[N, L]`.
        pos_weight: factor on the loss of each label's positive cells, `[L]`.
        gamma: how strongly certain cells are played down; 0 gives `bce`.

    Returns:
        losses, `[N, L]`.
    """
    probability_of_truth = torch.sigmoid(torch.where(labels > 0.5, logits, -logits))
    return (1 - probability_of_truth).clamp(min=1e-8) ** gamma * bce(logits, labels, pos_weight)


def asymmetric(
    logits: torch.Tensor,
    labels: torch.Tensor,
    pos_weight: torch.Tensor,
    gamma_positive: float,
    gamma_negative: float,
    clip: float,
) -> torch.Tensor:
    """Asymmetric loss of each cell (Ridnik et al. 2021, eq. 7): easy negatives count less or not at all.

    Args:
        logits: `[N, L]`.
        labels: 0/1, `[N, L]`.
        pos_weight: factor on the loss of each label's positive cells, `[L]`.
        gamma_positive: how strongly certain positive cells are played down, as in `focal`.
        gamma_negative: the same for negative cells.
        clip: subtracted from the probabilities of negative cells; those below it have no loss.

    Returns:
        losses, `[N, L]`.
    """
    probability = torch.sigmoid(logits)
    shifted = (probability - clip).clamp(min=0)
    positive = pos_weight * (1 - probability).clamp(min=1e-8) ** gamma_positive * F.logsigmoid(logits)
    negative = shifted**gamma_negative * torch.log((1 - shifted).clamp(min=1e-8))
    return -torch.where(labels > 0.5, positive, negative)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the one label of each row, in its cell; the others are 0.

    Args:
        logits: `[N, L]`.
        labels: 0/1 with a 1 in each row, or shares with the sum 1, `[N, L]`.
        weight: factor on the loss of each label's rows, `[L]`.

    Returns:
        losses, `[N, L]`.
    """
    return -weight * labels * F.log_softmax(logits, dim=1)


@dataclass
class MultiLabelLoss:
    """Trainer's `compute_loss_func` for logits and labels `[B, L]`.

    The sum over the cells that are known is divided by their number in the global batch, which Trainer counts over
    accumulation steps and processes (it leaves -100 out, which stands for unknown cells). So the gradient does not
    depend on how the batch is divided among them. Trainer's own loss for a multi-label head ignores both: with
    accumulation 2 on 2 processes its gradient is 4 times too large.

    Cross-entropy is divided by the number of rows instead, a row having one label.

    Args:
        name: `bce`, `focal`, `asl` or `cross_entropy`.
        pos_weight: factor on the loss of each label's positive cells, `[L]`.
        focal_gamma: `gamma` of `focal`.
        asl_gamma_positive: `gamma_positive` of `asymmetric`.
        asl_gamma_negative: `gamma_negative` of `asymmetric`.
        asl_clip: `clip` of `asymmetric`.
        smoothing: share of each target that is dealt out evenly, to yes and no or to the labels of a row (Szegedy et
            al. 2016, section 7).
    """

    name: str
    pos_weight: torch.Tensor
    focal_gamma: float
    asl_gamma_positive: float
    asl_gamma_negative: float
    asl_clip: float
    smoothing: float = 0.0

    def __call__(
        self,
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Loss of one forward pass.

        Args:
            outputs: what the model returned, with `logits` `[B, L]`.
            labels: 0/1 or shares, or -100 for cells that are not known, `[B, L]`.
            num_items_in_batch: known cells in the global batch; None (in evaluation) gives the mean over these.
            weights: factors on the losses of the rows, `[B]`, with a mean of 1 over all training rows; None for none.
        """
        logits, labels = outputs.logits.float(), labels.float()
        known = labels != UNKNOWN
        labels = torch.where(known, labels, 0.0)
        if self.smoothing:
            even = 1 / logits.shape[1] if self.name == CROSS_ENTROPY else 1 / 2
            labels = (1 - self.smoothing) * labels + self.smoothing * even
        pos_weight = self.pos_weight.to(logits.device)
        if self.name == "focal":
            losses = focal(logits, labels, pos_weight, self.focal_gamma)
        elif self.name == "asl":
            losses = asymmetric(
                logits, labels, pos_weight, self.asl_gamma_positive, self.asl_gamma_negative, self.asl_clip
            )
        elif self.name == CROSS_ENTROPY:
            losses = logits.shape[1] * cross_entropy(logits, labels, pos_weight)  # for a mean over rows, not cells
        else:
            losses = bce(logits, labels, pos_weight)
        if weights is not None:
            losses = weights[:, None] * losses
        total = torch.where(known, losses, 0.0).sum()
        return total / (known.sum() if num_items_in_batch is None else num_items_in_batch)
