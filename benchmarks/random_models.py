"""Models with random weights in the shapes of real ones, saved as a download from the hub would be.

They need memory and time as the real ones do. The tokenizer is a small one of the sample texts.
"""

import re
from pathlib import Path

from utils.core.files import write_json
from utils.models.tiny import sample_texts, train_tokenizer

QWEN = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02}
SHAPES = {
    "qwen2.5-7b": QWEN
    | {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "qwen3-0.6b": QWEN
    | {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
    "roberta-base": {
        "model_type": "roberta",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.02,
    },
}
# What takes the place of the same entries where the machine is too slow for the real shape.
TOY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1000,
}
LAYER = re.compile(r"\.layers?\.(\d+)\.")


def build_random_model(shape: str, folder: str | Path, toy: bool = False, **changes: object) -> str:
    """Save a base model with random bf16 weights and its tokenizer, in memory for one layer and the embeddings.

    All layers have the same numbers: drawing them once takes seconds instead of minutes. The language head is left out
    unless it is the embeddings, as a classifier has none.

    Args:
        shape: one of SHAPES.
        folder: where to save.
        toy: whether TOY's sizes are taken.
        changes: replaces entries of the configuration.

    Returns:
        the folder.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    config, sizes = _config_and_sizes(shape, toy, changes)
    tokenizer = train_tokenizer(config.model_type, sample_texts())
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    config.bos_token_id, config.dtype = tokenizer.bos_token_id, torch.bfloat16
    tokenizer.save_pretrained(folder)

    torch.manual_seed(0)
    drawn, files = {}, {}
    for layer in sorted({_layer_of(name) for name in sizes}):
        file = f"model-layer{layer}.safetensors" if layer >= 0 else "model-embeddings.safetensors"
        tensors = {}
        for name, size in sizes.items():
            if _layer_of(name) == layer:
                alike = LAYER.sub(".layer.", name)
                if alike not in drawn:
                    drawn[alike] = _draw(alike, size, config.initializer_range)
                tensors[name] = drawn[alike]
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
    config.save_pretrained(folder)  # last: a folder with it is complete
    return str(folder)


def bytes_of_model(shape: str, toy: bool = False) -> tuple[int, int]:
    """`(whole model, one layer)`: bytes in 16 bit, without the language head."""
    _, sizes = _config_and_sizes(shape, toy, {})
    layer = sum(size.numel() for name, size in sizes.items() if _layer_of(name) == 0)
    return 2 * sum(size.numel() for size in sizes.values()), 2 * layer


def _config_and_sizes(shape, toy, changes):
    """The configuration, and the size of each tensor by its name in the checkpoint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    entries = SHAPES[shape] | ({name: TOY[name] for name in TOY if name in SHAPES[shape]} if toy else {}) | changes
    config = AutoConfig.for_model(**entries)
    with torch.device("meta"):
        kind = AutoModelForMaskedLM if config.model_type == "roberta" else AutoModelForCausalLM
        model = kind.from_config(config)
    config.architectures = [type(model).__name__]
    return config, {name: t.size() for name, t in model.state_dict().items() if not name.startswith("lm_head")}


def _layer_of(name):
    found = LAYER.search(name)
    return int(found[1]) if found else -1


def _draw(name, size, spread):
    import torch

    if name.endswith("bias"):
        return torch.zeros(size, dtype=torch.bfloat16)
    if "norm" in name.lower():
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0, spread)
