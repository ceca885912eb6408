"""Whether the memory of a long training stays flat: thousands of tiny steps with evaluations and checkpoints.

    python -m benchmarks.hardness.soak --steps 20000
    python -m benchmarks.hardness.soak --steps 2000 --script run_sft_labels

Resident memory is read while the training works. It fails where the last tenth holds more than `ALLOWED` above the
fifth that follows the first one, in which caches fill.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

from benchmarks.hardness import cases
from benchmarks.hardness.flags import script_main
from utils.core.tables import format_bytes, format_table

ALLOWED = 0.05  # of the memory after warming up
EVERY = 25  # steps between two evaluations, each with a checkpoint


def resident(pid: int) -> int:
    """Bytes of a process in memory; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def train(material: cases.Material, script: str, steps: int) -> tuple[list[int], cases.Ended]:
    """Train for so many steps; returns the memory over time, from the first checkpoint on, and how it ended."""
    folder = material.fresh("soak")
    more = {"max_steps": steps, "eval_steps": EVERY, "save_steps": EVERY, "per_device_train_batch_size": 4}
    more |= {"eval_strategy": "steps", "save_strategy": "steps", "logging_steps": 10, "max_eval_samples": 8}
    words = cases.training_words(material, script, folder / "run", **more)
    begun = time.monotonic()
    pid, sizes = cases.start(script_main(script), words, folder), []
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if sizes or any((folder / "run").glob("checkpoint-*")):
            sizes.append(resident(pid))
        time.sleep(0.05)
    return [size for size in sizes if size], cases.wait(pid, folder, 3600, begun)


def main() -> None:
    """Train, and print the memory in tenths of the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--script", choices=["run_classifier", "run_sft_labels"], default="run_classifier")
    args = parser.parse_args()
    with cases.prepared_folder("soak") as folder:
        material = cases.make_material(folder, runs=())
        sizes, ended = train(material, args.script, args.steps)
    assert ended.status == 0, ended.errors[-2000:]
    tenths = [sizes[i * len(sizes) // 10 : (i + 1) * len(sizes) // 10] for i in range(10)]
    medians = [statistics.median(tenth) for tenth in tenths]
    print(format_table(["tenth of the training", "memory"], [[i, format_bytes(m)] for i, m in enumerate(medians)]))
    early = statistics.median(tenths[1] + tenths[2])
    growth = medians[-1] / early - 1
    print(f"{args.steps} steps in {ended.seconds:.0f} s: {growth:+.1%} from the second and third tenth to the last")
    sys.exit(int(growth > ALLOWED))


if __name__ == "__main__":
    main()
