"""Answers that are not restricted to valid ones, as transformers' `generate` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig

from utils.models.generator.prompts import Prompt, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def decode_freely(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    texts: list[list[int]],
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """Decode greedily without restricting the model to valid answers.

    Args:
        model: causal language model, on its device, in evaluation mode.
        tokenizer: turns its answers into text.
        prompt: the tokens around a text.
        texts: token ids of the N texts.
        batch_size: texts in a batch.
        max_new_tokens: tokens of an answer at most.

    Returns:
        the answers, `[N]`.
    """
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=prompt.end, pad_token_id=tokenizer.pad_token_id
    )
    answers = []
    for start in range(0, len(texts), batch_size):
        rows = [prompt.head + ids + prompt.tail for ids in texts[start : start + batch_size]]
        ids, mask = left_padded(rows, tokenizer.pad_token_id)
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            synced_gpus=False,  # `in_lockstep` sees to that
        )
        for row in output[:, ids.shape[1] :].tolist():
            kept = row[: row.index(prompt.end)] if prompt.end in row else row
            answers.append(str(tokenizer.decode(kept, skip_special_tokens=True)))
    return answers
