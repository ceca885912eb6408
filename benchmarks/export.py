"""Exported models beside their runs: size, difference of probabilities, macro-F1 and speed, in fp32 and int8.

    python -m benchmarks.export --models outputs/minilm outputs/minilm-lora --file sample_data/train.csv

Probabilities are compared on the first 500 rows of the file, and all its rows are timed: torch (fp32) and the exported
model in turn, on as many threads. Rates are of CPU seconds, which other work on the machine changes less than wall
time. Macro-F1 is that of the validation rows, at the run's thresholds.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import command_line, stored
from utils.core.errors import UserError
from utils.core.files import write_json
from utils.core.log import say
from utils.core.parser import option, script
from utils.core.tables import format_table

RESULTS = "benchmarks/results/export.json"


@dataclass
class ExportBenchmarkArguments:
    """What is exported, and compared on what."""

    models: list[str] = option(None, "folders of finished runs of heads")
    file: str = option("sample_data/train.csv", "rows to compare, with the columns of the runs' data")
    rounds: int = option(3, "times that both are timed, of which the median is shown")
    name: str = option("here", "of these figures in the results file")

    def __post_init__(self):
        if not self.models:
            raise UserError("--models is missing: name folders of finished runs")


def measure(folder: str, file: str, rounds: int) -> list[dict[str, Any]]:
    """Figures of one run, exported in fp32 and in int8.

    Args:
        folder: of the run.
        file: rows to compare.
        rounds: times that the rows are predicted.
    """
    import torch

    from utils.data.columns import read_texts
    from utils.data.tables import read_table
    from utils.models.approaches import describe_approach
    from utils.runs.finished import model_name
    from utils.runs.folder import load_arguments
    from utils.runs.inference import load_run
    from utils.scoring.predictions import Predictions
    from utils.serving.export import compare, export_run, rows_to_compare

    run, arguments = load_run(folder), load_arguments(folder)
    texts = read_texts(read_table(file), run.task)
    rows = Predictions(run.task.labels, list(map(str, range(len(texts)))), texts)
    measured = []
    for int8 in (False, True):
        with tempfile.TemporaryDirectory() as target:
            exported = export_run(run, folder, Path(target), int8)
            timed = [compare(run, exported, folder, rows, clock=time.process_time) for _ in range(rounds)]
            scored = compare(run, exported, folder, rows_to_compare(folder, run.task.labels))
        rates = {name: float(np.median([getattr(check, name) for check in timed])) for name in ("rate", "run_rate")}
        known = {name: getattr(scored, name) for name in ("scored_rows", "f1_macro", "run_f1_macro", "intervals")}
        measured.append(
            {"model": model_name(arguments), "approach": describe_approach(arguments), "int8": int8}
            | asdict(timed[0])
            | known
            | rates
            | {"threads": torch.get_num_threads()}
        )
    return measured


def table_of(measured: list[dict[str, Any]], markdown: bool = False) -> str:
    """What was measured, a line for each run and each form that it was exported in."""
    header = ["run", "as", "size", "farthest probability", "macro-F1", "points", "rows/CPU s", "of torch's"]
    table = []
    for row in measured:
        if not row["int8"]:
            known = ["-", f"{row['run_f1_macro']:.4f}", "-", f"{row['run_rate']:.0f}", "1.0"]
            table.append([f"{row['model']}, {row['approach']}", "torch", _mib(row["run_size"]), *known])
        points = 100 * (row["f1_macro"] - row["run_f1_macro"])
        cells = [_mib(row["size"]), f"{row['farthest']:.1e}", f"{row['f1_macro']:.4f}", f"{points:+.2f}"]
        speed = [f"{row['rate']:.0f}", f"{row['rate'] / row['run_rate']:.1f}"]
        table.append(["", "int8" if row["int8"] else "fp32", *cells, *speed])
    return format_table(header, table, markdown)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


@script(__doc__, [ExportBenchmarkArguments], quiet=True)
def main(args: ExportBenchmarkArguments) -> None:
    """Measure, show, keep."""
    measured = [row for folder in args.models for row in measure(folder, args.file, args.rounds)]
    say(table_of(measured))
    results = stored(RESULTS)
    command = f"python -m benchmarks.export {command_line(args.models)}"
    how = {
        "date": date.today().isoformat(),
        "command": command,
        "file": Path(args.file).name,
        "rounds": args.rounds,
        "cores": os.cpu_count(),
    }
    results[args.name] = how | {"models": measured}
    write_json(RESULTS, {"results": results})


if __name__ == "__main__":
    main()
