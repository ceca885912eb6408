"""From texts to the token ids a model takes, with no padding that can be avoided."""

import json
import os
import sys

import numpy as np
from transformers import DataCollatorWithPadding

from utils.data.examples import cache_key

# Below this many rows starting more processes costs more than it saves.
ROWS_PER_PROCESS = 20_000


def length_limit(max_length, tokenizer, config):
    """Tokens of a text the model can take: `max_length` or what tokenizer and position embeddings allow, if less."""
    limit = min(max_length, tokenizer.model_max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        limit = min(limit, positions - first_position(config))
    return limit


def first_position(config):
    """Position of a text's first token. RoBERTa counts from its pad id on: 514 positions hold 512 tokens."""
    return config.pad_token_id + 1 if "roberta" in config.model_type else 0


def encode(examples, tokenizer, max_length):
    """Tokenize the text column, with all cores where there are many rows, once: the result is cached.

    Returns:
        data set with input_ids, attention_mask, `length` (tokens), `full_length` (tokens before truncation) and, where
        there were any, labels.
    """

    def tokenize(batch):
        encoded = tokenizer(batch["text"], verbose=False)
        full_length = [len(ids) for ids in encoded["input_ids"]]
        if max(full_length) > max_length:
            encoded = tokenizer(batch["text"], truncation=True, max_length=max_length)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "full_length": full_length}

    drop = [name for name in examples.column_names if name != "labels"]
    key = cache_key(examples._fingerprint, tokenizer_key(tokenizer) | {"max_length": max_length}, sys.modules[__name__])
    return map_rows(examples, tokenize, key, remove_columns=drop)


def map_rows(examples, function, key, **options):
    """`examples.map(function)` by batches, with all cores where there are many rows; cached under the name `key`.

    Left to itself `datasets` would name the result by the tokenizer as it stands, which changes with every use.
    """
    processes = min(os.cpu_count() or 1, len(examples) // ROWS_PER_PROCESS)
    return examples.map(
        function,
        batched=True,
        num_proc=processes if processes > 1 else None,
        new_fingerprint=key,
        desc="tokenizing",
        **options,
    )


def tokenizer_key(tokenizer):
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
    # Left over from the last call, whatever it was.
    return key | {"rules": {name: part for name, part in rules.items() if name not in ("truncation", "padding")}}


def token_ids(texts, tokenizer, max_length):
    """Token ids of texts, cut to `max_length`: an int32 array each."""
    ids = []
    for start in range(0, len(texts), 1000):
        encoded = tokenizer(texts[start : start + 1000], truncation=True, max_length=max_length)
        ids += [np.array(row, dtype=np.int32) for row in encoded["input_ids"]]
    return ids


def longest_first(encoded):
    """Order `[N]` of the rows by length, the longest first: batches hold rows of one length, and memory runs out at
    once or never."""
    return np.argsort(-np.asarray(encoded["length"][:]), kind="stable")


def collator(tokenizer, on_gpu):
    """Collator that pads a batch to its longest row; on a GPU to a multiple of 8, which tensor cores like."""
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if on_gpu else None)
