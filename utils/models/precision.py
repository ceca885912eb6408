"""Choosing the number format to compute in."""

from __future__ import annotations

import time
from functools import cache

import torch

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
