"""How time and peak memory of training and prediction grow with the number of rows, with a tiny model.

    python -m benchmarks.growth

Training stops after 20 steps and evaluates once, on the tenth of the rows that is held out, so what grows is the
handling of the data: reading, splitting, tokenising, scoring. Each training runs twice; the second run finds the cache
of `datasets` that the first has filled. Prediction predicts all rows. Every run is a separate process on one thread
(tokenising starts one for each core), measured from its start to its end. Its peak memory is the resident memory that
the kernel reports, which includes memory-mapped pages. The figures are written to benchmarks/results/.
"""

import argparse
import csv
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date

from utils.core.files import write_json
from utils.core.tables import format_table
from utils.models.tiny import build, sample_texts

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


def measure(cache, script, *arguments):
    """Run a script and return `{"seconds", "cpu_seconds", "peak_mib"}` of its process.

    CPU seconds include all its threads and children; on a shared machine they are more reliable than the clock.
    """
    environment = os.environ | {"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], env=environment, stdout=output, stderr=output
        )
        # ru_maxrss is the peak of the process or of one of its children, whichever is higher.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{script} failed:\n{output.read().decode()[-3000:]}")
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def main():
    """Measure training and prediction, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training_rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 300], help="trainings with so many labels")
    parser.add_argument("--label_rows", type=int, default=10_000, help="rows of a training with more than the first")
    parser.add_argument("--prediction_rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--results", default="benchmarks/results/growth.json")
    args = parser.parse_args()

    few, *more = args.labels
    trainings = [("training", rows, few) for rows in args.training_rows]
    trainings += [(f"training, {labels} labels", args.label_rows, labels) for labels in more]
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        model = build("roberta", f"{folder}/model", **SMALLEST)
        for kind, rows, labels in trainings:
            file = f"{folder}/train.csv"
            write_tweets(file, rows, rows, labels)
            for name in (kind, f"{kind}, cached"):
                figures.setdefault(name, {})[rows] = measure(
                    f"{folder}/cache-{rows}-{labels}", "run_classifier.py", "--model_name_or_path", model,
                    "--train_file", file, "--output_dir", f"{folder}/run-{labels}", "--overwrite",
                    "--max_steps", 20, "--eval_strategy", "no",
                    "--disable_tqdm",
                )  # fmt: skip
                print(name, rows, figures[name][rows], flush=True)
        for rows in args.prediction_rows:
            file = f"{folder}/test.csv"
            write_tweets(file, rows, rows, few)
            figures.setdefault("prediction", {})[rows] = measure(
                f"{folder}/cache", "make_submission.py", "--model", f"{folder}/run-{few}", "--test_file", file,
                "--output_file", f"{folder}/submission.csv", "--probabilities_file", f"{folder}/probabilities.parquet",
                "--overwrite",
            )  # fmt: skip
            print("prediction", rows, figures["prediction"][rows], flush=True)

    write_json(
        args.results,
        {
            "date": date.today().isoformat(),
            "hardware": {"device": platform.machine(), "cores": os.cpu_count(), "threads": 1},
            "model": f"RoBERTa with random weights, {SMALLEST['num_hidden_layers']} layer of {SMALLEST['hidden_size']}",
            "training_steps": 20,
            "figures": figures,
        },
    )
    table = [
        [name, rows, f"{figure['seconds']:.0f}", f"{figure['cpu_seconds']:.0f}", f"{figure['peak_mib']:,.0f}"]
        for name, of_rows in figures.items()
        for rows, figure in of_rows.items()
    ]
    print(format_table(["what", "rows", "seconds", "CPU seconds", "peak MiB"], table, markdown=True))


if __name__ == "__main__":
    main()
