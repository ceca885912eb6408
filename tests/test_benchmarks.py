"""The benchmarks run: on tiny models, where their ratios say nothing."""

import json
import subprocess
import sys

from conftest import ROOT


def run_benchmark(name, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_encoder_throughput(tiny, tmp_path):
    results = tmp_path / "results.json"
    run_benchmark(
        "encoder_throughput", "--model_name_or_path", tiny("roberta"), "--max_train_samples", 64, "--results", results
    )
    content = json.loads(results.read_text())
    assert content["figures"].keys() == {"stock", "ours", "bare"}
    for figure in ("train", "predict"):
        speeds = [content["figures"][name][f"{figure}_examples_per_second"] for name in ("ours", "bare")]
        assert content["ratios"][f"{figure} ours/bare"] == speeds[0] / speeds[1]


def test_qlora_head(tiny, tmp_path):
    results = tmp_path / "results.json"
    model = tiny("qwen2")
    run_benchmark(
        "qlora_head", "--config", model, "--tokenizer", model, "--layers", 1, "--steps", 4, "--results", results
    )
    content = json.loads(results.read_text())
    assert (content["layers"], content["steps"], content["unchanged_tensors"]) == (1, 4, 0)
    assert content["tokens_with_padding"] > 4 * 8


def test_growth(tmp_path):
    results = tmp_path / "results.json"
    run_benchmark("growth", "--training_rows", 100, "--prediction_rows", 50, "--results", results)
    figures = json.loads(results.read_text())["figures"]
    assert {name: list(rows) for name, rows in figures.items()} == {
        "training": ["100"],
        "training, cached": ["100"],
        "prediction": ["50"],
    }
    assert all(figure["100" if "training" in name else "50"]["peak_mib"] > 100 for name, figure in figures.items())
