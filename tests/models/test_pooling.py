"""What the head of an encoder sees: its first token, or the mean over its tokens."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

import run_classifier
from conftest import SAMPLE, training_flags
from finished_runs import load_predictions
from utils.data.tables import read_table
from utils.models.head import pool_mean
from utils.runs.inference import load_run, predict_table

SHAPE = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 3}
CONFIGS = [
    transformers.BertConfig(intermediate_size=64, **SHAPE),
    transformers.RobertaConfig(intermediate_size=64, **SHAPE),
    transformers.XLMRobertaConfig(intermediate_size=64, **SHAPE),
    transformers.ElectraConfig(intermediate_size=64, embedding_size=32, **SHAPE),
    transformers.AlbertConfig(intermediate_size=64, embedding_size=32, **SHAPE),
    transformers.MPNetConfig(intermediate_size=64, **SHAPE),
    transformers.DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=3),
    transformers.DebertaConfig(intermediate_size=64, **SHAPE),
    transformers.DebertaV2Config(intermediate_size=64, **SHAPE),
    transformers.ModernBertConfig(
        intermediate_size=64, pad_token_id=0, bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2, **SHAPE
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_mean_over_the_tokens_of_many_encoders(config):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.randint(5, 100, (2, 9))
    ids[1, 5:] = config.pad_token_id or 0
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    hidden = getattr(model, model.base_model_prefix)(input_ids=ids, attention_mask=mask).last_hidden_state.detach()
    expected = torch.stack([hidden[0].mean(dim=0), hidden[1, :5].mean(dim=0)])

    pool_mean(model)
    seen = []
    for name in ("pre_classifier", "pooler", "head", "classifier"):  # whichever of them comes first
        if hasattr(model, name):
            getattr(model, name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits = model(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(seen[0].reshape(2, 32), expected, atol=1e-6)
    # Padding changes nothing, a missing mask means that there is none, and no parameter is left without a use.
    assert torch.allclose(model(input_ids=ids[1:, :5]).logits, logits[1:], atol=1e-6)
    logits.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("use_peft", [False, True])
def test_run_with_the_mean(bert, tmp_path, use_peft):
    flags = training_flags(bert, tmp_path / "run", pooling="mean", use_peft=use_peft, max_train_samples=64, bf16=False)
    run_classifier.main(flags)
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["unchanged_tensors"] == 0
    assert "plain transformers and PEFT do not compute" in (tmp_path / "run" / "README.md").read_text()

    # A new process would load it with the mean too: the validation rows get the probabilities of the training's end.
    run = load_run(tmp_path / "run")
    again = predict_table(run, read_table(SAMPLE / "validation.csv"), 16).probabilities
    assert (
        np.abs(again - load_predictions(tmp_path / "run", run.task.labels).filter(like="probability").to_numpy()).max()
        < 1e-5
    )
    base = run.model.get_base_model() if use_peft else run.model
    assert base.bert.pooler is None


def test_pooling_of_another_architecture_is_refused(tiny, tmp_path, refused):
    flags = training_flags(tiny("roberta"), tmp_path / "no", pooling="last", max_train_samples=64)
    assert "is an encoder, choose first or mean" in refused(run_classifier.main, *flags)
    flags = training_flags(tiny("qwen2"), tmp_path / "no", pooling="first", max_train_samples=64)
    assert "is a decoder, choose last or mean" in refused(run_classifier.main, *flags)
    flags = training_flags(tiny("roberta"), tmp_path / "no", attention="bidirectional", max_train_samples=64)
    assert "whose tokens see all" in refused(run_classifier.main, *flags)
    flags = training_flags(tiny("roberta"), tmp_path / "no", pooling="mean", use_peft=True, merge_adapter=True)
    assert "do not compute --pooling mean" in refused(run_classifier.main, *flags)


@pytest.fixture(scope="module")
def bert(tiny, tmp_path_factory):
    """A tiny BERT, whose base model has a pooler behind the first token, with RoBERTa's tiny tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny("roberta"))
    config = copy.deepcopy(CONFIGS[0])
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "flags", [{}, {"use_peft": True, "pooling": "mean", "merge_adapter": False}], ids=["full", "lora"]
)
def test_attention_in_both_directions(tiny, tmp_path, flags):
    arguments = training_flags(
        tiny("qwen2"),
        tmp_path / "run",
        attention="bidirectional",
        max_train_samples=32,
        num_train_epochs=1,
        bf16=False,
        **flags,
    )
    run_classifier.main(arguments)
    run = load_run(tmp_path / "run")
    base = (run.model.get_base_model() if flags else run.model).model
    ids = run.tokenizer(["one short text that goes on #tag"], return_tensors="pt")["input_ids"]
    changed = ids.clone()
    changed[0, -1] = 7
    padded = torch.cat([ids, torch.full((1, 3), run.tokenizer.pad_token_id)], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(1, 3, dtype=torch.long)], dim=1)
    with torch.inference_mode():
        first = base(input_ids=ids).last_hidden_state[0, 0]
        assert (base(input_ids=changed).last_hidden_state[0, 0] - first).abs().max() > 1e-3  # a later token counts
        in_padding = base(input_ids=padded, attention_mask=mask).last_hidden_state[0, 0]
        assert torch.allclose(in_padding, first, atol=1e-5)  # padding does not
    again = predict_table(run, read_table(SAMPLE / "validation.csv"), 16).probabilities
    saved = load_predictions(tmp_path / "run", run.task.labels).filter(like="probability").to_numpy()
    assert np.abs(again - saved).max() < 1e-5


def test_a_merged_model_keeps_its_attention(tiny, tmp_path):
    flags = {"attention": "bidirectional", "use_peft": True, "merge_adapter": True, "max_train_samples": 32}
    run_classifier.main(training_flags(tiny("qwen2"), tmp_path / "run", bf16=False, num_train_epochs=1, **flags))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "merged", dtype=torch.float32).eval()
    assert "see each other in both directions" in (tmp_path / "run" / "README.md").read_text()
    run = load_run(tmp_path / "run")
    inputs = run.tokenizer(["one short text that goes on #tag"], return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(merged(**inputs).logits, run.model(**inputs).logits, atol=5e-2)
        changed = inputs["input_ids"].clone()
        changed[0, -1] = 7
        states = [merged.model(input_ids=ids).last_hidden_state[0, 0] for ids in (inputs["input_ids"], changed)]
        assert (states[0] - states[1]).abs().max() > 1e-3
