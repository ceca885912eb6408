"""Logits are not rounded to 16 bit, although the rest of the model computes in it."""

import numpy as np
import pytest
import torch
from scipy.special import logit

import run_classifier
from conftest import SAMPLE, training_flags
from finished_runs import load_predictions
from utils.core.arguments import ModelArguments
from utils.data.tables import read_table
from utils.data.task import Task
from utils.models.classifier import Classifier
from utils.runs.folder import load_task
from utils.runs.inference import load_run


def share_finer_than_bf16(probabilities):
    """Share of the probabilities whose logit is no bf16 number."""
    logits = torch.tensor(logit(np.asarray(probabilities, dtype=float)))
    return float((logits.float() - logits.bfloat16().float() != 0).double().mean())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("roberta", {}),
        ("roberta", {"pooling": "mean"}),
        ("roberta", {"use_peft": True}),
        ("qwen3", {}),
        ("qwen3", {"pooling": "mean"}),
        ("qwen3", {"use_peft": True, "dtype": "bfloat16"}),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_heads_compute_in_fp32_where_the_rest_is_in_bf16(tiny, kind, options):
    labels = ["joy", "love", "fear"]
    torch.manual_seed(0)
    classifier = Classifier.new(ModelArguments(tiny(kind), **options), Task(labels, ["text"], labels), 64)
    classifier.compute_dtype = torch.bfloat16
    classifier.model.eval()
    texts = read_table(SAMPLE / "validation.csv").rows["Tweet"][:]
    probabilities = classifier.predict(list(texts), 16).probabilities
    assert share_finer_than_bf16(probabilities) > 0.95
    in_bf16 = torch.tensor(logit(probabilities)).bfloat16().unique()
    assert len(np.unique(probabilities)) > 0.98 * probabilities.size > len(in_bf16)


@pytest.mark.parametrize("kind", ["roberta", "qwen2"])
def test_a_run_in_bf16_stores_and_predicts_fine_probabilities(tiny, tmp_path, kind):
    flags = training_flags(
        tiny(kind),
        tmp_path / "run",
        bf16=True,
        max_steps=2,
        max_train_samples=32,
        eval_strategy="no",
        save_strategy="no",
    )
    run_classifier.main([*flags, "--load_best_model_at_end", "False"])
    stored = load_predictions(tmp_path / "run", load_task(tmp_path / "run").labels).filter(like="probability")
    assert share_finer_than_bf16(stored) > 0.95
    run = load_run(tmp_path / "run")
    run.compute_dtype = torch.bfloat16  # as on a machine that is fast at it
    assert share_finer_than_bf16(run.predict(["so happy", "not again", "who knows"], 2).probabilities) > 0.95
