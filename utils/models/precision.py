"""Which numbers to compute in."""

import time
from functools import cache

import torch

# What bf16 must gain over fp32 in a matrix product of this size before it is used.
LEAST_GAIN = 1.2
PROBE_SIZE, PROBES = 256, 20


def bf16_is_fast(on_gpu):
    """Whether bf16 is faster than fp32 here: on NVIDIA GPUs from Ampere on; on CPUs that have it, as measured."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return False  # Apple's and others' are untested
    return bool(torch.cpu.get_capabilities().get("avx512_bf16")) and _bf16_gain() > LEAST_GAIN


@cache
def _bf16_gain():
    """How much faster one core of this CPU multiplies bf16 matrices than fp32 ones.

    Measured, in some 30 ms, as the names of the instructions do not tell: AVX512-bf16 is half as fast as fp32 on a Xeon
    of the 5th generation whose AMX the virtual machine hides; AMX is several times as fast. Others that use the machine
    do not confuse results so far apart: the best of many short products on one thread counts.
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
