"""What works on your GPU, and how fast: one command of at most ten minutes, for one GPU.

    python -m benchmarks.gpu_check
    python -m benchmarks.gpu_check --checks 1 9 --minutes 5

It needs neither the hub nor data of yours: models have random weights in the shapes of Qwen2.5-7B, Qwen3-0.6B and
roberta-base, texts are the sample data. It prints a table of what passes, what fails and what this machine cannot do,
with figures, and writes them to benchmarks/results/gpu_check_<device>.json: put that file into a bug report. What each
check printed lies in --output_dir, which needs 30 GiB for the models of 7B; they are deleted at the end.

--device cpu runs what a CPU can with toy models. That shows that the checks run, and nothing of memory or speed.
**No GPU has run this yet**: the columns of a GPU are empty, and what only a GPU reaches is untested.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_trainings import reason_of
from utils.core.environment import code, versions
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.log import log
from utils.core.parser import option, script
from utils.core.tables import format_seconds, format_table

SECONDS_TO_END = 20  # that a check has to end its own processes when its time is over


@dataclass
class CheckArguments:
    """Where, which and how long."""

    device: str = option("cuda", "what to check; cpu takes toy models", choices=["cuda", "cpu"])
    checks: list[int] | None = option(None, "numbers of the checks to run; left out: all")
    minutes: float = option(10.0, "time for all checks together; what no longer fits is not done")
    output_dir: str = option("outputs/gpu_check", "for what the checks print, and while they run for their models")
    results: str | None = option(
        None,
        "file for the figures; left out: benchmarks/results/gpu_check_<device>.json, or none where --checks picks some",
    )

    def __post_init__(self):
        known = {number for number, _, _ in CHECKS}
        unknown = set(self.checks or []) - known
        if unknown:
            raise UserError(f"--checks {min(unknown)}: there are {min(known)} to {max(known)}")
        if not self.minutes > 0:
            raise UserError(f"--minutes {self.minutes}: must be above 0")


def child_environment(device):
    """Variables of the checks: no hub, and one GPU or none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if device == "cuda" else ""
    return os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": visible}


def run_in_process(name, machine, folder, log_file, device, seconds):
    """Run a function of benchmarks/gpu_checks.py in a new process.

    Args:
        name: of the function.
        machine: file with the `Machine`, or for `describe_machine` the device.
        folder: that all checks share.
        log_file: for what it prints.
        device: `cuda` or `cpu`.
        seconds: after which it is ended.

    Returns:
        `(answer, status)`: what it wrote, or None; its exit status, None where its time was over.
    """
    answer = folder / f"{name}.json"
    answer.unlink(missing_ok=True)
    words = [sys.executable, "-m", "benchmarks.gpu_checks", name, str(machine), str(folder), str(answer)]
    with open(log_file, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, env=child_environment(device), start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_all(process)
    return (read_json(answer) if answer.exists() else None), status


def end_all(process):
    """End a process and its group, asked first: launchers end their own processes, which are in other groups."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                return  # all of them have ended
            number = 0  # only look whether they have
            time.sleep(0.1)


def described_machine(args, folder):
    """The machine as a dictionary; a `UserError` where torch finds no GPU, or none that works."""
    log_file = Path(args.output_dir) / "machine.log"
    machine, status = run_in_process("describe_machine", args.device, folder, log_file, args.device, 300)
    if machine is None:
        said = reason_of(log_file.read_text(encoding="utf-8")) if status is not None else "no answer in five minutes"
        remedy = "mend that first, or pass --device cpu" if args.device == "cuda" else "see its log"
        raise UserError(f"torch cannot compute on {args.device}: {said}: {remedy} ({log_file})")
    return machine


def outcome_of(name, args, folder, deadline):
    """Result, reason and figures of one check."""
    left = deadline - time.monotonic()
    if left <= 0:
        return {"result": "not done", "why": f"time: the {args.minutes:g} minutes are over", "figures": {}}
    log_file = Path(args.output_dir) / f"{name}.log"
    outcome, status = run_in_process(name, folder / "machine.json", folder, log_file, args.device, left)
    if status is None:
        return {"result": "not done", "why": f"time: ended after {format_seconds(left)}", "figures": {}}
    if outcome is None:
        ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        said = reason_of(log_file.read_text(encoding="utf-8", errors="replace"))
        hint = ", which may mean that the host's memory was full" if status == -signal.SIGKILL else ""
        return {"result": "fail", "why": f"its process ended {ended}{hint}: {said}", "figures": {}}
    return outcome


def shown(value):
    """A figure as text."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def table(rows):
    """All checks with their figures, and below them why some were not done or fail."""
    lines, reasons = [], []
    for row in rows:
        figures = [[name, shown(value)] for name, value in row["figures"].items()] or [["", ""]]
        for i, figure in enumerate(figures):
            first = i == 0
            title = f"{row['number']:2} {row['check']}"
            lines.append([title if first else "", row["result"] if first else "", *figure])
        if row["why"]:
            reasons.append(f"{row['number']:2} {row['check']}: {row['result']}: {row['why']}")
    return "\n\n".join([format_table(["check", "result", "figure", "value"], lines), "\n".join(reasons)]).strip()


@script(__doc__, [CheckArguments])
def main(args: CheckArguments) -> None:
    """Run the checks one after the other, print a table, write the figures; status 1 if one fails."""
    output_dir = Path(args.output_dir)
    folder = output_dir / "work"
    shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed
    folder.mkdir(parents=True)
    deadline = time.monotonic() + 60 * args.minutes
    try:
        machine = described_machine(args, folder)
        write_json(folder / "machine.json", machine)
        log(f"{machine['name']}: {machine['matmul_tflops']:.3g} TFLOPS in {machine['matmul_dtype']} matrix products")
        device = re.sub(r"[^a-z0-9]+", "_", machine["name"].lower()).strip("_")
        results = args.results or (None if args.checks else f"benchmarks/results/gpu_check_{device}.json")
        content = {
            "date": date.today().isoformat(),
            "device": machine["name"],
            "models": "real shapes, random weights"
            if args.device == "cuda"
            else "toys: no figure of memory or speed counts",
            "versions": dict([*versions(), *code()]),
            "machine": machine,
            "checks": [],
        }
        for number, title, name in CHECKS:
            if args.checks and number not in args.checks:
                continue
            began = time.monotonic()
            outcome = outcome_of(name, args, folder, deadline)
            seconds = time.monotonic() - began
            content["checks"].append({"number": number, "check": title, "seconds": round(seconds, 1)} | outcome)
            log(f"{number:2} {title}: {outcome['result']} ({format_seconds(seconds)})")
            if results:
                write_json(results, content)  # after each: whatever happens to the machine, what is done is kept
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(content["checks"]))
    print(f"\nwhat the checks printed: {output_dir}/*.log" + (f"; figures: {results}" if results else ""))
    if any(row["result"] == "fail" for row in content["checks"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
