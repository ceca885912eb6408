"""Choosing the number formats of weights and of matrix products."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from utils.core.processes import this_process

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

    from utils.core.arguments import ModelArguments

# On a CPU bf16 is used if it multiplies matrices of this size faster than fp32 by at least this factor.
LEAST_GAIN = 1.2
PROBE_SIZE, PROBES = 256, 20  # rows and columns; repetitions, of which the fastest counts


def bf16_is_fast(on_gpu: bool) -> bool:
    """Whether bf16 is faster than fp32: yes on NVIDIA GPUs since Ampere; measured on CPUs with AVX512-bf16."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return False  # untested on Apple's and other accelerators
    return bool(torch.cpu.get_capabilities().get("avx512_bf16")) and _bf16_gain() > LEAST_GAIN


def quantization(model_args: ModelArguments) -> BitsAndBytesConfig | None:
    """How a model is quantised, as the flags ask; None where they do not.

    On a GPU without bf16 the products of 4-bit weights are computed in fp16, while all other weights are in fp32.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    from trl import get_quantization_config  # bitsandbytes takes seconds to load

    config: Any = get_quantization_config(model_args)
    device: Any = this_process().device  # never None, unlike accelerate's hint
    if config.load_in_4bit and device.type == "cuda" and not bf16_is_fast(on_gpu=True):
        config.bnb_4bit_compute_dtype = torch.float16
    return config


def suit_this_machine(model: torch.nn.Module) -> None:
    """Turn bf16 weights of a trained model into fp32 where the machine that predicts is slow at bf16.

    The values stay those that were trained. 4-bit weights stay as they are; their products are computed in fp16 on a
    GPU and in fp32 on a CPU then.
    """
    device: Any = this_process().device
    if bf16_is_fast(device.type == "cuda"):
        return
    _change_dtypes(model, (torch.bfloat16,), torch.float16 if device.type == "cuda" else torch.float32)


def compute_in_fp32(model: torch.nn.Module) -> None:
    """Let a model compute in fp32, with 16-bit and quantised weights of the values that they have."""
    _change_dtypes(model, (torch.bfloat16, torch.float16), torch.float32)


def _change_dtypes(model: torch.nn.Module, widened: tuple[torch.dtype, ...], products: torch.dtype) -> None:
    """Turn weights of the dtypes `widened` into fp32, and compute products of quantised ones in that of `products`."""
    modules: Any = model.modules()
    for module in modules:
        if hasattr(module, "compute_dtype") and type(module).__module__.startswith("bitsandbytes"):
            module.compute_dtype = products
            module.compute_type_is_set = True
        for parameter in module.parameters(recurse=False):
            if parameter.dtype in widened and type(parameter) is torch.nn.Parameter:
                parameter.data = parameter.data.float()


@cache
def _bf16_gain() -> float:
    """How many times faster one core of this CPU multiplies bf16 matrices than fp32 ones.

    Measured, in about 30 ms, because the CPU's flags do not say: AVX512-bf16 is half as fast as fp32 on a Xeon of the
    5th generation whose AMX the virtual machine hides, and AMX is several times as fast. The fastest of many short
    products on one thread counts, so other load on the machine hardly matters.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype) for _ in range(2))
        times = []
        for _ in range(PROBES):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    torch.set_num_threads(threads)
    return seconds[0] / seconds[1]
