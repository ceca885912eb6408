"""Speed of decoding and scoring labels, compared with batched `generate` of the same model on the same rows.

    python -m benchmarks.label_scoring --model outputs/generator --test_file test.csv

--model is a finished run of run_sft_labels.py. `generate` is greedy, with max_new_tokens 32 and padding on the left. It
runs twice: with the rows in the order of the file, as in a usual call, and with rows sorted by length, as for decoding
and scoring. All use the same batch size and take turns, chunk by chunk, so other load on the machine slows all of them.
The figures are written to benchmarks/results/.
"""

import argparse
import platform
import time
from datetime import date

import numpy as np
import torch

from utils.core.files import write_json
from utils.core.tables import format_table
from utils.data.columns import read_texts
from utils.data.tables import read_table
from utils.models.generator.free import decode_freely
from utils.models.generator.search import score_labels
from utils.runs.inference import load_run

CHUNK = 512  # rows that each way processes before the next way has its turn


def main():
    """Time the four ways, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--coverage", type=float, default=0.99)
    parser.add_argument("--max_rows", type=int)
    parser.add_argument("--results", default="benchmarks/results/label_scoring.json")
    args = parser.parse_args()

    run = load_run(args.model)
    form, tokenizer = run.form, run.tokenizer
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = run.model.to(device).eval()
    texts = run.tokenize(read_texts(read_table(args.test_file), run.task)[: args.max_rows])
    texts = [ids[: form.budget] for ids in texts]
    by_length = sorted(texts, key=len, reverse=True)

    def score(rows, coverage):
        nodes = form.generation.max_nodes
        pad_id = tokenizer.pad_token_id
        return score_labels(model, form.tree, form.prompt, rows, pad_id, args.batch_size, coverage, nodes)

    def generate(rows):
        answers = decode_freely(model, tokenizer, form.prompt, rows, args.batch_size, 32)
        return [form.label_text.read(answer) for answer in answers]

    ways = {
        "generate": generate,
        "generate, sorted": generate,
        "decoded": lambda rows: score(rows, 0.0),
        "probabilities": lambda rows: score(rows, args.coverage),
    }
    seconds, outputs = dict.fromkeys(ways, 0.0), {name: [] for name in ways}
    with torch.autocast(device, torch.bfloat16, enabled=run.compute_dtype == torch.bfloat16):
        for way in ways.values():  # warm up
            way(texts[:4])
        for begin in range(0, len(texts), CHUNK):
            for name, way in ways.items():
                started = time.perf_counter()
                outputs[name].append(way((texts if name == "generate" else by_length)[begin : begin + CHUNK]))
                seconds[name] += time.perf_counter() - started

    free = np.array([row for chunk in outputs["generate, sorted"] for row, _ in chunk])
    decoded = np.concatenate([scores.decoded for scores in outputs["decoded"]])
    decoded = decoded[:, np.argsort(form.label_text.columns)]
    covered = np.concatenate([scores.covered for scores in outputs["probabilities"]])
    ratios = {
        "decoded, times faster than generate": seconds["generate"] / seconds["decoded"],
        "decoded, times faster than generate, sorted": seconds["generate, sorted"] / seconds["decoded"],
        "probabilities, times the cost of decoding": seconds["probabilities"] / seconds["decoded"],
    }
    result = {
        "date": date.today().isoformat(),
        "machine": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "model": f"{model.config.model_type}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "rows": len(texts),
        "batch_size": args.batch_size,
        "coverage": args.coverage,
        "max_nodes": form.generation.max_nodes,
        "seconds": seconds,
        "ratios": ratios,
        "mass_covered": covered.mean(),
        "rows_answered_alike": (free == decoded).all(axis=1).mean(),
        "rows_of_free_answers_with_unknown_words": np.mean(
            [bool(w) for chunk in outputs["generate"] for _, w in chunk]
        ),
    }
    write_json(args.results, result)
    print(format_table(["", "rows/s"], [[name, f"{len(texts) / took:.1f}"] for name, took in seconds.items()]))
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    print(f"mass covered {covered.mean():.4f}; same answer by generate: {result['rows_answered_alike']:.1%}")


if __name__ == "__main__":
    main()
