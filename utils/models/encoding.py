"""From texts to the token ids a model takes, with no padding that can be avoided."""

import json
import os
import sys
from collections.abc import Callable, Sequence, Sized
from typing import Any

import datasets
import numpy as np
from transformers import DataCollatorWithPadding, PreTrainedConfig, PreTrainedTokenizerBase

from utils.core.progress import show_progress_of
from utils.data.examples import Examples, cache_key

# Label of a cell that is not known, in a batch: what Trainer leaves out when it counts the cells of the global batch.
UNKNOWN = -100.0
# Below this many rows starting more processes costs more than it saves.
ROWS_PER_PROCESS = 20_000


def length_limit(max_length: int, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int:
    """Tokens of a text that the model can take: `max_length`, or less where it allows less.

    Args:
        max_length: tokens asked for.
        tokenizer: which may know a limit.
        config: of the model, whose position embeddings set one.
    """
    limit = min(max_length, tokenizer.model_max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        limit = min(limit, positions - first_position(config))
    return limit


def first_position(config: PreTrainedConfig) -> int:
    """Position of a text's first token. RoBERTa counts from its pad id on: 514 positions hold 512 tokens."""
    return config.pad_token_id + 1 if "roberta" in config.model_type else 0


def tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
    """What a classifier reads: for training, evaluation and prediction alike.

    Args:
        texts: `[N]`.
        tokenizer: of the model.
        max_length: tokens that a text is cut to.

    Returns:
        the tokenizer's `input_ids`, `attention_mask`, ..., `length` (tokens) and `full_length` (tokens before cutting),
        `[N]` each.
    """
    encoded = tokenizer(texts, verbose=False)
    full_length = [len(ids) for ids in encoded["input_ids"]]
    if max(full_length) > max_length:
        encoded = tokenizer(texts, truncation=True, max_length=max_length)
    return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "full_length": full_length}


def encode(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Tokenize examples once, with all cores where there are many rows: the result is cached.

    Args:
        examples: N rows.
        tokenizer: of the model.
        max_length: tokens that a text is cut to.

    Returns:
        data set with the columns of `tokenize` and labels.
    """
    rows = examples.rows
    drop = [name for name in rows.column_names if name != "labels"]
    key = cache_key(rows._fingerprint, tokenizer_key(tokenizer) | {"max_length": max_length}, sys.modules[__name__])

    def tokenize_batch(batch: dict[str, list]) -> dict[str, list]:
        return tokenize(batch["text"], tokenizer, max_length)

    return map_rows(rows, tokenize_batch, key, remove_columns=drop)


def map_rows(rows: datasets.Dataset, function: Callable, key: str, **options: Any) -> datasets.Dataset:
    """`rows.map(function)` by batches, with all cores where there are many rows, and cached.

    Args:
        rows: data set.
        function: of a batch of rows, as `datasets` wants it.
        key: name of the result in the cache. `datasets` would derive it from the tokenizer's state, which changes with
            every use.
        options: of `Dataset.map`.
    """
    show_progress_of(datasets.utils.tqdm)
    processes = min(os.cpu_count() or 1, len(rows) // ROWS_PER_PROCESS)
    return rows.map(
        function,
        batched=True,
        num_proc=processes if processes > 1 else None,
        new_fingerprint=key,
        desc="tokenizing",
        **options,
    )


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the token ids of a text depend on, besides the text: vocabulary, rules, special tokens and options."""
    key = {
        "class": type(tokenizer).__name__,
        "special_tokens": {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        "truncation_side": tokenizer.truncation_side,
        "inputs": tokenizer.model_input_names,
    }
    if not tokenizer.is_fast:
        return key | {"vocabulary": tokenizer.get_vocab(), "options": repr(tokenizer.init_kwargs)}
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # Truncation and padding are left over from the last call.
    return key | {"rules": {name: part for name, part in rules.items() if name not in ("truncation", "padding")}}


def longest_first(lengths: list[int]) -> np.ndarray:
    """Order of rows by their tokens `[N]`, the longest first.

    Batches then hold rows of one length, and memory runs out in the first batch or never.
    """
    return np.argsort(-np.asarray(lengths), kind="stable")


class Collator:
    """Pads a batch of texts to its longest row; on a GPU to a multiple of 8, which tensor cores like.

    Rows of one length stay as they are: without padding no attention mask is made, and the faster kernels, flash
    attention and grouped queries, apply.

    Args:
        tokenizer: it says how and where to pad.
        on_gpu: whether the batches are for a GPU.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_gpu: bool):
        self.pad = DataCollatorWithPadding(tokenizer)
        self.multiple_of = 8 if on_gpu else None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors of a batch; labels that are not known (NaN) are UNKNOWN in it."""
        self.pad.pad_to_multiple_of = rounded_up(self.multiple_of, [row["input_ids"] for row in rows])
        batch: Any = self.pad(rows)
        if "labels" in batch:
            batch["labels"] = batch["labels"].nan_to_num(nan=UNKNOWN)
        return batch


def rounded_up(multiple_of: int | None, ids: Sequence[Sized]) -> int | None:
    """What the length of a batch is rounded up to: nothing where all rows have one length."""
    return multiple_of if len({len(row) for row in ids}) > 1 else None
