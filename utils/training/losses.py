"""Losses for multi-label classification, and the weight of the positive cells."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


def positive_weights(labels, setting, cap):
    """Weight of the positive cells of each label.

    Args:
        labels: 0/1 array `[N, L]`, the training rows.
        setting: `none` (1), `balanced` (negatives / positives), `sqrt` (its square root), or a number.
        cap: weights are kept within 1 / cap and cap, so that a label without positive (or negative) rows stays finite.

    Returns:
        float array `[L]`.
    """
    positives = np.asarray(labels).sum(axis=0)
    ratio = (len(labels) - positives) / np.maximum(positives, 1e-9)
    if setting == "none":
        return np.ones(len(positives))
    if setting == "balanced":
        return np.clip(ratio, 1 / cap, cap)
    if setting == "sqrt":
        return np.clip(np.sqrt(ratio), 1 / cap, cap)
    return np.full(len(positives), float(setting))


def bce(logits, labels, pos_weight):
    """Binary cross-entropy of each cell, positives weighted: `[N, L]`."""
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")


def focal(logits, labels, pos_weight, gamma):
    """Focal loss of each cell, `[N, L]` (Lin et al. 2017, eq. 4): cells that are right already count less."""
    probability_of_truth = torch.sigmoid(torch.where(labels > 0.5, logits, -logits))
    return (1 - probability_of_truth).clamp(min=1e-8) ** gamma * bce(logits, labels, pos_weight)


def asymmetric(logits, labels, pos_weight, gamma_positive, gamma_negative, clip):
    """Asymmetric loss of each cell, `[N, L]` (Ridnik et al. 2021, eq. 7): easy negatives count less or not at all."""
    probability = torch.sigmoid(logits)
    shifted = (probability - clip).clamp(min=0)
    positive = pos_weight * (1 - probability).clamp(min=1e-8) ** gamma_positive * F.logsigmoid(logits)
    negative = shifted**gamma_negative * torch.log((1 - shifted).clamp(min=1e-8))
    return -torch.where(labels > 0.5, positive, negative)


@dataclass
class MultiLabelLoss:
    """Trainer's `compute_loss_func` for logits and labels `[B, L]`.

    The sum over the cells is divided by the number of cells in the whole global batch, which Trainer counts over
    accumulation steps and processes. So the gradient is the same however that batch is cut. Trainer's stock path
    divides by neither for a multi-label head: with accumulation 2 on 2 processes its gradient is 4 times too large.
    """

    name: str
    pos_weight: torch.Tensor
    focal_gamma: float
    asl_gamma_positive: float
    asl_gamma_negative: float
    asl_clip: float

    def __call__(self, outputs, labels, num_items_in_batch=None):
        logits, labels = outputs.logits.float(), labels.float()
        pos_weight = self.pos_weight.to(logits.device)
        if self.name == "focal":
            losses = focal(logits, labels, pos_weight, self.focal_gamma)
        elif self.name == "asl":
            losses = asymmetric(
                logits, labels, pos_weight, self.asl_gamma_positive, self.asl_gamma_negative, self.asl_clip
            )
        else:
            losses = bce(logits, labels, pos_weight)
        return losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch
