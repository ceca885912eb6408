"""What is about to be trained, checked and shown before the first step, and whether it was, after the last.

A run with frozen LoRA weights, a head that is not trained or a pooled pad position still finishes, with scores that
look like those of a weak model. Here it does not start.
"""

from dataclasses import dataclass

from utils.core.errors import UserError
from utils.core.tables import format_table
from utils.models.head import get_head
from utils.models.parameters import count_parameters, parameter_kind, quantized_modules, stored_count, without_adapter


@dataclass
class Texts:
    """Lengths of the training texts in tokens, and the limit they are cut to."""

    longest: int
    truncated: int
    rows: int
    limit: int


def estimate_memory(model, training_args, texts):
    """Bytes of a training step on one device: a dict of weights, gradients, optimizer, activations.

    FSDP and DeepSpeed divide the first three, as far as they shard them, by the number of processes.

    Activations: 34 bytes a token, layer and hidden unit in 16 bit, 2 with activation checkpointing plus one layer in
    full (Korthikanti et al. 2022, eq. 2 and table 2, without the attention matrix, which fused kernels do not keep).
    """
    base = without_adapter(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    weights = sum(stored_count(p) * p.element_size() for p in model.parameters())
    gradients = sum(stored_count(p) * p.element_size() for p in trainable)
    moments = 2 * sum(stored_count(p) for p in trainable) * (1 if "8bit" in str(training_args.optim.value) else 4)
    tokens = training_args.per_device_train_batch_size * texts.longest
    layers, hidden = base.config.num_hidden_layers, base.config.hidden_size
    width = 1 if training_args.bf16 or training_args.fp16 else 2
    full_layer = 34 * tokens * hidden * width
    checkpointing = training_args.activation_checkpointing or training_args.gradient_checkpointing
    activations = full_layer + 2 * width * layers * tokens * hidden if checkpointing else layers * full_layer
    return {"weights": weights, "gradients": gradients, "optimizer": moments, "activations": activations}


def check_weights(model, model_args, tokenizer, texts):
    """Refuse what would train nothing, whatever is on top of the model.

    Raises:
        UserError: where LoRA is asked for and no LoRA weight is trainable, nothing is trainable, the pad id is missing
            or another in the tokenizer, or every text is truncated.
    """
    base = without_adapter(model)
    trainable = {parameter_kind(name) for name, p in model.named_parameters() if p.requires_grad}
    if model_args.use_peft and "LoRA" not in trainable:
        raise UserError("no LoRA weight is trainable: the adapters are frozen, so nothing but the head would learn")
    if not trainable:
        raise UserError("nothing of the model is trainable")
    if tokenizer.pad_token_id is None or base.config.pad_token_id is None:
        raise UserError("the pad id is missing: set it on the tokenizer and on the model's configuration")
    if base.config.pad_token_id != tokenizer.pad_token_id:
        raise UserError(
            f"the pad ids differ: {tokenizer.pad_token_id} in the tokenizer, {base.config.pad_token_id} in the model, "
            "which would pool a pad position"
        )
    if texts.truncated == texts.rows:
        raise UserError(f"every text is longer than {texts.limit} tokens and would be cut: raise --max_length")


def check_classifier(model):
    """Refuse a head that would not be trained as it must.

    Raises:
        UserError: where the head is frozen or quantised.
    """
    base = without_adapter(model)
    head_name, head = get_head(base)
    trainable = {parameter_kind(name) for name, p in model.named_parameters() if p.requires_grad}
    if quantized_modules(head):
        raise UserError(f"the head ({head_name}) is quantised: it must be trained whole, in fp32")
    if "head" not in trainable:
        raise UserError(
            f"the head ({head_name}) is frozen: it starts with random weights and must be trained "
            "(with LoRA: --lora_task_type SEQ_CLS)"
        )


def describe_head(model, pooling):
    """The head in words, for the preflight."""
    name, head = get_head(without_adapter(model))
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in head.parameters() if p.requires_grad})
    pooled = (
        {"last": "last real token", "mean": "mean of the real tokens"}[pooling] if name == "score" else "first token"
    )
    return f"{name}, {'/'.join(dtypes)}, pools the {pooled}"


def preflight_table(model, model_args, training_args, tokenizer, texts, more_rows):
    """The preflight as text, with `more_rows` (lists of a name and a text) on what is particular to an approach."""
    base = without_adapter(model)
    total, trainable = count_parameters(model)
    quantized = quantized_modules(model)
    memory = estimate_memory(model, training_args, texts)
    parts = ", ".join(f"{name} {_size(size)}" for name, size in memory.items())
    rows = [
        ["base model", f"{model_args.model_name_or_path} ({base.config.model_type})"],
        ["parameters", f"{total:,}"],
        ["trainable", f"{sum(trainable.values()):,} ({sum(trainable.values()) / total:.2%})"],
        *([f"  {kind}", f"{count:,}"] for kind, count in trainable.items() if count),
        ["quantised", f"{len(quantized)} linear layers" if quantized else "nothing"],
        ["weights, compute", f"{model_args.dtype}, {training_args.compute_dtype}"],
        *more_rows,
        ["learning rate", f"{training_args.learning_rate:g}, {training_args.optim.value}"],
        ["pad, eos", f"{_token(tokenizer, 'pad')}, {_token(tokenizer, 'eos')}"],
        ["texts", f"longest {texts.longest} tokens, limit {texts.limit}, {texts.truncated} of {texts.rows} truncated"],
        ["memory, estimated", f"{_size(sum(memory.values()))}: {parts}"],
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows) + "\n"


def preflight_figures(model, training_args, texts):
    """The figures of the preflight by name, for trackers: numbers of weights, lengths of texts, bytes of memory."""
    total, trainable = count_parameters(model)
    return {
        "parameters": total,
        "trainable": sum(trainable.values()),
        **{f"trainable/{kind}": count for kind, count in trainable.items() if count},
        "quantised_layers": len(quantized_modules(model)),
        "longest_text": texts.longest,
        "truncated_texts": texts.truncated,
        "max_length": texts.limit,
        **{f"memory/{name}": size for name, size in estimate_memory(model, training_args, texts).items()},
    }


def label_count_table(task, pos_weights=None):
    """Table of the training rows of each label, and the weights of its positive cells."""
    rows = [[label, int(count)] for label, count in zip(task.labels, task.train_positives)]
    if pos_weights is not None:
        rows = [[*row, f"{weight:.2f}"] for row, weight in zip(rows, pos_weights)]
    return format_table(["label", "training rows", "pos_weight"][: len(rows[0])], rows) + "\n"


def _size(size):
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _token(tokenizer, kind):
    value = getattr(tokenizer, f"{kind}_token")
    return "none" if value is None else f"{value} ({getattr(tokenizer, f'{kind}_token_id')})"
