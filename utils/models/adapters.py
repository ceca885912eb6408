"""LoRA adapters: adding, loading and merging them."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.core.errors import UserError
from utils.core.files import read_json_object, read_part, write_json
from utils.models.approaches import ADAPTER_FILE, BASE_FOLDER
from utils.models.head import HEAD_PARTS
from utils.models.loading import EMBEDDED_MINILM, EMBEDDED_MINILM_ON_HUB, load_pretrained, resolve_model_name
from utils.models.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.core.arguments import ModelArguments


def add_lora(model: PreTrainedModel, model_args: ModelArguments) -> PreTrainedModel:
    """Freeze the model and add LoRA adapters (Hu et al. 2021). A classifier's head is trained and saved in full.

    Returns:
        PEFT's wrapper, which passes on what is asked of a model.

    Raises:
        UserError: for a target that matches no module, and for LoRA options that PEFT refuses.
    """
    from peft import get_peft_model  # takes seconds to load
    from trl import get_peft_config

    names = [name for name, _ in model.named_modules()]
    targets = model_args.lora_target_modules
    # A single string is `all-linear` or a pattern that PEFT matches; each name in a list must end some module's name.
    listed = targets if isinstance(targets, list) else []
    missing = [target for target in listed if not any(f".{name}".endswith(f".{target}") for name in names)]
    if missing:
        raise UserError(
            f"--lora_target_modules: {' '.join(missing)} matches no module of {type(model).__name__}: "
            "leave the flag out for all linear layers"
        )
    config: Any = get_peft_config(model_args)
    parts = {name.split(".")[-1] for name in names} & set(HEAD_PARTS)
    if config.task_type == "SEQ_CLS":
        config.modules_to_save = sorted(parts | set(config.modules_to_save or []))
    # PEFT turns 16-bit adapters into fp32. DeepSpeed ZeRO-3 has cut the weights up already and wants one dtype; it
    # keeps an fp32 copy of what it trains itself.
    try:
        wrapped: Any = get_peft_model(model, config, autocast_adapter_dtype=not is_sharded(model))
    except (ValueError, AttributeError) as error:  # AttributeError: for a task type that the model does not support
        raise UserError(f"LoRA: {error}") from error
    return wrapped


def bring_base(adapter_folder: str | Path) -> None:
    """Bring the embedded MiniLM along, the base model of the adapter in `adapter_folder`, and name it as on the hub.

    Plain PEFT then loads the run where neither the package nor the hub is. The weights take no space of their own
    where the file system can link them.
    """
    path = Path(adapter_folder) / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, config | {"base_model_name_or_path": EMBEDDED_MINILM_ON_HUB})
    target = Path(adapter_folder) / BASE_FOLDER
    target.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        source = Path(resolve_model_name(EMBEDDED_MINILM), name)
        (target / name).unlink(missing_ok=True)
        try:
            os.link(source, target / name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target / name)


def load_adapter(base: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Put the adapter (and head) in `folder` on `base`, the model before training; wrapped as by `add_lora`."""
    from peft import PeftModel

    if not (Path(folder) / "adapter_model.safetensors").is_file():  # PEFT would look for a pickle, or on the Hub
        raise UserError(f"{folder} has lost its adapter_model.safetensors: copy the folder again, or train again")
    check_adapter(folder)
    with warnings.catch_warnings():
        # Without some of its weights, PEFT would leave those as they are before any training.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        wrapped: Any = load_pretrained(lambda path, **_: PeftModel.from_pretrained(base, path), str(folder))
    return wrapped


def check_adapter(folder: str | Path) -> None:
    """Refuse an `adapter_config.json` that is none of LoRA as these scripts save it.

    Raises:
        UserError: for a damaged file, another kind of adapter, and options that name modules to import.
    """
    config = read_part(folder, ADAPTER_FILE, read_json_object)
    if config.get("peft_type") != "LORA" or config.get("megatron_config"):
        raise UserError(f"{Path(folder) / ADAPTER_FILE} is no LoRA adapter of these scripts: train again")


def to_merge(model_args: ModelArguments, dtype: str) -> ModelArguments:
    """How to load the base for `merge_adapter`: in the dtype of the result, so that there is one copy of that size.

    For a result in fp32 in that of the training: its weights are those that the adapter was trained on, also where the
    checkpoint has more digits.
    """
    changed = copy(model_args)
    if dtype != "float32" and not (model_args.load_in_4bit or model_args.load_in_8bit):
        changed.dtype = dtype
    return changed


def dtype_of_merged(dtype: str | None) -> str:
    """16-bit dtype of a merged model, from that of the training.

    fp16 is more precise than bf16, but weights trained in bf16 may exceed its range.
    """
    return "bfloat16" if dtype == "bfloat16" else "float16"


def merge_adapter(
    base: PreTrainedModel,
    dtype: str,
    tokenizer: PreTrainedTokenizerBase,
    adapter_folder: str | Path,
    merged_folder: str | Path,
) -> None:
    """Merge an adapter into its base model, layer by layer on the CPU, and save the result as a plain model.

    If the base is quantised, the adapter was trained on the quantised weights. So the merge uses these, dequantised,
    instead of the original ones: the merged model computes the same as the trained one. Each merged layer takes the
    place of the one before; a quantised base is unpacked first, and needs memory for both.

    Args:
        base: the model as it was before training, on the CPU.
        dtype: number format of the result.
        tokenizer: saved beside the model.
        adapter_folder: where the adapter is.
        merged_folder: where the merged model is saved.
    """
    from peft import PeftModel

    merged_dtype = getattr(torch, dtype)
    if getattr(base, "is_quantized", False):
        base = base.dequantize(dtype=merged_dtype)
    elif merged_dtype == torch.float32:
        base = base.float()
    adapted: Any = PeftModel.from_pretrained(base, adapter_folder, torch_device="cpu")
    adapted.merge_and_unload().to(merged_dtype).save_pretrained(merged_folder)
    tokenizer.save_pretrained(merged_folder)
