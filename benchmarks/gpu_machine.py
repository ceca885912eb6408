"""The machine that the checks of benchmarks/gpu_checks.py run on: what it has, how fast it is, what a process takes."""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


class NotDone(Exception):
    """The machine cannot do a check; the message is the reason."""


@dataclass
class Machine:
    """What the checks run on, and its speed.

    Args:
        device: `cuda` or `cpu`.
        name: of the device.
        bf16: whether its bf16 is fast; the scripts take fp16 on a GPU without.
        memory: bytes of the device.
        free: bytes of the device that no other program had taken before the first check.
        matmul_dtype: number format of the large matrix product that was measured.
        matmul_tflops: its speed, the best that a training could reach.
        devices: what `utils.core.environment` says of the machine.
    """

    device: str
    name: str
    bf16: bool
    memory: int | None
    free: int | None
    matmul_dtype: str
    matmul_tflops: float
    devices: dict[str, str]

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def needs(self, gpu=0.0, host=0.0, disk=0.0, folder=Path(".")):
        """Raise `NotDone` where less is free: GiB of the GPU, of host memory, of the disk that a folder lies on."""
        if self.on_gpu:
            free = {"GPU memory": (gpu, self.free), "host memory": (host, host_memory_free())}
            free["disk space"] = (disk, shutil.disk_usage(folder).free)
            for what, (wanted, there) in free.items():
                if there is not None and there < wanted * GIB:
                    raise NotDone(f"needs {wanted:.1f} GiB of {what}, {there / GIB:.1f} are free")


def host_memory_free():
    """Bytes of memory that the kernel would give, None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def describe_machine(device):
    """The `Machine`; measures its matrix product."""
    import torch

    from utils.core.environment import devices
    from utils.models.precision import bf16_is_fast

    described = {name: value for name, value in devices() if name != "memory"}
    if device == "cpu":
        bf16 = bf16_is_fast(False)
        dtype = torch.bfloat16 if bf16 else torch.float32
        return Machine("cpu", "cpu", bf16, None, None, str(dtype)[6:], matmul_tflops("cpu", dtype, 1024, 5), described)
    free, total = torch.cuda.mem_get_info()
    bf16 = bf16_is_fast(True)
    dtype = torch.bfloat16 if bf16 else torch.float16
    speed = matmul_tflops("cuda", dtype, 8192 if free > 2 * GIB else 4096, 20)
    return Machine("cuda", torch.cuda.get_device_name(), bf16, total, free, str(dtype)[6:], speed, described)


def matmul_tflops(device, dtype, size, repetitions):
    """Speed of a square matrix product in 10^12 operations a second: the median of some, each timed by the device."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repetitions + 3):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            a @ b
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1000)
        else:
            started = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[3:]) / 1e12  # the first ones load and choose kernels


class MemoryWatch:
    """Looks at this process's memory while it goes on: at what it is when a file appears, and at the most after that.

    Host memory is what the process has itself; pages of files that it reads can be taken back.
    """

    def __init__(self, file, on_gpu):
        self.file, self.on_gpu, self.running = file, on_gpu, True
        self.before = self.peak = self.gpu_before = self.gpu_peak = 0
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        while self.running:
            if self.before or self.file.exists():
                now = own_memory()
                if not self.before:
                    self.before, self.gpu_before = now, self._gpu_peak()
                self.peak = max(self.peak, now)
            time.sleep(0.02)

    def _gpu_peak(self):
        import torch

        return torch.cuda.max_memory_allocated() if self.on_gpu else 0

    def stop(self):
        self.running = False
        self.thread.join()
        self.gpu_peak = self._gpu_peak()


def own_memory():
    """Bytes of memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0
