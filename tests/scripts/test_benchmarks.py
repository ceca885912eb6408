"""The benchmarks run: on tiny models, where their ratios say nothing."""

import json
import subprocess

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

import run_classifier
import run_sft_labels
from benchmarks import growth
from benchmarks.figures import Figure, Share, gather
from benchmarks.peers import __main__ as peers
from benchmarks.populations import POPULATIONS
from conftest import ROOT, SAMPLE, WARM_PYTHON, training_flags


def run_benchmark(name, *arguments):
    command = [WARM_PYTHON, "-m", f"benchmarks.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.processes
def test_encoder_throughput(tiny, tmp_path):
    results = tmp_path / "results.json"
    run_benchmark(
        "encoder_throughput", "--model_name_or_path", tiny("roberta"), "--max_train_samples", 64, "--results", results
    )
    content = json.loads(results.read_text())
    assert content["figures"].keys() == {"stock", "ours", "bare"}
    assert all(one["f1_macro_low"] <= one["f1_macro"] <= one["f1_macro_high"] for one in content["figures"].values())
    for figure in ("train", "predict"):
        speeds = [content["figures"][name][f"{figure}_examples_per_second"] for name in ("ours", "bare")]
        assert content["ratios"][f"{figure} ours/bare"] == speeds[0] / speeds[1]


@pytest.mark.processes
def test_qlora_head(tiny, tmp_path):
    results = tmp_path / "results.json"
    model = tiny("qwen2")
    run_benchmark(
        "qlora_head", "--config", model, "--tokenizer", model, "--layers", 1, "--steps", 4, "--results", results
    )
    content = json.loads(results.read_text())
    assert (content["layers"], content["steps"], content["unchanged_tensors"]) == (1, 4, 0)
    assert content["tokens_with_padding"] > 4 * 8


@pytest.mark.processes
def test_growth(tmp_path, monkeypatch):
    results = tmp_path / "results.json"
    words = ["growth", "--training_rows", "100", "--prediction_rows", "50", "--labels", "10", "--results", str(results)]
    monkeypatch.setattr("sys.argv", words)
    growth.main()  # here, as it measures new interpreters
    figures = json.loads(results.read_text())["figures"]
    assert {name: list(rows) for name, rows in figures.items()} == {
        "training": ["100"],
        "training, cached": ["100"],
        "prediction": ["50"],
    }
    assert all(figure["100" if "training" in name else "50"]["peak_mib"] > 100 for name, figure in figures.items())
    training = figures["training"]["100"]
    assert training["parts"].keys() == growth.PARTS.keys()
    assert 0 < sum(part["cpu_seconds"] for part in training["parts"].values()) < training["cpu_seconds"]


@pytest.mark.processes
def test_peers(tiny, tmp_path, monkeypatch):
    results = tmp_path / "results.json"
    ways = ["scikit-learn, TF-IDF", "SetFit", "run_classifier.py"]
    sizes = ["--train_rows", "60", "--epochs", "2", "--rounds", "1"]
    words = ["peers", "--model_name_or_path", tiny("roberta"), *sizes, "--ways", *ways, "--results", str(results)]
    monkeypatch.setattr("sys.argv", words)
    peers.main()  # here, as it measures new interpreters
    content = json.loads(results.read_text())
    assert content["tools"].keys() == {"scikit-learn, TF-IDF", "run_classifier.py"}
    assert all(tool["rows"] == {"train": 60, "validation": 124} for tool in content["tools"].values())
    medians = {name: tool["medians"] for name, tool in content["tools"].items()}
    assert content["not_run"]["SetFit"] == "ModuleNotFoundError: No module named 'setfit'"
    for figures in medians.values():
        assert figures["train_rows_per_second"] == pytest.approx(60 * 2 / figures["train"])
        assert figures["predict_rows_per_second"] == pytest.approx(124 / figures["predict"])
        assert 0 < figures["first_step"] < figures["all"]
        assert figures["peak_mib"] > 100

    train, validation = (pd.read_csv(SAMPLE / f"{name}.csv") for name in ("train", "validation"))
    train = train.sample(n=60, random_state=42).sort_index()
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        OneVsRestClassifier(LogisticRegression(C=10, class_weight="balanced")),
    ).fit(train["Tweet"], train.iloc[:, 2:].to_numpy())
    predicted = model.predict_proba(validation["Tweet"]) >= 0.5
    expected = f1_score(validation.iloc[:, 2:], predicted, average="macro", zero_division=0)
    assert medians["scikit-learn, TF-IDF"]["f1_macro"] == pytest.approx(expected)


def test_label_scoring(tiny, tmp_path):
    model = tmp_path / "generator"
    flags = training_flags(tiny("qwen2"), model, num_train_epochs=1, max_train_samples=64, max_eval_samples=8)
    run_sft_labels.main([*flags, "--max_nodes", "20"])
    results = tmp_path / "results.json"
    test = ["--test_file", SAMPLE / "test.csv", "--max_rows", 20, "--batch_size", 8]
    run_benchmark("label_scoring", "--model", model, *test, "--results", results)
    content = json.loads(results.read_text())
    assert content["rows"] == 20
    seconds, ratios = content["seconds"], content["ratios"]
    assert ratios["decoded, times faster than generate"] == seconds["generate"] / seconds["decoded"]
    assert 0 < content["mass_covered"] <= 1


def test_loss_tokens(tiny):
    output = run_benchmark("loss_tokens", "--tokenizer", tiny("qwen3"))
    assert output.count("counts in the loss: ") == 3
    assert "counts in the loss: 'n' | 'one' | '<|im_end|>'" in output


def test_shares_have_intervals_at_zero_too():
    none = gather(iter([{("row", "worse"): Share(0, 1), ("row", "bias"): 0.25}] * 82))["row"]
    assert str(none["worse"]) == "0.0 [0.0, 3.0]"  # of 82; the rule of three says 3.7 at most
    assert str(none["bias"]) == "25.00 ± 0.00"
    five = gather(iter([{("row", "worse"): Share(number % 4 == 0, 5)} for number in range(80)]))["row"]["worse"]
    assert (five.value, five.trials) == (5.0, 400)
    assert five.interval == pytest.approx((3.2, 7.5), abs=0.1)  # Jeffreys' of 20 of 400
    # Five hits in one of four repetitions: the trials of each are one.
    alike = Figure(25.0, 100 * (0.25 * 0.75 / 80) ** 0.5, 80, 400)
    assert alike.interval == pytest.approx(Figure(25.0, 0.0, 80, 80).interval)


@pytest.mark.simulation
def test_honesty(tmp_path):
    results = tmp_path / "results.json"
    flags = ["--populations", "11 labels", "--rows", 60, "--resamples", 100, "--repetitions", 2]
    for name in ("before", "now"):
        output = run_benchmark("honesty", *flags, "--name", name, "--results", results)
    content = json.loads(results.read_text())["results"]
    assert list(content) == ["before", "now"]
    assert content["before"]["tables"] == content["now"]["tables"]  # seeded
    assert len(content["now"]["tables"]) == 6
    assert output.count("11 labels, tuned ") == 6  # three tables, both names


def test_threshold_methods(trained, tmp_path):
    results = tmp_path / "results.json"
    flags = ["--runs", trained, "--sizes_of_runs", 40, 62, "--minutes", 0.001, "--sizes", 60, "--results", results]
    output = run_benchmark("threshold_methods", *flags)
    made_up, real = json.loads(results.read_text())["results"]["now"]["tables"].values()
    assert made_up.keys() == {f"{name}, 60 rows" for name in (*POPULATIONS, "4 labels", "100 labels")}
    assert real.keys() == {"40 of 124 rows", "62 of 124 rows"}
    for row in (*made_up.values(), *real.values()):
        assert {"former default", "fixed", "global", "calibrated", "not shrunk"} <= row.keys()
        assert all(figure["error"] >= 0 for figure in row.values())
        assert abs(row["calibrated"]["value"]) < 20 < row["former default"]["value"] + 20
    assert "62 of 124 rows" in output


def test_checkpoint_choice(tiny, tmp_path):
    run, results = tmp_path / "run", tmp_path / "results.json"
    flags = {"max_train_samples": 64, "keep_checkpoints": True, "save_total_limit": 9}
    run_classifier.main(training_flags(tiny("roberta"), run, **flags))
    run_benchmark("checkpoint_choice", "--runs", run, run, "--results", results)
    [table] = json.loads(results.read_text())["results"]["now"]["tables"].values()
    assert table.keys() == {"tuned macro-F1", "macro-F1 at 0.5", "mAP", "validation loss", "the last"}
    assert table["the last"]["worth against the last"] == {"value": 0.0, "error": 0.0, "repetitions": 2}
    # On the rows that it was chosen on, the best looks better than the last one does.
    above = {
        how: row["above its worth"]["value"] + row["worth against the last"]["value"] for how, row in table.items()
    }
    assert above["tuned macro-F1"] >= above["the last"]


@pytest.mark.simulation
def test_ensemble_weights(tmp_path):
    results = tmp_path / "results.json"
    flags = ["--gaps", 0, "--rows", 40, "--repetitions", 2, "--results", results]
    assert "equal runs" in run_benchmark("ensemble_weights", *flags)
    [table] = json.loads(results.read_text())["results"]["now"]["tables"].values()
    values = {column: figure["value"] for column, figure in table["equal runs"].items()}
    assert 0 <= values["weight of the third"] <= 100
    assert values["taken at 2 SE, %"] <= values["taken at 1 SE, %"] <= values["taken at 0 SE, %"]
    assert abs(values["always"]) < 20


@pytest.mark.simulation
def test_cross_fitting(tmp_path):
    results = tmp_path / "results.json"
    flags = ["--populations", "11 labels", "--rows", 60, "--repetitions", 3, "--results", results]
    assert "half of each" in run_benchmark("cross_fitting", *flags)
    [table] = json.loads(results.read_text())["results"]["now"]["tables"].values()
    values = {column: figure["value"] for column, figure in table["11 labels"].items()}
    assert values["half of each"] == pytest.approx((values["stratified"] + values["random"]) / 2)
    assert values["random less stratified"] == pytest.approx(values["random"] - values["stratified"])
