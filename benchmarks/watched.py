"""Run a program and note how long parts of it took, when its first optimizer step ended, and its peak memory.

    python watched.py notes.json train=transformers:Trainer.train -- program.py --flags

A part is named by a function, whose calls are added up: `part=module:function` or `part=module:Class.method`. A program
is a file, or a module as after `python -m`. This file runs in the environment of any tool and needs the standard
library alone.
"""

import functools
import importlib
import json
import os
import re
import runpy
import sys
import time
from pathlib import Path


def cpu_seconds():
    """CPU seconds of this process, its threads, and its children that have ended."""
    return time.process_time() + sum(os.times()[2:4])


def time_calls(name, part, notes):
    """Add up the seconds and the CPU seconds of all calls of a function, and note when the first began.

    Args:
        name: `module:function` or `module:Class.method`.
        part: what the notes call it.
        notes: where they go.
    """
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def timed(*args, **options):
        began, cpu = time.time(), cpu_seconds()
        of = notes.setdefault(part, {"at": began, "cpu_at": cpu, "seconds": 0.0, "cpu_seconds": 0.0})
        try:
            return function(*args, **options)
        finally:
            of["seconds"] += time.time() - began
            of["cpu_seconds"] += cpu_seconds() - cpu
            of["peak_mib"] = peak_mib()

    setattr(owner, attribute, timed)


def note_first_step(notes):
    """Note when the first step of any of torch's optimizers has ended."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def note(*_):
        notes.setdefault("first_step", {"at": time.time(), "cpu_at": cpu_seconds()})
        handle.remove()

    handle = register_optimizer_step_post_hook(note)


def peak_mib():
    """Most memory that this process has held so far, in MiB.

    VmHWM and not ru_maxrss, which a process takes over from the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def main():
    """Run the program with its arguments, and write the notes, also where it fails."""
    ours = sys.argv[1 : sys.argv.index("--")]
    program, *arguments = sys.argv[len(ours) + 2 :]
    notes_file, *parts = ours
    notes = {}
    for part in parts:
        part, _, name = part.partition("=")
        time_calls(name, part, notes)
    if "torch" in sys.modules:
        note_first_step(notes)
    sys.argv = [program, *arguments]
    is_file = program.endswith(".py")
    sys.path[0] = str(Path(program).resolve().parent) if is_file else ""
    try:
        (runpy.run_path if is_file else runpy.run_module)(program, run_name="__main__")
    finally:
        Path(notes_file).write_text(json.dumps(notes | {"peak_mib": peak_mib(), "cpu_seconds": cpu_seconds()}))


if __name__ == "__main__":
    main()
