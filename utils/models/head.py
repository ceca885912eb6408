"""Classification heads: what they are called, what they see."""

import types
from typing import Any

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


def compute_without_autocast(module: nn.Module) -> None:
    """Make a part of the head compute in the dtype of its weights, fp32, also where the rest is in 16 bit.

    bf16 knows 128 numbers between 1 and 2: probabilities would have steps of 0.004, ties among them, and thresholds
    between two steps.
    """
    module.forward = types.MethodType(_forward_without_autocast, module)  # one that copies of the module take along


def _forward_without_autocast(self: nn.Module, *inputs: Any, **kwargs: Any) -> Any:
    with torch.autocast(inputs[0].device.type, enabled=False):
        return type(self).forward(self, *inputs, **kwargs)


def check_pooling(model: PreTrainedModel, pooling: str | None, attention: str = "own") -> None:
    """Refuse a pooling or an attention that is another architecture's.

    Args:
        model: with a head.
        pooling: asked for; None for the architecture's own.
        attention: asked for; `own` for the architecture's.

    Raises:
        UserError: for `first` with a decoder, `last` and `bidirectional` with an encoder.
    """
    kind, own = {"score": ("a decoder", "last"), "classifier": ("an encoder", "first")}[get_head(model)[0]]
    if pooling not in (None, "mean", own):
        raise UserError(f"--pooling {pooling}: {type(model).__name__} is {kind}, choose {own} or mean")
    if attention == "bidirectional" and own == "first":
        raise UserError(
            f"--attention bidirectional: {type(model).__name__} is an encoder, whose tokens see all: leave it out"
        )


def pool_mean(model: PreTrainedModel) -> None:
    """Make a classifier use the mean of the hidden states of its real tokens (Reimers and Gurevych 2019).

    It takes the place of the token that the model pools: a decoder's last, an encoder's first. BERT's pooler, a layer
    behind the first token inside the base model, is taken out; layers of the head itself (RoBERTa's, DeBERTa's,
    DistilBERT's) see the mean. ModernBERT and its kin know the mean themselves, and keep it in their configuration.
    """
    if hasattr(model.config, "classifier_pooling"):
        model.config.classifier_pooling = "mean"
        if hasattr(model, "classifier_pooling"):
            setattr(model, "classifier_pooling", "mean")  # noqa: B010  (EuroBERT's copy, which the hints do not know)
    elif get_head(model)[0] == "score":
        model.forward = types.MethodType(_forward_with_mean, model)
    else:
        base = getattr(model, model.base_model_prefix)
        if getattr(base, "pooler", None) is not None:
            base.pooler = None
        base.register_forward_hook(_mean_for_first_token, with_kwargs=True)


def pool_windows(model: PreTrainedModel, pooling: str) -> None:
    """Make a classifier pool the logits of windows, where a batch says by `windows` `[N, W]` whose they are.

    Args:
        model: whose forward may have been changed already.
        pooling: `mean` or `max`.
    """
    pooled: Any = model  # attributes that copies of the model take along
    pooled.forward_of_windows, pooled.window_pooling = model.forward, pooling
    model.forward = types.MethodType(_forward_with_windows, model)


def _forward_with_windows(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    windows: torch.Tensor | None = None,
    **inputs: Any,
) -> Any:
    inputs |= {"input_ids": input_ids} | ({} if attention_mask is None else {"attention_mask": attention_mask})
    if windows is None:
        return self.forward_of_windows(**inputs)
    # Without gradients at most as many windows at a time as there are texts, so that memory does not grow.
    size = windows.shape[1] if torch.is_grad_enabled() else len(windows)
    # Trainer and PEFT hand on other things too: a number of rows, None.
    of_windows = [name for name, value in inputs.items() if isinstance(value, torch.Tensor) and value.ndim]
    parts = []
    for start in range(0, windows.shape[1], size):
        part = {name: inputs[name][start : start + size] for name in of_windows}
        parts.append(self.forward_of_windows(**{**inputs, **part}))
    output = parts[0]
    output.logits = pooled_logits(torch.cat([part.logits for part in parts]), windows, self.window_pooling)
    return output


def pooled_logits(logits: torch.Tensor, windows: torch.Tensor, pooling: str) -> torch.Tensor:
    """Logits of N texts from those of their windows.

    Args:
        logits: of the windows, `[W, L]`.
        windows: which belong to which text, booleans `[N, W]`.
        pooling: `mean` or `max`.

    Returns:
        fp32 `[N, L]`.
    """
    mine, each = windows.unsqueeze(-1), logits.float().unsqueeze(0)  # [N, W, 1] and [1, W, L]
    if pooling == "max":
        return each.masked_fill(~mine, -torch.inf).amax(dim=1)
    return (each * mine).sum(dim=1) / mine.sum(dim=1)


def _mean_for_first_token(base: nn.Module, inputs: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Give the head, which reads the first token or what the pooler made of it, the mean instead, in fp32."""
    mean = mean_of_tokens(output.last_hidden_state, kwargs.get("attention_mask"))
    output.last_hidden_state = mean.unsqueeze(1)
    if "pooler_output" in type(output).__dataclass_fields__:
        output.pooler_output = mean
    return output


def mean_of_tokens(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean `[B, H]` in fp32 of the hidden states `[B, T, H]` of the tokens that `attention_mask` `[B, T]` marks."""
    if attention_mask is None:
        return hidden.float().mean(dim=1)
    real = attention_mask.to(torch.float32).unsqueeze(-1)
    return (hidden.float() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def _forward_with_mean(
    self: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> SequenceClassifierOutputWithPast:
    kwargs.pop("labels", None)  # the loss is Trainer's
    hidden = getattr(self, self.base_model_prefix)(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
    return SequenceClassifierOutputWithPast(logits=self.score(mean_of_tokens(hidden, attention_mask)))
