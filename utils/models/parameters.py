"""The parameters of a model: counted by kind, and whether training has changed them.

All that knows how bitsandbytes, FSDP and DeepSpeed store a parameter is here.
"""

import math
import resource
import sys

import torch
from torch.distributed.tensor import DTensor

from utils.models.head import HEAD_PARTS

KINDS = ("LoRA", "head", "norms", "embeddings", "other weights")


def without_adapter(model):
    """The model below PEFT's wrapper, or the model itself where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def parameter_count(parameter):
    """Number of weights, also where bitsandbytes packs two into a byte, or DeepSpeed ZeRO-3 has taken them away."""
    state = getattr(parameter, "quant_state", None)
    return stored_count(parameter) if state is None else math.prod(state.shape)


def stored_count(parameter):
    return getattr(parameter, "ds_numel", None) or parameter.numel()


def parameter_kind(name):
    """Which of KINDS a parameter is, by its name."""
    if "lora_" in name:
        return "LoRA"
    if not set(HEAD_PARTS).isdisjoint(name.split(".")):
        return "head"
    if "norm" in name.lower() or ".ln_" in name:
        return "norms"
    return "embeddings" if "embed" in name.lower() or ".wte." in name else "other weights"


def quantized_modules(model):
    """Names of the linear layers whose weights are 4-bit or 8-bit."""
    # PEFT's wrappers around such layers have the same class names.
    return [name for name, module in model.named_modules() if type(module).__module__.startswith("bitsandbytes")]


def count_parameters(model):
    """`(all, trainable by kind)`: number of weights, and of the trainable ones of each of KINDS."""
    total, trainable = 0, dict.fromkeys(KINDS, 0)
    for name, parameter in model.named_parameters():
        total += parameter_count(parameter)
        if parameter.requires_grad:
            trainable[parameter_kind(name)] += parameter_count(parameter)
    return total, trainable


def fingerprints(model):
    """Two sums over each trainable tensor, which any change of it changes.

    Tensors that FSDP or DeepSpeed ZeRO-3 has sharded are gathered one by one, so all processes must call this. The sums
    are made on the CPU: on another device, or over shards, the same numbers would give other last digits.
    """
    result = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.is_meta:  # meta: the weights are in another process
            tensor = _whole(parameter).cpu().to(torch.float64)
            result[name] = (tensor.sum().item(), tensor.square().sum().item())
    return result


def _whole(parameter):
    if isinstance(parameter, DTensor):  # FSDP 2
        return parameter.detach().full_tensor()
    if hasattr(parameter, "ds_id"):  # DeepSpeed ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach()


def unchanged_tensors(before, model):
    """Names of the trainable tensors that are as they were when `before` was taken by `fingerprints`."""
    return [name for name, value in fingerprints(model).items() if before.get(name) == value]


def costs(model):
    """What a run took, for comparisons: trainable and all parameters, and the peak of this process's memory in bytes,
    the GPU's where there is one."""
    total, trainable = count_parameters(model)
    on_gpu = torch.cuda.is_available() and next(model.parameters()).is_cuda
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "trainable_parameters": sum(trainable.values()),
        "total_parameters": total,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else resident,
    }
