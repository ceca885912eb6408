"""Texts that are longer than the model reads at a time: cut, without their middle, or in windows."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from transformers import AutoTokenizer

import make_submission
import run_classifier
import run_sft_labels
from conftest import SAMPLE, run_script, training_flags, undivided_flags
from utils.models.encoding import shorten, tokenize
from utils.models.head import pooled_logits
from utils.runs.inference import load_run

LIMIT, OVERLAP = 16, 4


def long_rows(path, rows=48):
    """Sample rows joined to texts of very different lengths."""
    frame = pd.read_csv(SAMPLE / "train.csv", dtype=str).head(rows)
    frame["Tweet"] = [" ".join(frame["Tweet"].iloc[i : i + 1 + i % 4]) for i in range(rows)]
    frame.to_csv(path, index=False)
    return path


def flags(model, folder, tmp_path, **more):
    path = long_rows(tmp_path / "long.csv")
    values = {"train_file": path, "validation_file": path, "max_length": LIMIT, "num_train_epochs": 1, "bf16": False}
    return training_flags(model, folder, **values | more)


@pytest.mark.parametrize(("kind", "pooling"), [("roberta", "mean"), ("qwen3", "max")])
def test_windows_are_pooled_alike_in_training_and_prediction(tiny, tmp_path, capsys, kind, pooling):
    folder = tmp_path / "run"
    more = {"use_peft": True} if kind == "qwen3" else {}
    windows = {"long_texts": "windows", "window_pooling": pooling, "window_overlap": OVERLAP}
    run_classifier.main(flags(tiny(kind), folder, tmp_path, **windows, **more))
    said = capsys.readouterr().err
    assert "longer, read in up to" in said
    assert "activations cannot be estimated" not in said
    task = json.loads((folder / "task.json").read_text())
    assert f"share {OVERLAP} tokens, and the {pooling} of their logits" in (folder / "README.md").read_text()
    assert [task[name] for name in ("long_texts", "window_pooling", "window_overlap")] == ["windows", pooling, OVERLAP]

    # What the trainer said of its validation rows is what the loaded run says of them, and what its windows say alone.
    stored = pd.read_parquet(folder / "predictions" / "validation.parquet")
    run = load_run(folder)
    texts = list(pd.read_csv(tmp_path / "long.csv")["Tweet"])
    predicted = run.predict(texts, 7).probabilities
    columns = [f"probability/{label}" for label in run.task.labels]
    assert np.abs(stored[columns].to_numpy() - predicted).max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = max(texts, key=len)
    parts = tokenizer(
        text, truncation=True, max_length=LIMIT, stride=OVERLAP, return_overflowing_tokens=True
    )["input_ids"]  # fmt: skip
    assert len(parts) > 3
    with torch.inference_mode():
        alone = torch.cat([run.model(input_ids=torch.tensor([ids])).logits for ids in parts]).double().numpy()
    wanted = alone.max(axis=0) if pooling == "max" else alone.mean(axis=0)
    assert np.abs(logit(predicted[texts.index(text)]) - wanted).max() < 1e-3


def curve(folder):
    """Loss and gradient norm of each step, and the validation loss and mAP at its end."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in log for name in ("loss", "grad_norm", "eval_loss", "eval_map") if name in entry]


@pytest.fixture(scope="module")
def windows_at_once(model_without_dropout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    run_classifier.main(window_flags(model_without_dropout, folder / "run", folder, 8, 1))
    return curve(folder / "run")


def window_flags(model, folder, tmp_path, micro_batch, accumulation):
    path = long_rows(tmp_path / "long.csv")
    files = {"train_file": path, "validation_file": path, "num_train_epochs": 1, "keep_checkpoints": True}
    windows = {"max_length": LIMIT, "long_texts": "windows", "window_overlap": OVERLAP}
    return undivided_flags(model, folder, micro_batch, accumulation, **files, **windows)


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "processes"), [(4, 2, 1), pytest.param(2, 2, 2, marks=pytest.mark.processes)]
)
def test_windows_are_trained_alike_however_a_batch_is_cut(
    model_without_dropout, windows_at_once, tmp_path, micro_batch, accumulation, processes
):
    words = window_flags(model_without_dropout, tmp_path / "run", tmp_path, micro_batch, accumulation)
    if processes == 1:
        run_classifier.main(words)
    else:
        done = run_script("run_classifier.py", *words, processes=processes)
        assert done.returncode == 0, done.stderr
    assert len(windows_at_once) == 2 * 6 + 2
    assert curve(tmp_path / "run") == pytest.approx(windows_at_once, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize(("script", "kind"), [(run_classifier, "roberta"), (run_sft_labels, "qwen3")])
def test_the_middle_is_left_out(tiny, tmp_path, capsys, script, kind):
    folder = tmp_path / "run"
    limit = {} if script is run_classifier else {"max_length": 256}  # of prompt, text and answer together
    script.main(flags(tiny(kind), folder, tmp_path, long_texts="middle", **limit))
    said = capsys.readouterr().err
    assert script is run_sft_labels or "truncated, their middle left out" in said
    text = "first words of it " + "and so on " * 300 + "the last words"
    half = len(text) // 2
    middle, end = text[:half] + " never read " + text[half:], text.replace("last words", "joy and fear")
    predicted = load_run(folder).predict([text, middle, end], 1).probabilities
    assert np.abs(predicted[0] - predicted[1]).max() < 1e-6
    assert np.abs(predicted[0] - predicted[2]).max() > 1e-6


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 30])
def test_shorten(length):
    ids = list(range(length))
    assert shorten(ids, 8, "cut") == ids[:8]
    assert shorten(ids, 8, "middle") == (ids if length <= 8 else [0, 1, 2, 3, *ids[-4:]])
    assert shorten(ids, 7, "middle") == (ids if length <= 7 else [0, 1, 2, 3, *ids[-3:]])
    assert shorten(ids, 1, "middle") == ids[:1]


def test_special_tokens_stay(tiny):
    from utils.data.task import Task

    tokenizer = AutoTokenizer.from_pretrained(tiny("roberta"))
    task = Task(["a", "b"], ["text"], ["a", "b"], long_texts="middle")
    [ids] = tokenize(["word " * 100], tokenizer, 10, task)["input_ids"]
    assert (len(ids), ids[0], ids[-1]) == (10, tokenizer.cls_token_id, tokenizer.sep_token_id)
    short = tokenize(["word"], tokenizer, 10, task)["input_ids"]
    assert short == tokenize(["word"], tokenizer, 10)["input_ids"]


def test_pooled_logits():
    logits, windows = torch.tensor([[0.0, 4.0], [2.0, -2.0], [5.0, 5.0]]), torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()
    assert pooled_logits(logits, windows, "mean").tolist() == [[1.0, 1.0], [5.0, 5.0]]
    assert pooled_logits(logits, windows, "max").tolist() == [[2.0, 4.0], [5.0, 5.0]]
    assert expit(0) == 0.5


def test_what_does_not_go_together(refused, tiny, tmp_path):
    line = refused(run_sft_labels.main, *training_flags("m", tmp_path / "run", long_texts="windows"))
    assert "is for a classification head" in line
    assert "--window_overlap 300" in refused(
        run_classifier.main, *training_flags("m", tmp_path / "run", long_texts="windows", window_overlap=300)
    )
    assert "invalid choice" in refused(run_classifier.main, *training_flags("m", tmp_path / "run", long_texts="tail"))
    path = tmp_path / "long.csv"
    frame = pd.read_csv(SAMPLE / "train.csv", dtype=str).head(20)
    frame.assign(Tweet="far too long " * 20).to_csv(path, index=False)
    line = refused(run_classifier.main, *training_flags(tiny("roberta"), tmp_path / "run", train_file=path,
                   validation_file=path, max_length=8))  # fmt: skip
    assert "see --long_texts" in line


def test_a_submission_of_windows(tiny, tmp_path, capsys):
    """Chunks and batches of any size give the same."""
    folder = tmp_path / "run"
    run_classifier.main(flags(tiny("roberta"), folder, tmp_path, long_texts="windows", window_overlap=OVERLAP))
    found = []
    for batch in ("3", "64"):
        probabilities = tmp_path / f"{batch}.parquet"
        files = ["--test_file", tmp_path / "long.csv", "--output_file", tmp_path / f"{batch}.csv"]
        files += ["--probabilities_file", probabilities, "--chunk_rows", 5 * int(batch)]
        words = ["--model", folder, *files, "--per_device_eval_batch_size", batch]
        make_submission.main([str(word) for word in words])
        found.append(pd.read_parquet(probabilities).iloc[:, 1:].to_numpy())
    assert np.abs(found[0] - found[1]).max() < 1e-4
