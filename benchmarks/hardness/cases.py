"""Commands tried by the thousand: each in a fork of a process that has its imports already."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.core.log import silence_deepspeed
from utils.core.shown import printable

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "WANDB_MODE": "disabled",
}


LONGEST_WAIT = 5  # times the seconds of computing


@dataclass
class Ended:
    """How a command ended: its exit status, `-N` for signal N, `None` when it was ended for its time; what it said."""

    status: int | None
    output: str
    errors: str
    seconds: float

    @property
    def problem(self) -> str | None:
        """What is wrong with how it ended; None for success, and for a mistake told in one line."""
        if self.status is None:
            return "did not end"
        if "Traceback (most recent call last)" in self.errors:
            return f"traceback: {last_line(self.errors)}"
        if self.status not in (0, 2):
            return f"exit status {self.status}: {last_line(self.errors)}"
        told = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        if self.status == 2 and len(told) != 1:
            return f"exit status 2 with {len(told)} lines of errors: {last_line(self.errors)}"
        if any(printable(line) != line for line in told):
            return f"control characters in {told[0]!r}"
        return None


def last_line(text: str) -> str:
    """The last line that holds anything."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:300]


@contextmanager
def prepared_folder(name: str) -> Generator[Path]:
    """A temporary folder for cases, which are prepared; the process that made it removes it, and no fork of it does."""
    folder, pid = Path(tempfile.mkdtemp(prefix=f"{name}-")), os.getpid()
    try:
        prepare(folder)
        yield folder
    finally:
        if os.getpid() == pid:
            shutil.rmtree(folder, ignore_errors=True)


def prepare(folder: Path) -> None:
    """Set the environment of all cases, with a cache in `folder`, and import what commands import."""
    os.environ.update(ENVIRONMENT | {"HF_HOME": str(folder / "cache")})
    silence_deepspeed()
    import importlib

    for name in (
        "compare_runs", "make_submission", "predict", "run_classifier", "run_sft_labels", "utils.report.__main__",
        "utils.data.examples", "utils.hub.pull", "utils.models.classifier", "utils.models.generator.generator",
        "utils.runs.comparison", "utils.runs.ensembles", "utils.runs.held_labels", "utils.runs.inference",
        "utils.runs.submission", "utils.report.page", "utils.training.classifier", "utils.training.experiment",
        "utils.training.generator", "utils.training.preflight", "trl.scripts.utils", "sklearn.metrics",
        *(f"transformers.models.{kind}.modeling_{kind}" for kind in ("roberta", "qwen2")),
        "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    ):  # fmt: skip
        importlib.import_module(name)
    with suppress(ImportError):  # accelerate imports it wherever it is installed
        importlib.import_module("deepspeed")
    gc.freeze()  # what is shared with the cases is not collected, nor copied, by them


def start(
    main: Callable[[list[str]], None], words: list[str], folder: Path, limit: int | None = None, processes: int = 1
) -> int:
    """Fork a process that calls a script's `main`; returns its process id.

    Args:
        main: of the script.
        words: its command line.
        folder: where `output` and `errors` are written.
        limit: bytes that a file may have, as on a full disk.
        processes: that work together, as the launcher would start them; the one that is returned waits for them.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setpgid(0, 0)  # what it starts is ended with it
        for number, name in ((1, "output"), (2, "errors")):
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        os.chdir(folder)  # what a flag makes of a relative path lands here
        sys.argv = [f"{main.__module__}.py", *words]
        if limit is not None:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if processes == 1:
            main(words)
        status = 0 if processes == 1 else _work_together(main, words, processes)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _work_together(main: Callable[[list[str]], None], words: list[str], processes: int) -> int:
    """Fork processes that share one training, and wait; returns the highest of their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": str(processes)}
    pids = []
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            main(words)
            return 0
        pids.append(pid)
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for pid in pids)


def wait(pid: int, folder: Path, timeout: float, begun: float) -> Ended:
    """Wait for a process of `start`, and end it after `timeout` seconds of computing, or many more of waiting.

    On a busy machine seconds of the clock say nothing of a command.
    """
    status = None
    while time.monotonic() - begun < LONGEST_WAIT * timeout and _computed(pid) < timeout:
        done, raw = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(raw)
            break
        time.sleep(0.01)
    else:
        end(pid)
    said = [
        (folder / name).read_text(errors="replace") if (folder / name).exists() else "" for name in ("output", "errors")
    ]
    return Ended(status, *said, time.monotonic() - begun)


def _computed(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def end(pid: int) -> None:
    """Kill a process of `start` with all that it has started, and wait for it."""
    for target in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            target(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def call(
    main: Callable[[list[str]], None],
    words: list[str],
    folder: Path,
    timeout: float = 120,
    limit: int | None = None,
    processes: int = 1,
) -> Ended:
    """Run a script's `main` in a process of its own, and say how it ended; arguments as for `start`."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    return wait(start(main, [str(word) for word in words], folder, limit, processes), folder, timeout, begun)


@dataclass
class Material:
    """What cases are made of: tiny models, rows, finished runs."""

    folder: Path
    encoder: str
    decoder: str
    train: Path
    validation: Path
    test: Path
    runs: dict[str, Path]

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        path = self.folder / "cases" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


LABELS = ["joy", "fear", "anger"]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def training_words(material: Material, script: str, output: Path, **more: object) -> list[str]:
    """The command line of a training that takes a second or two."""
    values: dict[str, object] = {
        "model_name_or_path": material.decoder
        if script == "run_sft_labels" or more.get("use_peft")
        else material.encoder,
        "train_file": material.train,
        "validation_file": material.validation,
        "output_dir": output,
        "learning_rate": 3e-3,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 16,
        "bf16": False,
        "disable_tqdm": True,
        "report": False,
        "threshold_strategy": "fixed",  # cross-fitting takes most of the time of a tiny run
        "logging_steps": 1,
    }
    if script == "run_sft_labels":
        values |= {"max_nodes": 8, "num_train_epochs": 2}
    values |= more
    return [str(word) for name, value in values.items() if value is not None for word in (f"--{name}", value)]


def make_material(folder: Path, runs: Collection[str] = ("full", "lora", "generator")) -> Material:
    """Build models, files and runs in `folder`."""
    import pandas as pd

    import run_classifier
    import run_sft_labels
    from utils.models.tiny import build, sample_texts

    rng = random.Random(0)
    words = sorted({word for text in sample_texts() for word in text.split()})
    files = {}
    for name, rows in {"train": 48, "validation": 24, "test": 20}.items():
        table = {"id": [f"{name}-{i:03d}" for i in range(rows)]}
        table["text"] = [" ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in range(rows)]
        if name != "test":
            table |= {label: [int(rng.random() < 0.4) for _ in range(rows)] for label in LABELS}
        files[name] = folder / f"{name}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(table).to_csv(files[name], index=False)
    models = {}
    for kind in ("roberta", "qwen2"):
        models[kind] = str(folder / kind)
        # Built in a fork too: the process that forks must have computed nothing.
        ended = call(lambda words, kind=kind: build(kind, words[0], **SMALL), [models[kind]], folder)
        assert ended.problem is None, ended.errors
    material = Material(folder, models["roberta"], models["qwen2"], **files, runs={})
    wanted = {
        "full": (run_classifier.main, "run_classifier", {}),
        "lora": (run_classifier.main, "run_classifier", {"use_peft": True}),
        "generator": (run_sft_labels.main, "run_sft_labels", {"use_peft": True, "lora_r": 4}),
    }
    for name in runs:
        main, script, more = wanted[name]
        output = folder / "runs" / name
        ended = call(main, training_words(material, script, output, **more), folder)
        assert ended.status == 0, ended.errors[-3000:]
        material.runs[name] = output
    return material
