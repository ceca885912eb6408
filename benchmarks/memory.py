"""The preflight's estimate of activations against what a training step really keeps, for several shapes of model.

    python -m benchmarks.memory

Each model has the real shape of a layer, two layers and a small vocabulary. The step is computed on this machine, in
bf16 autocast, with the attention kernel that has no attention matrix, as on a GPU. Every storage that an operation
makes is counted for as long as it lives; the estimate comes from a pass that computes nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.core.files import write_json
from utils.core.parser import option, script
from utils.core.tables import format_table

RESULTS = Path(__file__).parent / "results" / "memory.json"
# Shapes of a layer: hidden and intermediate size, heads, key and value heads.
SHAPES = {
    "bert": (768, 3072, 12, 12),
    "roberta": (768, 3072, 12, 12),
    "qwen2": (3584, 18944, 28, 4),  # Qwen2.5-7B
    "qwen3": (1024, 3072, 16, 8),  # Qwen3-0.6B
}
WAYS = {
    "full": {},
    "LoRA": {"use_peft": True},
    "QLoRA": {"use_peft": True, "load_in_4bit": True},
}
LAYERS = 2


@dataclass
class MemoryArguments:
    """Which shapes, and how large a micro-batch."""

    kinds: list[str] = field(default_factory=lambda: list(SHAPES), metadata={"help": "kinds of model"})
    divisor: int = option(1, "divides the hidden and intermediate sizes, for a try")
    rows: int = option(4, "rows of the micro-batch")
    tokens: int = option(64, "tokens of a row")
    output_file: str = option(str(RESULTS), "where the figures go; an empty text: nowhere")


def build(kind: str, args: MemoryArguments, folder: str) -> str:
    """Save a model with random weights, the real shape of a layer and a tiny tokenizer; returns the folder."""
    import torch
    import transformers

    from utils.models.tiny import sample_texts, train_tokenizer

    hidden, intermediate, heads, key_heads = SHAPES[kind]
    sizes = {"hidden_size": hidden // args.divisor, "intermediate_size": intermediate // args.divisor}
    sizes |= {"num_hidden_layers": LAYERS, "num_attention_heads": heads, "vocab_size": 1000}
    tokenizer = train_tokenizer("roberta" if kind in ("bert", "roberta") else kind, sample_texts())
    if kind in ("bert", "roberta"):
        sizes |= {"attention_probs_dropout_prob": 0.0, "max_position_embeddings": 514, "pad_token_id": 1}
    else:
        sizes |= {"num_key_value_heads": key_heads, "pad_token_id": tokenizer.pad_token_id}
        sizes |= {"head_dim": 128 // args.divisor} if kind == "qwen3" else {}
    names = {"bert": "Bert", "roberta": "Roberta", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    config = getattr(transformers, f"{names[kind]}Config")(**sizes)
    model = getattr(transformers, f"{names[kind]}ForSequenceClassification")(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def compare(kind: str, way: str, checkpointing: bool, args: MemoryArguments) -> tuple[int, int]:
    """Most bytes of activations in a step: estimated, and measured.

    Args:
        kind: of SHAPES.
        way: of WAYS.
        checkpointing: whether activations are computed again.
        args: how large the batch is.
    """
    import torch

    from utils.core.arguments import ModelArguments
    from utils.data.task import Task
    from utils.models.classifier import Classifier
    from utils.training.arguments import TaskTrainingArguments
    from utils.training.memory import Count, measure_activations

    labels = ["a", "b", "c"]
    with tempfile.TemporaryDirectory() as folder:
        model_args = ModelArguments(
            model_name_or_path=build(kind, args, folder),
            dtype="bfloat16" if WAYS[way] else "float32",
            lora_dropout=0.05,
            **WAYS[way],
        )
        training_args = TaskTrainingArguments(
            output_dir=f"{folder}/run", bf16=True, activation_checkpointing=checkpointing
        )
        task = Task(labels, "text", labels)
        model: Any = Classifier.new(model_args, task, args.tokens)
    batch = {"input_ids": torch.full((args.rows, args.tokens), 9), "labels": torch.zeros(args.rows, len(labels))}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    estimated = measure_activations(model, dict(batch), training_args)

    model = model.model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with Count([*model.parameters(), *model.buffers(), *batch.values()]) as live:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=batch["input_ids"]).logits
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), batch["labels"])
        for parameter in trained:
            parameter.register_hook(live.leave_out)
        torch.autograd.grad(loss, trained, allow_unused=True)
    return estimated, live.most


@script(__doc__, [MemoryArguments])
def main(args: MemoryArguments) -> None:
    """Print and save the table."""
    rows = []
    for kind in args.kinds:
        for way in WAYS:
            for checkpointing in (False, True):
                rows.append([kind, way, "yes" if checkpointing else "no", *compare(kind, way, checkpointing, args)])
    head = ["shape", "trained", "checkpointing", "estimated MiB", "measured MiB", "estimated / measured"]
    shown = [[*row[:3], *(f"{size / 2**20:.1f}" for size in row[3:]), f"{row[3] / row[4]:.2f}"] for row in rows]
    print(format_table(head, shown))
    if args.output_file:
        names = ("shape", "trained", "checkpointing", "estimated_bytes", "measured_bytes")
        content = {"rows": args.rows, "tokens": args.tokens, "layers": LAYERS, "divisor": args.divisor}
        write_json(Path(args.output_file), content | {"figures": [dict(zip(names, row)) for row in rows]})
        print(f"written to {args.output_file}")


if __name__ == "__main__":
    main()
