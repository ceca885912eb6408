"""Classification heads: what they are called, what they see."""

import types

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from utils.core.errors import UserError

# What transformers calls the head: `score` in decoders, `classifier` in encoders.
HEAD_NAMES = ("score", "classifier")
# The head with the layers below it that are new, or were not trained for this use: the pooler of BERT and DeBERTa, the
# dense layer of DistilBERT. With LoRA they are trained whole too; with low-rank changes of them MiniLM hardly learns.
HEAD_PARTS = (*HEAD_NAMES, "pooler", "pre_classifier")


def get_head(model: PreTrainedModel) -> tuple[str, nn.Module]:
    """`(name, module)` of the classification head.

    Raises:
        UserError: for an architecture whose head has another name.
    """
    for name in HEAD_NAMES:
        if hasattr(model, name):
            return name, getattr(model, name)
    raise UserError(f"{type(model).__name__} has no head named {' or '.join(HEAD_NAMES)}: it is not supported")


def pool_mean(model: PreTrainedModel) -> None:
    """Make a decoder's classifier use the mean of the hidden states of its real tokens instead of the last one's.

    Raises:
        UserError: for an encoder, which has a pooled token of its own.
    """
    if get_head(model)[0] != "score":
        raise UserError(f"--pooling mean is for decoders; {type(model).__name__} pools its first token")
    model.forward = types.MethodType(_forward_with_mean, model)


def _forward_with_mean(
    self: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: object
) -> SequenceClassifierOutputWithPast:
    kwargs.pop("labels", None)  # the loss is Trainer's
    hidden = getattr(self, self.base_model_prefix)(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
    real = attention_mask.to(torch.float32).unsqueeze(-1)
    mean = (hidden.float() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return SequenceClassifierOutputWithPast(logits=self.score(mean))
