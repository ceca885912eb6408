"""How time and peak memory of training and prediction grow with rows and labels, with a tiny model.

    python -m benchmarks.growth
    python -m benchmarks.growth --kinds training --training_rows 1000000

Training stops after 20 steps and evaluates once, on the tenth of the rows that is held out, so what grows is the
handling of the data: reading, finding near-duplicates, splitting, tokenising, scoring, the report. The parts of it are
measured too, within the same run. Each training runs twice; the second run finds the cache of `datasets` that the
first has filled. Prediction predicts all rows. Every run is a separate process on one thread (finding near-duplicates
and tokenising start one for each core), measured from its start to its end. Its peak memory is the resident memory that
the kernel reports, which includes memory-mapped pages. The figures are written to benchmarks/results/, beside those of
earlier runs for other kinds or rows.
"""

import argparse
import csv
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from itertools import product
from pathlib import Path

from benchmarks.figures import command_line
from utils.core.files import read_json, write_json
from utils.core.tables import format_table
from utils.models.tiny import build, sample_texts

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("training", "labels", "prediction")
FIGURES = ("seconds", "cpu_seconds", "peak_mib")
# Parts of a training, in their order: those that grow.
PARTS = {
    "reading": "utils.data.training_data:_read_rows_of_files",
    "near-duplicates": "utils.data.examples:digest_texts",
    "splitting": "utils.data.training_data:assign_parts",
    "tokenising": "utils.models.classifier:Classifier.encode",
    "preflight": "utils.training.preflight:Preflight.__init__",
    "20 steps": "transformers:Trainer.train",
    "predicting": "utils.training.classifier:MultiLabelTrainer.predict_in_order",
    "scoring": "utils.scoring.evaluation:Evaluator.__call__",
    "doctor": "utils.training.experiment:examine",
    "report": "utils.training.experiment:Experiment._write_report",
}
SMALLEST = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def write_tweets(path, rows, seed, labels):
    """Write made-up tweets: 5 to 30 random words of the sample tweets; a row has one label on average."""
    rng = random.Random(seed)
    words = sorted({word for text in sample_texts() for word in text.split()})
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "Tweet", *(f"label {i}" for i in range(labels))])
        for row in range(rows):
            text = " ".join(rng.choices(words, k=rng.randint(5, 30)))
            cells = [0] * labels
            for label in rng.sample(range(labels), rng.randint(0, 2)):
                cells[label] = 1
            writer.writerow([f"made-up-{row:07d}", text, *cells])


def measure(cache, parts, script, *arguments):
    """Run a script and return `{"seconds", "cpu_seconds", "peak_mib", "parts"}` of its process.

    CPU seconds include all its threads and children; on a shared machine they are more reliable than the clock.

    Args:
        cache: folder of the cache of `datasets`.
        parts: functions of the script to time, by name.
        script: its name.
        arguments: of it.
    """
    environment = os.environ | {
        "HF_HOME": cache,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    watched = [f"{name}={function}" for name, function in parts.items()]
    begin = time.perf_counter()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as notes_file:
        done = subprocess.run(
            [
                *(sys.executable, ROOT / "benchmarks/watched.py", notes_file.name, *watched, "--"),
                *(ROOT / script, *map(str, arguments)),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise SystemExit(f"{script} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        notes = json.load(notes_file)
    measured = {name: {key: notes[name][key] for key in FIGURES} for name in parts if name in notes}
    return {"seconds": seconds, **{key: notes[key] for key in FIGURES[1:]}, "parts": measured}


def measure_training(folder, model, kind, rows, labels, once, add):
    """Measure a training, and unless `once` again with what its cache holds then."""
    file = f"{folder}/train.csv"
    write_tweets(file, rows, rows, labels)
    for name in (kind,) if once else (kind, f"{kind}, cached"):
        figure = measure(
            f"{folder}/cache-{rows}-{labels}", PARTS, "run_classifier.py", "--model_name_or_path", model,
            "--train_file", file, "--output_dir", f"{folder}/run-{labels}", "--overwrite",
            "--max_steps", 20, "--eval_strategy", "no", "--disable_tqdm",
        )  # fmt: skip
        add(name, rows, figure)


def measure_prediction(folder, run, rows, labels, add):
    """Measure the prediction of made-up rows by a run."""
    file = f"{folder}/test.csv"
    write_tweets(file, rows, rows, labels)
    figure = measure(
        f"{folder}/cache", {}, "make_submission.py", "--model", run, "--test_file", file,
        "--output_file", f"{folder}/submission.csv", "--probabilities_file", f"{folder}/probabilities.parquet",
        "--overwrite",
    )  # fmt: skip
    add("prediction", rows, figure)


def tables(figures):
    """Whole runs, and the CPU seconds of their parts."""
    whole, parts = [], []
    for name, of_rows in figures.items():
        for rows, figure in of_rows.items():
            cells = [f"{figure['seconds']:,.0f}", f"{figure['cpu_seconds']:,.0f}", f"{figure['peak_mib']:,.0f}"]
            whole.append([name, int(rows), *cells])
            if figure.get("parts"):
                found = (figure["parts"].get(part) for part in PARTS)
                parts.append([name, int(rows), *(f"{part['cpu_seconds']:.1f}" if part else "-" for part in found)])
    header = ["what", "rows", "seconds", "CPU seconds", "peak MiB"]
    return "\n\n".join(
        [
            format_table(header, whole, markdown=True),
            format_table(["CPU seconds", "rows", *PARTS], parts, markdown=True),
        ]
    )


def main():
    """Measure training and prediction, print tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--training_rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 300], help="trainings with so many labels")
    parser.add_argument("--label_rows", type=int, nargs="+", default=[10_000, 100_000], help="rows with more labels")
    parser.add_argument("--prediction_rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--once", action="store_true", help="leave out the second run of each training")
    parser.add_argument("--results", default="benchmarks/results/growth.json")
    args = parser.parse_args()

    figures = read_json(args.results)["figures"] if Path(args.results).exists() else {}
    how = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.growth {command_line()}".strip(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
    }

    def add(name, rows, figure):
        figures.setdefault(name, {})[str(rows)] = how | figure
        whole = {key: round(figure[key], 1) for key in FIGURES}
        print(
            name, rows, whole, {part: round(of["cpu_seconds"], 1) for part, of in figure["parts"].items()}, flush=True
        )
        model = f"RoBERTa with random weights, {SMALLEST['num_hidden_layers']} layer of {SMALLEST['hidden_size']}"
        write_json(args.results, {"model": model, "training_steps": 20, "figures": figures})

    few, *more = args.labels
    with tempfile.TemporaryDirectory() as folder:
        model = build("roberta", f"{folder}/model", **SMALLEST)
        if "training" in args.kinds:
            for rows in args.training_rows:
                measure_training(folder, model, "training", rows, few, args.once, add)
        if "labels" in args.kinds:
            for labels, rows in product(more, args.label_rows):
                measure_training(folder, model, f"training, {labels} labels", rows, labels, args.once, add)
        if "prediction" in args.kinds:
            if "training" not in args.kinds:
                measure_training(folder, model, "training", min(args.training_rows), few, True, add)
            for rows in args.prediction_rows:
                measure_prediction(folder, f"{folder}/run-{few}", rows, few, add)
    print(tables(figures))


if __name__ == "__main__":
    main()
