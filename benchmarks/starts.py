"""CPU seconds that short commands take, against loading the same model by plain transformers, in one run.

    python -m benchmarks.starts --model outputs/minilm
    python -m benchmarks.starts --model outputs/minilm --before ../checkout-of-an-earlier-commit

--model is a finished run of run_classifier.py. Each command is a process of its own on one thread; the ways take
turns, and the median of --repeats is shown. With --before the commands are also run in that checkout, in the same
turns. The evaluation is of made-up probabilities, 100,000 rows x 28 labels; its time is that of the function alone.
The figures are written to benchmarks/results/.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from utils.core.files import write_json
from utils.core.tables import format_table

PLAIN = """
import sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
with torch.inference_mode():
    model(**tokenizer(["so happy for you"], return_tensors="pt"))
"""
EVALUATION = """
import sys, time
import numpy as np
from utils.scoring.evaluation import evaluate
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule
rng = np.random.default_rng(0)
rates = np.geomspace(0.3, 0.002, 28)
logits = 1.5 * (rng.normal(size=(int(sys.argv[1]), 28)) + np.log(rates / (1 - rates)))
truth = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int8)
ids, labels = [str(i) for i in range(len(truth))], [f"label {i}" for i in range(28)]
rows = Predictions(labels, ids, truth=truth, probabilities=1 / (1 + np.exp(-logits)), groups=np.arange(len(truth)))
begin = time.process_time()
metrics = evaluate(rows, ThresholdRule("calibrated")).metrics
print(time.process_time() - begin, metrics["f1_macro_tuned"], metrics["roc_auc_macro"], metrics["map"])
"""


def run(folder, *words):
    """Run Python in a folder; gives the CPU seconds of its process and what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=folder, env=environment, stdout=output, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return usage.ru_utime + usage.ru_stime, output.read().decode()


def main():
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--before", help="checkout of another commit, to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the evaluation")
    parser.add_argument("--results", default="benchmarks/results/starts.json")
    args = parser.parse_args()

    model = str(Path(args.model).resolve())
    here = Path(__file__).resolve().parents[1]
    checkouts = {"now": here} | ({"before": Path(args.before).resolve()} if args.before else {})
    with tempfile.TemporaryDirectory() as folder:
        other = shutil.copytree(model, f"{folder}/other")
        one = Path(folder, "one.csv")
        one.write_text("ID,Tweet\nfirst,so happy for you\n", encoding="utf-8")
        submission = ["--output_file", f"{folder}/submission.csv", "--overwrite"]
        train = ["--model_name_or_path", "embedded-minilm", "--output_dir", f"{folder}/run"]
        commands = {
            "make_submission.py, one row": ["make_submission.py", "--model", model, "--test_file", one, *submission],
            "compare_runs.py, two runs": ["compare_runs.py", model, other],
            "python -m utils.report": ["-m", "utils.report", other],
            "a wrong path": ["run_classifier.py", *train, "--train_file", "nowhere.csv"],
            "a wrong flag": ["run_classifier.py", *train, "--train_file", one, "--learning_rat", "1"],
            "a file without labels": ["run_classifier.py", *train, "--train_file", one],
        }
        seconds = {"plain transformers": []}
        printed = {}
        for _ in range(args.repeats):
            seconds["plain transformers"].append(run(here, "-c", PLAIN, model)[0])
            for name, words in commands.items():
                for checkout, path in checkouts.items():
                    seconds.setdefault(f"{name}, {checkout}", []).append(run(path, *words)[0])
            for checkout, path in checkouts.items():
                took, *printed[checkout] = run(path, "-c", EVALUATION, args.rows)[1].split()
                seconds.setdefault(f"evaluation, {checkout}", []).append(float(took))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "date": date.today().isoformat(),
        "command": "python -m benchmarks.starts --model RUN" + (" --before CHECKOUT" if args.before else ""),
        "machine": f"{platform.machine()}, 1 thread",
        "repeats": args.repeats,
        "rows_of_the_evaluation": args.rows,
        "cpu_seconds": seconds,
        "medians": medians,
        "evaluation_f1_auc_map": printed,
    }
    write_json(args.results, result)
    plain = medians["plain transformers"]
    table = [[name, f"{value:.2f}", f"{value / plain:.2f}"] for name, value in medians.items()]
    print(format_table(["what", "CPU seconds", "against plain transformers"], table))
    print(printed)


if __name__ == "__main__":
    main()
