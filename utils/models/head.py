"""Models with a classification head: loading, pooling."""

import types

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from trl import get_quantization_config

from utils.core.errors import UserError
from utils.models.loading import keep_gradients, load_pretrained

# What transformers calls the head: `score` in decoders, `classifier` in encoders.
HEAD_NAMES = ("score", "classifier")


# The head with the layers below it that are new, or were not trained for this use: the pooler of BERT and DeBERTa, the
# dense layer of DistilBERT. With LoRA they are trained whole too; with low-rank changes of them MiniLM hardly learns.
HEAD_PARTS = (*HEAD_NAMES, "pooler", "pre_classifier")


def get_head(model):
    """`(name, module)` of the classification head.

    Raises:
        UserError: for an architecture whose head has another name.
    """
    for name in HEAD_NAMES:
        if hasattr(model, name):
            return name, getattr(model, name)
    raise UserError(f"{type(model).__name__} has no head named {' or '.join(HEAD_NAMES)}: it is not supported")


def load_classifier(model_args, labels, tokenizer, new_head=True):
    """Load a model with a multi-label head for `labels`; `new_head` lets a head for other labels be replaced.

    The head is in fp32 and never quantised, also where the checkpoint is quantised already. The pad id is set on the
    configuration: decoders pool their last token that is not the pad token, on whichever side the padding is. Encoders
    pool their first token, so the tokenizer is made to pad on the right for them.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = load_pretrained(AutoConfig.from_pretrained, name, revision=revision)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    config.problem_type = "multi_label_classification"
    config.pad_token_id = tokenizer.pad_token_id
    quantization_config = get_quantization_config(model_args)
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        # A list of modules to skip replaces the default one, in which RoBERTa's head is missing.
        stored["llm_int8_skip_modules"] = sorted({*(stored.get("llm_int8_skip_modules") or []), *HEAD_PARTS})
        quantization_config = None
    elif quantization_config is not None:
        quantization_config.llm_int8_skip_modules = list(HEAD_PARTS)
    model = load_pretrained(
        AutoModelForSequenceClassification.from_pretrained,
        name,
        config=config,
        revision=revision,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        quantization_config=quantization_config,
        ignore_mismatched_sizes=new_head,
    )
    if get_head(model)[0] == "classifier":
        tokenizer.padding_side = "right"
    keep_gradients(model)
    for name, module in model.named_modules():
        if name.split(".")[-1] in HEAD_PARTS:
            if not any(hasattr(parameter, "ds_id") for parameter in module.parameters()):  # DeepSpeed ZeRO-3 has it
                module.to(torch.float32)
            # Without autocast (a machine without bf16) 16-bit hidden states meet the fp32 head; under DeepSpeed, which
            # casts the whole model to 16 bit, fp32 ones may meet a 16-bit head.
            module.register_forward_pre_hook(_as_weights)
    if model_args.pooling == "mean":
        pool_mean(model)
    return model


def _as_weights(module, inputs):
    return (inputs[0].to(next(module.parameters()).dtype), *inputs[1:])


def pool_mean(model):
    """Make a decoder's classifier use the mean of the hidden states of its real tokens instead of the last one's.

    Raises:
        UserError: for an encoder, which has a pooled token of its own.
    """
    if get_head(model)[0] != "score":
        raise UserError(f"--pooling mean is for decoders; {type(model).__name__} pools its first token")
    model.forward = types.MethodType(_forward_with_mean, model)


def _forward_with_mean(self, input_ids=None, attention_mask=None, **kwargs):
    kwargs.pop("labels", None)  # the loss is Trainer's
    hidden = getattr(self, self.base_model_prefix)(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
    real = attention_mask.to(torch.float32).unsqueeze(-1)
    mean = (hidden.float() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return SequenceClassifierOutputWithPast(logits=self.score(mean))
