"""What the probabilities of a label generator cost and are worth, by how far its answers are searched.

    python -m benchmarks.label_coverage --model outputs/generator --name "trained for 6 epochs"

--model is a finished run of run_sft_labels.py; the rows are those that it was validated on. Each setting of --coverage
and --max_nodes scores all of them; settings take turns, chunk by chunk, and costs are processor time as a multiple of
decoding alone. The mean error is that of the probabilities of the first --exact_rows rows against sums over all
answers. Scores have 95 % bootstrap intervals over the rows, which all settings share. The figures are added to
benchmarks/results/label_coverage.json under --name.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from utils.core.files import read_json, write_json
from utils.core.tables import format_table
from utils.models.generator.generator import LabelGenerator
from utils.models.generator.search import Scores, score_labels
from utils.runs.finished import read_run
from utils.runs.inference import load_run
from utils.scoring.evaluation import evaluate
from utils.scoring.notes import interval_figures
from utils.scoring.predictions import Predictions
from utils.scoring.reliability import reliability
from utils.scoring.thresholds import ThresholdRule

# Coverage and nodes: the last one is the most thorough.
SETTINGS = [(0.8, 8), (0.8, 24), (0.9, 8), (0.9, 16), (0.9, 24), (0.9, 32), (0.95, 24), (0.99, 32), (0.99, 64)]
CHUNK = 256  # rows that each setting scores before the next has its turn


def score(run: LabelGenerator, rows: list[list[int]], batch_size: int, coverage: float, nodes: int) -> Scores:
    """Score tokenised texts; labels in the order of the run's columns."""
    form, pad_id = run.form, run.tokenizer.pad_token_id
    scores = score_labels(run.model, form.tree, form.prompt, rows, pad_id, batch_size, coverage, nodes)
    columns = np.argsort(form.label_text.columns)
    return Scores(scores.decoded[:, columns], scores.probabilities[:, columns], scores.covered)


def measure(run: LabelGenerator, truth: Predictions, args: argparse.Namespace) -> tuple[list[dict[str, float]], float]:
    """Figures of each setting, and the milliseconds of decoding a row.

    Args:
        run: on its device.
        truth: of N rows, with their texts.
        args: batch_size, exact_rows, max_rows.
    """
    texts = [ids[: run.form.budget] for ids in run.tokenize(truth.texts)]
    order = np.array(sorted(range(len(texts)), key=lambda i: -len(texts[i])))
    settings = [(0.0, 1), *SETTINGS]
    seconds, parts = dict.fromkeys(settings, 0.0), {setting: [] for setting in settings}
    score(run, texts[:4], args.batch_size, 0.9, 8)  # warm up
    for begin in range(0, len(texts), CHUNK):
        rows = [texts[i] for i in order[begin : begin + CHUNK]]
        for setting in settings:
            started = time.process_time()
            parts[setting].append(score(run, rows, args.batch_size, *setting))
            seconds[setting] += time.process_time() - started
    some = np.arange(min(args.exact_rows, len(texts)))
    exact = score(run, [texts[i] for i in some], args.batch_size, 1.0, 2 ** len(truth.labels))
    back = np.argsort(order)
    found = []
    for setting in SETTINGS:
        probabilities = np.concatenate([part.probabilities for part in parts[setting]])[back]
        groups = truth.near_duplicates
        rows = Predictions(
            truth.labels, truth.ids, truth.texts, truth=truth.truth, probabilities=probabilities, groups=groups
        )
        evaluation = evaluate(rows, ThresholdRule("calibrated"))
        metrics = {f"eval_{name}": value for name, value in evaluation.metrics.items()} | interval_figures(evaluation)
        calibration = reliability(truth.truth, probabilities, groups)
        found.append(
            {
                "coverage": setting[0],
                "max_nodes": setting[1],
                "cost": seconds[setting] / seconds[settings[0]],
                "mass_reached": float(np.concatenate([part.covered for part in parts[setting]]).mean()),
                "mean_error": float(np.abs(probabilities[some] - exact.probabilities).mean()),
                "exact_mass": float(exact.covered.mean()),
                **{
                    f"{name}{end}": metrics[f"eval_{name}{end}"]
                    for name in ("f1_macro_tuned", "roc_auc_macro")
                    for end in ("", "_low", "_high")
                },
                "calibration_error": calibration.error,
                "calibration_error_low": calibration.low,
                "calibration_error_high": calibration.high,
            }
        )
    return found, 1000 * seconds[settings[0]] / len(texts)


def table(found: list[dict[str, float]]) -> str:
    """The figures as people read them."""

    def interval(one: dict[str, float], name: str) -> str:
        return f"{one[name]:.3f} [{one[f'{name}_low']:.3f}, {one[f'{name}_high']:.3f}]"

    header = [
        "coverage",
        "nodes",
        "cost",
        "mass reached",
        "mean error",
        "macro-F1 tuned",
        "macro ROC-AUC",
        "calibration",
    ]
    rows = [
        [
            f"{one['coverage']}",
            one["max_nodes"],
            f"{one['cost']:.2f}",
            f"{one['mass_reached']:.1%}",
            f"{one['mean_error']:.4f}",
            *(interval(one, name) for name in ("f1_macro_tuned", "roc_auc_macro", "calibration_error")),
        ]
        for one in found
    ]
    return format_table(header, rows, markdown=True)


def main() -> None:
    """Measure, print a table, and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True, help="of the model, in the results")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--exact_rows", type=int, default=64)
    parser.add_argument("--max_rows", type=int)
    parser.add_argument("--results", default="benchmarks/results/label_coverage.json")
    args = parser.parse_args()

    finished, run = read_run(args.model), load_run(args.model)
    assert isinstance(run, LabelGenerator), f"{args.model} is no label generator"
    run.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    rows = np.arange(len(finished.predictions))[: args.max_rows]
    with torch.autocast(run.model.device.type, torch.bfloat16, enabled=run.compute_dtype == torch.bfloat16):
        found, decoding = measure(run, finished.predictions.select(rows), args)
    path = Path(args.results)
    results = read_json(path) if path.exists() else {}
    results[args.name] = {
        "date": date.today().isoformat(),
        "command": f'python -m benchmarks.label_coverage --model RUN --name "{args.name}"',
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "model": f"{run.model.config.model_type}, {sum(p.numel() for p in run.model.parameters()):,} parameters",
        "rows": len(rows),
        "exact_rows": min(args.exact_rows, len(rows)),
        "milliseconds_to_decode_a_row": decoding,
        "settings": found,
    }
    write_json(path, results)
    print(table(found))
    print(f"{len(rows)} rows, {decoding:.1f} ms of processor time to decode one")


if __name__ == "__main__":
    main()
