"""From texts to the token ids a model takes, with no padding that can be avoided."""

import json
import sys
from collections.abc import Sequence, Sized
from typing import Any

import datasets
import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedConfig, PreTrainedTokenizerBase

from utils.core.errors import UserError
from utils.data.examples import Examples, cache_key
from utils.data.mapping import map_rows
from utils.data.task import Task

# Label of a cell that is not known, in a batch: what Trainer leaves out when it counts the cells of the global batch.
UNKNOWN = -100.0


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


def shorten(ids: list[int], limit: int, long_texts: str) -> list[int]:
    """The first `limit` of the token ids of a text; with `middle` the first half of them and, from its end, the other.

    A beginning and an end say more of a long text than its beginning alone (Sun et al. 2019).

    Args:
        ids: of the whole text.
        limit: how many may stay.
        long_texts: `cut` or `middle`.
    """
    if len(ids) <= limit:
        return ids
    last = limit // 2 if long_texts == "middle" else 0
    return ids[: limit - last] + ids[len(ids) - last :]


def tokenize(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, task: Task | None = None
) -> dict[str, list]:
    """What a classifier reads: for training, evaluation and prediction alike.

    Args:
        texts: `[N]`.
        tokenizer: of the model.
        max_length: tokens of a text that the model sees at a time.
        task: says what is done with longer texts; left out: they are cut.

    Returns:
        the tokenizer's `input_ids`, `attention_mask`, ..., `length` (tokens) and `full_length` (tokens before cutting),
        `[N]` each. With windows `input_ids` are lists of windows, and there is no mask: a window has no padding.
    """
    encoded = tokenizer(texts, verbose=False)
    full_length = [len(ids) for ids in encoded["input_ids"]]
    long_texts = "cut" if task is None else task.long_texts
    if task is not None and long_texts == "windows":
        windows = _windows(texts, tokenizer, max_length, task.window_overlap)
        return {
            "input_ids": windows,
            "length": [sum(map(len, parts)) for parts in windows],
            "full_length": full_length,
        }
    if max(full_length) > max_length and long_texts == "middle":
        # Special tokens are the first and the last, and stay.
        encoded = {name: [shorten(row, max_length, "middle") for row in rows] for name, rows in encoded.items()}
    elif max(full_length) > max_length:
        encoded = tokenizer(texts, truncation=True, max_length=max_length)
    return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "full_length": full_length}


def _windows(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int
) -> list[list[list[int]]]:
    """Token ids of the windows of each text.

    Args:
        texts: `[N]`.
        tokenizer: of the model.
        max_length: tokens of a window, special ones included.
        overlap: tokens that a window shares with the one before it.

    Raises:
        UserError: for windows that would not get on, and a tokenizer that makes none.
    """
    if not tokenizer.is_fast:
        raise UserError("--long_texts windows: the model has a slow tokenizer, which makes none: pass middle or cut")
    if max_length - tokenizer.num_special_tokens_to_add() <= overlap:
        raise UserError(f"--window_overlap {overlap}: windows of {max_length} tokens would not get on: take less")
    encoded = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    windows: list[list[list[int]]] = [[] for _ in texts]
    for row, ids in zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"]):
        windows[row].append(ids)
    return windows


def encode(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, task: Task | None = None
) -> datasets.Dataset:
    """Tokenize examples once, with all cores where there are many rows: the result is cached.

    Args:
        examples: N rows.
        tokenizer: of the model.
        max_length: tokens of a text that the model sees at a time.
        task: says what is done with longer texts; left out: they are cut.

    Returns:
        data set with the columns of `tokenize` and labels.
    """
    rows = examples.rows
    drop = [name for name in rows.column_names if name not in ("labels", "weight")]
    how = [] if task is None else [task.long_texts, task.window_overlap]
    options = tokenizer_key(tokenizer) | {"max_length": max_length, "long_texts": how}
    key = cache_key(rows._fingerprint, options, sys.modules[__name__])

    def tokenize_batch(batch: dict[str, list]) -> dict[str, list]:
        return tokenize(batch["text"], tokenizer, max_length, task)

    return map_rows(rows, tokenize_batch, key, "tokenizing", remove_columns=drop)


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
    attention and grouped queries, apply. Windows become rows of their own, W of them, and `windows` `[N, W]` says which
    belong to which text.

    Args:
        tokenizer: it says how and where to pad.
        on_gpu: whether the batches are for a GPU.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_gpu: bool):
        self.pad = DataCollatorWithPadding(tokenizer)
        self.multiple_of = 8 if on_gpu else None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors of a batch; labels that are not known (NaN) are UNKNOWN in it."""
        if not len(rows[0]["input_ids"]) or np.ndim(rows[0]["input_ids"][0]) == 0:
            return self._padded(rows)
        windows = [window for row in rows for window in row["input_ids"]]
        owner = [i for i, row in enumerate(rows) for _ in row["input_ids"]]
        batch = self._padded([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in windows])
        # In front, as Trainer takes the number of rows from what comes first.
        own = {name: torch.tensor([row[name] for row in rows]) for name in ("labels", "weight") if name in rows[0]}
        if "labels" in own:
            own["labels"] = _known(own["labels"])
        return {**own, **batch, "windows": torch.arange(len(rows))[:, None] == torch.tensor(owner)[None, :]}

    def _padded(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        self.pad.pad_to_multiple_of = rounded_up(self.multiple_of, [row["input_ids"] for row in rows])
        batch: Any = self.pad(rows)
        if "labels" in batch:
            batch["labels"] = _known(batch["labels"])
        return batch


def _known(labels: torch.Tensor) -> torch.Tensor:
    return labels.nan_to_num(nan=UNKNOWN)


def rounded_up(multiple_of: int | None, ids: Sequence[Sized]) -> int | None:
    """What the length of a batch is rounded up to: nothing where all rows have one length."""
    return multiple_of if len({len(row) for row in ids}) > 1 else None
