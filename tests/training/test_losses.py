import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_outputs import SequenceClassifierOutput as Outputs

from utils.core.arguments import LossArguments
from utils.core.errors import UserError
from utils.training.classifier import make_loss
from utils.training.losses import MultiLabelLoss, asymmetric, bce, focal, positive_weights

LOGITS = st.floats(-15, 15)


@given(LOGITS, st.sampled_from([0.0, 1.0]), st.floats(0.1, 10))
@settings(deadline=None)
def test_losses_as_in_the_papers(logit, label, weight):
    p = 1 / (1 + np.exp(-logit))
    x, y, w = (torch.tensor([value], dtype=torch.float64) for value in (logit, label, weight))
    cross_entropy = -weight * np.log(p) if label else -np.log(1 - p)
    assert bce(x, y, w).item() == pytest.approx(cross_entropy, rel=1e-6, abs=1e-9)
    p_truth = p if label else 1 - p
    assert focal(x, y, w, 2.0).item() == pytest.approx((1 - p_truth) ** 2 * cross_entropy, rel=1e-6, abs=1e-9)
    shifted = max(p - 0.05, 0)
    expected = -weight * (1 - p) * np.log(p) if label else -(shifted**4) * np.log(1 - shifted)
    assert asymmetric(x, y, w, 1.0, 4.0, 0.05).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_gamma_and_clip_zero_are_cross_entropy():
    x, y = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    w = torch.rand(3) + 0.5
    assert torch.allclose(focal(x, y, w, 0.0), bce(x, y, w))
    assert torch.allclose(asymmetric(x, y, w, 0.0, 0.0, 0.0), bce(x, y, w), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_labels_as_torch_has_them(smoothing):
    logits, yes, one = torch.randn(6, 4), torch.randint(0, 2, (6, 4)).float(), torch.eye(4)[[0, 3, 2, 1, 1, 2]]
    found = MultiLabelLoss("bce", torch.ones(4), 2.0, 1.0, 4.0, 0.05, smoothing)(Outputs(logits=logits), yes)
    expected = F.binary_cross_entropy_with_logits(logits, yes * (1 - smoothing) + smoothing / 2)
    assert torch.allclose(found, expected)
    found = MultiLabelLoss("cross_entropy", torch.ones(4), 2.0, 1.0, 4.0, 0.05, smoothing)(Outputs(logits=logits), one)
    expected = F.cross_entropy(logits, one.argmax(dim=1), label_smoothing=smoothing)
    assert torch.allclose(found, expected, atol=1e-6)


def test_unknown_cells_are_not_smoothed():
    logits, labels = torch.randn(2, 3), torch.tensor([[1.0, -100.0, 0.0], [-100.0, 1.0, 1.0]])
    known = labels >= 0
    loss = MultiLabelLoss("bce", torch.ones(3), 2.0, 1.0, 4.0, 0.05, 0.2)
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known] * 0.8 + 0.1)
    assert torch.allclose(loss(Outputs(logits=logits), labels), expected)


@pytest.mark.parametrize("loss", ["focal", "asl"])
def test_losses_that_do_not_smooth(loss):
    with pytest.raises(UserError, match="--label_smoothing_factor is for"):
        make_loss(LossArguments(loss=loss), np.eye(3), smoothing=0.1)


def test_positive_weights():
    labels = np.zeros((100, 4), dtype=np.int8)
    labels[:50, 0] = labels[:10, 1] = labels[:, 3] = 1  # 50, 10, 0 and 100 positives
    assert positive_weights(labels, "balanced", 20) == pytest.approx([1, 9, 20, 1 / 20])
    assert positive_weights(labels, "sqrt", 20) == pytest.approx([1, 3, 20, 1 / 20])
    assert positive_weights(labels, "none", 20) == pytest.approx(np.ones(4))
    assert positive_weights(labels, "2.5", 20) == pytest.approx(np.full(4, 2.5))
    for wrong in ("much", "0", "-1", "nan", "inf"):
        with pytest.raises(UserError, match="--pos_weight"):
            LossArguments(pos_weight=wrong)
