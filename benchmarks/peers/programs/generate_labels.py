"""Batched, greedy `generate` of transformers with a model that was trained to answer with labels."""

import json
from pathlib import Path

import torch
from settings import read_settings
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 32

settings, _, validation = read_settings()
tokenizer = AutoTokenizer.from_pretrained(settings["folder"], padding_side="left")
model = AutoModelForCausalLM.from_pretrained(settings["folder"]).eval()


@torch.inference_mode()
def generate(prompts):
    """Answers to prompts."""
    batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**batch, max_new_tokens=32, do_sample=False)
    return tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


prompts = validation["prompts"]
answers = [answer for begin in range(0, len(prompts), BATCH) for answer in generate(prompts[begin : begin + BATCH])]
Path(settings["output"]).write_text(json.dumps(answers))
