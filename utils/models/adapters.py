"""LoRA adapters: adding, loading and merging them."""

import json
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from trl import get_peft_config

from utils.core.errors import UserError
from utils.core.files import write_json
from utils.models.head import HEAD_PARTS
from utils.models.loading import EMBEDDED_MINILM_ON_HUB, load_pretrained


def add_lora(model, model_args):
    """Freeze the model and add LoRA adapters (Hu et al. 2021); the head is trained and saved whole beside them.

    Raises:
        UserError: for a target that matches no module, and for LoRA options that PEFT refuses.
    """
    names = [name for name, _ in model.named_modules()]
    targets = model_args.lora_target_modules
    # A single text is all-linear or a pattern, for PEFT to match; of a list each must be the end of some module's name.
    listed = targets if isinstance(targets, list) else []
    missing = [target for target in listed if not any(f".{name}".endswith(f".{target}") for name in names)]
    if missing:
        raise UserError(
            f"--lora_target_modules: {' '.join(missing)} matches no module of {type(model).__name__}: "
            "leave the flag out for all linear layers"
        )
    config = get_peft_config(model_args)
    parts = {name.split(".")[-1] for name in names} & set(HEAD_PARTS)
    if config.task_type == "SEQ_CLS":
        config.modules_to_save = sorted(parts | set(config.modules_to_save or []))
    try:
        return get_peft_model(model, config)
    except (ValueError, AttributeError) as error:  # the latter for a task type that the model cannot do
        raise UserError(f"LoRA: {error}") from error


def name_base_on_hub(adapter_folder):
    """Let the adapter in `adapter_folder` name its base model as the hub does, not by a path of this machine."""
    path = Path(adapter_folder) / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, config | {"base_model_name_or_path": EMBEDDED_MINILM_ON_HUB})


def load_adapter(base, folder):
    """`base`, the model as it was before training, with the adapter (and head) of `folder` on it."""
    return load_pretrained(lambda path: PeftModel.from_pretrained(base, path), str(folder))


def merge_adapter(base, dtype, tokenizer, adapter_folder, merged_folder):
    """Write a plain 16-bit model with the adapter of `adapter_folder` merged into `base` to `merged_folder`.

    The adapter was trained on quantised weights, so these are turned back to 16 bit and merged into, not the original
    ones: the merged model computes what the trained one did.
    """
    if getattr(base, "is_quantized", False):
        base = base.dequantize()
    merged = PeftModel.from_pretrained(base, adapter_folder).merge_and_unload()
    # fp16 is finer than bf16, but models trained in bf16 may leave its range.
    merged.to(torch.bfloat16 if dtype == "bfloat16" else torch.float16).save_pretrained(merged_folder)
    tokenizer.save_pretrained(merged_folder)
