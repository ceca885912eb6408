"""The parameters of a model: counting them by kind, and checking that training changes them.

Only this module knows how bitsandbytes, FSDP and DeepSpeed store a parameter.
"""

from __future__ import annotations

import math
import resource
import sys
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from utils.models.head import HEAD_PARTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ("LoRA", "head", "norms", "embeddings", "other weights")


def without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside PEFT's wrapper, or the model itself if it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def parameter_count(parameter: torch.nn.Parameter) -> int:
    """Number of weights, also if bitsandbytes packs two into a byte or DeepSpeed ZeRO-3 has sharded them."""
    state = getattr(parameter, "quant_state", None)
    return stored_count(parameter) if state is None else math.prod(state.shape)


def stored_count(parameter: torch.nn.Parameter) -> int:
    """Number of stored elements: half the number of weights where bitsandbytes packs two into a byte."""
    return getattr(parameter, "ds_numel", None) or parameter.numel()


def parameter_kind(name: str) -> str:
    """Which of KINDS a parameter belongs to, judging by its name."""
    if "lora_" in name:
        return "LoRA"
    if not set(HEAD_PARTS).isdisjoint(name.split(".")):
        return "head"
    if "norm" in name.lower() or ".ln_" in name:
        return "norms"
    return "embeddings" if "embed" in name.lower() or ".wte." in name else "other weights"


def quantized_modules(model: torch.nn.Module) -> list[str]:
    """Names of the linear layers with 4-bit or 8-bit weights."""
    # By the module of the class: PEFT's wrappers around such layers have the same class names.
    return [name for name, module in model.named_modules() if type(module).__module__.startswith("bitsandbytes")]


def count_parameters(model: torch.nn.Module) -> tuple[int, dict[str, int]]:
    """`(all weights, trainable weights of each of KINDS)`."""
    total, trainable = 0, dict.fromkeys(KINDS, 0)
    for name, parameter in model.named_parameters():
        total += parameter_count(parameter)
        if parameter.requires_grad:
            trainable[parameter_kind(name)] += parameter_count(parameter)
    return total, trainable


def fingerprints(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Sum and sum of squares of this process's part of each trainable tensor: if the part changes, they change.

    Tensors that DeepSpeed has cut up are gathered one by one, so all processes must call this. The sums are computed on
    the CPU: on another device the same numbers would give other last digits.
    """
    result = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = _own_part(parameter)
            if part.numel():  # a process may hold no part of a small tensor
                part = part.cpu().to(torch.float64)
                result[name] = (part.sum().item(), part.square().sum().item())
    return result


def _own_part(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this process has of a parameter: the whole, or under FSDP 2 its shard; under DeepSpeed the whole in fp32."""
    if isinstance(parameter, DTensor):
        shards: Any = parameter.detach()
        return shards.to_local()
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        # The weights that the model computes with may be in 16 bit, too coarse for a small step to show.
        return safe_get_full_fp32_param(parameter)
    return parameter.detach()


def unchanged_tensors(before: dict[str, tuple[float, float]], model: torch.nn.Module) -> list[str]:
    """Names of the trainable tensors of which some process's part is as it was when `fingerprints` gave `before`.

    Of embeddings one part must have changed: another may hold only tokens and positions that the texts lack.
    All processes must call this.
    """
    after = fingerprints(model)
    parts = gather_object([(name, after[name] == value) for name, value in before.items()])
    unchanged = {name for name, same in parts if same}
    changed = {name for name, same in parts if not same}
    return sorted(unchanged - {name for name in changed if parameter_kind(name) == "embeddings"})


def costs(model: torch.nn.Module) -> dict[str, int]:
    """What a run cost: trainable and total parameters, and the peak memory of this process in bytes.

    The memory is the GPU's if the model is on one, otherwise the resident memory.
    """
    total, trainable = count_parameters(model)
    on_gpu = torch.cuda.is_available() and next(model.parameters()).is_cuda
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "trainable_parameters": sum(trainable.values()),
        "total_parameters": total,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else resident,
    }
