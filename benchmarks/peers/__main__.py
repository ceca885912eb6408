"""This project beside other tools: speed, memory and scores on the same rows, with the same model, epochs and seed.

    python -m benchmarks.peers --prepare outputs/peers
    python -m benchmarks.peers --python outputs/peers/bin/python --train_file train.csv --validation_file validation.csv

--prepare makes an environment with `benchmarks/peers/requirements.txt`. Without --python the tools run in the project's
environment, which has some of them. Each tool is run as its documentation shows it (`ways.py`, `programs/`), in
processes of their own with an empty cache; all take turns, and the figures are medians over the rounds:

  training     rows x epochs by the seconds of the call that trains
  prediction   held-out rows by the seconds of the calls that predict
  first step   seconds from the start of the process to the end of the first step of the optimizer
  all          seconds of all processes, from start to end
  peak         most resident memory of a process
  macro-F1     of the held-out rows at 0.5, and with thresholds chosen for it, cross-fitted: all by one evaluation

Seconds are CPU seconds, as other programs on the machine lengthen those of the clock; the results hold both. A tool
that does not run is listed with the last line that it printed. With --ways the results keep the figures of the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict
from datetime import date
from pathlib import Path

import datasets
import numpy as np

from benchmarks.figures import command_line
from benchmarks.peers.material import Material, prepare
from benchmarks.peers.ways import WAYS, Failed, Settings, Way, run
from utils.core.files import read_json, write_json
from utils.core.tables import format_table
from utils.scoring.evaluation import evaluate
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule

RUN_CLASSIFICATION = "transformers' run_classification.py"
COLUMNS = {
    "train_rows_per_cpu_second": "training, rows/s",
    "predict_rows_per_cpu_second": "prediction, rows/s",
    "first_step_cpu": "first step, s",
    "all_cpu": "all, s",
    "peak_mib": "peak, MiB",
    "f1_macro": "macro-F1 at 0.5",
    "f1_macro_tuned": "tuned",
}


def why_not_run_classification() -> str:
    """Why transformers' example is not among the tools, with the error of the line by which it tells several labels."""
    rows = datasets.Dataset.from_dict({"label": [["joy", "love"], []]})
    try:
        kind = f'{rows.features["label"].dtype} is what its features["label"].dtype gives'
    except AttributeError as error:
        kind = f'its features["label"].dtype, where a row has a list of labels, gives AttributeError: {error}'
    return f"no package of transformers holds it; with datasets {datasets.__version__} {kind}"


def make_environment(folder: str) -> None:
    """An environment with the peers."""
    venv.create(folder, with_pip=True, symlinks=True)
    requirements = Path(__file__).parent / "requirements.txt"
    subprocess.run([f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
    print(f"--python {folder}/bin/python")


def score(predicted: np.ndarray, way: Way, material: Material) -> dict[str, float]:
    """Macro-F1 of predictions of the held-out rows: at 0.5, and tuned where there are probabilities."""
    rows = Predictions.of_examples(material.validation, material.task.labels)
    rows.probabilities = predicted.astype(float)
    metrics = evaluate(rows, ThresholdRule("fixed" if way.gives_labels_alone else "calibrated")).metrics
    return {name: float(metrics[name]) for name in ("f1_macro", "f1_macro_tuned") if name in metrics}


def measure(name: str, material: Material, settings: Settings, python: str, threads: int) -> dict[str, float]:
    """All figures of one run of a way.

    Raises:
        Failed: where the tool does not run.
    """
    way = WAYS[name]
    with tempfile.TemporaryDirectory(dir=material.folder) as folder:
        figures = run(way, material, settings, Path(folder), python, threads)
        predicted = way.read(material, Path(folder))
    trained = len(material.train) * settings.epochs
    return {
        "train_rows_per_second": trained / figures["train"],
        "train_rows_per_cpu_second": trained / figures["train_cpu"],
        "predict_rows_per_second": len(material.validation) / figures["predict"],
        "predict_rows_per_cpu_second": len(material.validation) / figures["predict_cpu"],
        **figures,
        **score(predicted, way, material),
    }


def medians_of(measured: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The median of each figure over the rounds."""
    return {
        name: {key: statistics.median(of[key] for of in rounds) for key in rounds[0]}
        for name, rounds in measured.items()
    }


def table(medians: dict[str, dict[str, float]], markdown: bool = False) -> str:
    """The medians, a row for each tool."""

    def cell(name: str, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.3f}" if name.startswith("f1") else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"

    rows = [[tool, *(cell(name, of.get(name)) for name in COLUMNS)] for tool, of in medians.items()]
    return format_table(["", *COLUMNS.values()], rows, markdown)


def main() -> None:
    """Make the environment; or measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", metavar="FOLDER", help="make an environment with the peers there, and stop")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the peers' environment")
    parser.add_argument("--model_name_or_path", default="embedded-minilm", help="an encoder that each of them loads")
    parser.add_argument("--train_file", default="sample_data/train.csv")
    parser.add_argument("--validation_file", default="sample_data/validation.csv")
    parser.add_argument("--train_rows", type=int, help="training rows to draw; left out: all")
    parser.add_argument("--validation_rows", type=int, help="held-out rows to draw; left out: all")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--generator_learning_rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--results", default="benchmarks/results/peers.json")
    args = parser.parse_args()
    if args.prepare:
        return make_environment(args.prepare)

    settings = Settings(args.epochs, args.batch_size, args.learning_rate, args.generator_learning_rate, args.seed)
    files = {"train": args.train_file, "validation": args.validation_file}
    rows = {"train": args.train_rows, "validation": args.validation_rows}
    how = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.peers {command_line([args.python, *files.values()])}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} thread(s) used",
        "settings": asdict(settings),
    }
    tools = read_json(args.results)["tools"] if Path(args.results).exists() else {}
    measured: dict[str, list[dict[str, float]]] = {}
    not_run = {RUN_CLASSIFICATION: why_not_run_classification()}
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        material = prepare(Path(folder), args.model_name_or_path, files, rows, args.seed)
        how["rows"] = {"train": len(material.train), "validation": len(material.validation)}
        for number in range(args.rounds):
            for name in args.ways:
                if name in not_run:
                    continue
                try:
                    figures = measure(name, material, settings, args.python, args.threads)
                except Failed as error:
                    not_run[name] = str(error)
                    print(f"{name}: {error}", flush=True)
                    continue
                measured.setdefault(name, []).append(figures)
                print(number + 1, name, {key: round(value, 3) for key, value in figures.items()}, flush=True)
            medians = medians_of(measured)
            for name in medians:
                tools[name] = how | {"medians": medians[name], "measured": measured[name]}
            write_json(args.results, {"tools": tools, "not_run": not_run})
            print(f"{table(medians, markdown=True)}\n", flush=True)
    for name, why in not_run.items():
        print(f"not run: {name}: {why}")


if __name__ == "__main__":
    main()
