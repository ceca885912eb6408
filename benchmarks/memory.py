"""The preflight's estimate of activations against what a training step really keeps, for several shapes of model.

    python -m benchmarks.memory
    python -m benchmarks.memory --recipes

Each model has the real shape of a layer, two layers and a small vocabulary. The step is computed on this machine, in
bf16 autocast, with the attention kernel that has no attention matrix, as on a GPU. Every storage that an operation
makes is counted for as long as it lives; the estimate comes from a pass that computes nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
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
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "pad_token_id": 0,
}  # fmt: skip
QWEN_05B = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "pad_token_id": 0, "tie_word_embeddings": True,
}  # fmt: skip
QWEN_06B = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "pad_token_id": 0, "tie_word_embeddings": True,
}  # fmt: skip
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
WAYS = {
    "full": {},
    "LoRA": {"use_peft": True},
    "QLoRA": {"use_peft": True, "load_in_4bit": True},
}
LAYERS = 2
# The models of the recipes for a GPU: configuration, with what head, trained how; micro-batch, tokens, weights in.
RECIPES = {
    "qwen2.5_7b_qlora_head": ("Qwen2", QWEN_7B, "ForSequenceClassification", "QLoRA", 8, 128, "bfloat16"),
    "qwen3_0.6b_qlora_labels": ("Qwen3", QWEN_06B, "ForCausalLM", "QLoRA", 16, 256, "bfloat16"),
    "qwen2.5_0.5b_lora_head_t4": ("Qwen2", QWEN_05B, "ForSequenceClassification", "LoRA", 16, 128, "float32"),
    "roberta_base": ("Roberta", ROBERTA, "ForSequenceClassification", "full", 32, 128, "float32"),
}
ANSWER_TOKENS = 13


@dataclass
class MemoryArguments:
    """Which shapes, and how large a micro-batch."""

    kinds: list[str] = field(default_factory=lambda: list(SHAPES), metadata={"help": "kinds of model"})
    divisor: int = option(1, "divides the hidden and intermediate sizes, for a try")
    rows: int = option(4, "rows of the micro-batch")
    tokens: int = option(64, "tokens of a row")
    recipes: bool = option(False, "estimate the activations of the recipes for a GPU instead, with all their layers")
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
        task = Task(labels, ["text"], labels)
        model: Any = Classifier.new(model_args, task, args.tokens)
    batch = {"input_ids": torch.full((args.rows, args.tokens), 9), "labels": torch.zeros(args.rows, len(labels))}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    estimated = measure_activations(model, dict(batch), training_args)

    model = model.model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
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


def of_recipes() -> list[list[str]]:
    """Activations of each recipe, without and with checkpointing, at its micro-batch, half and a quarter of it.

    The models have all their layers and no content: memory that is never written takes no place.
    """
    import torch
    import transformers

    from utils.core.arguments import GeneratorModelArguments, ModelArguments
    from utils.models.adapters import add_lora
    from utils.training.arguments import TaskTrainingArguments
    from utils.training.memory import measure_activations

    found = []
    for recipe, (kind, sizes, head, way, rows, tokens, dtype) in RECIPES.items():
        writes = head == "ForCausalLM"
        with torch.device("meta"):
            model: Any = getattr(transformers, f"{kind}{head}")(getattr(transformers, f"{kind}Config")(**sizes))
        model.to(getattr(torch, dtype)).to_empty(device="cpu")
        arguments = GeneratorModelArguments if writes else ModelArguments
        # With 4-bit weights it is the same and one weight unpacked, as the other table shows.
        model_args = arguments(model_name_or_path=recipe, use_peft=way != "full", lora_dropout=0.05)
        model = add_lora(model, model_args) if model_args.use_peft else model
        for checkpointing in (False, True):
            training_args = TaskTrainingArguments(output_dir=recipe, bf16=True, activation_checkpointing=checkpointing)
            training_args.use_cpu = False  # as on a GPU
            for size in (rows, rows // 2, rows // 4):
                ids = torch.full((size, tokens), 9)
                batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                if writes:
                    batch["labels"] = torch.zeros(size, 1 + ANSWER_TOKENS)
                approach: Any = SimpleNamespace(model=model, model_args=model_args)
                size_in_gib = measure_activations(approach, batch, training_args) / 2**30
                found.append([recipe, f"{size} x {tokens}", "yes" if checkpointing else "no", f"{size_in_gib:.2f}"])
    return found


@script(__doc__, [MemoryArguments])
def main(args: MemoryArguments) -> None:
    """Print and save the table."""
    if args.recipes:
        return print(format_table(["recipe", "rows x tokens", "checkpointing", "activations GiB"], of_recipes()))
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
