"""From texts to the token ids a model takes, with no padding that can be avoided."""

import os

import numpy as np
from transformers import DataCollatorWithPadding

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
    """Tokenize the text column.

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

    processes = min(os.cpu_count() or 1, len(examples) // ROWS_PER_PROCESS)
    drop = [name for name in examples.column_names if name != "labels"]
    return examples.map(
        tokenize, batched=True, remove_columns=drop, num_proc=processes if processes > 1 else None, desc="tokenizing"
    )


def longest_first(encoded):
    """Order `[N]` of the rows by length, the longest first: batches hold rows of one length, and memory runs out at
    once or never."""
    return np.argsort(-np.asarray(encoded["length"][:]), kind="stable")


def collator(tokenizer, on_gpu):
    """Collator that pads a batch to its longest row; on a GPU to a multiple of 8, which tensor cores like."""
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if on_gpu else None)
