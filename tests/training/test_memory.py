"""The memory of a training step: estimated without computing it, given back after it, and in which dtype it is."""

import gc
import json
import weakref

import pytest
import torch

import run_classifier
from benchmarks.memory import SHAPES, WAYS, MemoryArguments, compare
from conftest import training_flags
from utils.core.arguments import DataArguments, ModelArguments, ThresholdArguments
from utils.data.training_data import read_training_data
from utils.models.classifier import Classifier
from utils.models.encoding import Collator
from utils.models.precision import bf16_is_fast
from utils.runs.inference import load_run
from utils.training.arguments import TaskTrainingArguments, fill_in
from utils.training.memory import Memory


@pytest.mark.parametrize("kind", SHAPES)
def test_activations_are_those_of_a_real_step(kind):
    """In full, with LoRA and QLoRA, with and without checkpointing."""
    args = MemoryArguments(divisor=8, rows=2, tokens=32, output_file="")
    for way in WAYS:
        for checkpointing in (False, True):
            estimated, measured = compare(kind, way, checkpointing, args)
            assert estimated == pytest.approx(measured, rel=0.15), (way, checkpointing)


@pytest.fixture
def prepared(tiny, tmp_path):
    """`prepared("qwen2", use_peft=True)`: a classifier, its tokens and Trainer's arguments."""

    def make(kind, training=None, **model):
        flags = training_flags(tiny(kind), tmp_path / "run")
        files = {name.removeprefix("--"): value for name, value in zip(flags[::2], flags[1::2]) if "_file" in name}
        train, _, task = read_training_data(DataArguments(**files), 42)
        model_args = ModelArguments(model_name_or_path=tiny(kind), **model)
        training_args = TaskTrainingArguments(output_dir=str(tmp_path / "run"), **(training or {}))
        fill_in(model_args, ThresholdArguments(), training_args)
        classifier = Classifier.new(model_args, task, 128)
        return classifier, classifier.encode(train), training_args

    return make


def test_models_that_look_into_the_data(prepared, tiny, tmp_path):
    """GPT-2's head looks for padding unless it has a mask; what cannot be estimated does not stop a training."""
    from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen2"))
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=1000, pad_token_id=tokenizer.pad_token_id)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    _, tokens, training_args = prepared("qwen2", {"per_device_train_batch_size": 1})
    model_args = ModelArguments(model_name_or_path=str(tmp_path / "gpt2"), dtype="float32")
    classifier = Classifier.new(model_args, prepared("qwen2")[0].task, 128)
    memory = Memory(classifier, tokens, training_args)
    assert memory.problem is None
    assert memory.parts["activations"] > 0
    classifier.model.forward = lambda **inputs: int(inputs["input_ids"].sum())
    memory = Memory(classifier, tokens, training_args)
    assert memory.problem.startswith("activations cannot be estimated")
    assert "activations" not in memory.parts


@pytest.mark.parametrize("model", [{}, {"use_peft": True}, {"use_peft": True, "pooling": "mean"}])
def test_estimating_leaves_the_model_as_it_was(prepared, model):
    classifier, tokens, training_args = prepared("qwen2", {"activation_checkpointing": True}, **model)
    modules = list(classifier.model.modules())
    before = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules]
    weights = {name: weight.detach().clone() for name, weight in classifier.model.named_parameters()}
    memory = Memory(classifier, tokens, training_args)
    after = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules]
    assert after == before
    for name, weight in classifier.model.named_parameters():
        assert torch.equal(weight, weights[name])
        assert weight.grad is None
    # Checkpointing keeps less.
    training_args.activation_checkpointing = training_args.gradient_checkpointing = False
    assert Memory(classifier, tokens, training_args).parts["activations"] > memory.parts["activations"]


def test_the_micro_batch_that_fits_is_named(prepared):
    batch = {"per_device_train_batch_size": 24, "gradient_accumulation_steps": 2}
    memory = Memory(*prepared("roberta", batch))
    assert memory.advice(memory.total) is None
    line = memory.advice(memory.total - 1)
    assert "--per_device_train_batch_size 16 --gradient_accumulation_steps 3" in line
    # Each size is measured: the one that is named fits, and the next larger one does not.
    capacity = memory.total - memory.parts["activations"] + memory._activations(3)
    assert "--per_device_train_batch_size 3 --gradient_accumulation_steps 16" in memory.advice(capacity)
    assert "--per_device_train_batch_size 2 --gradient_accumulation_steps 24" in memory.advice(capacity - 1)
    line = memory.advice(memory.total - memory.parts["activations"])
    assert "one row at a time does not fit either: add --activation_checkpointing --use_peft --load_in_4bit" in line


def test_a_trained_model_is_given_back_before_merging(tiny, tmp_path, monkeypatch):
    from utils.training import experiment

    released, seen = experiment.release, []

    def release(approach, trainer):
        weights = [weakref.ref(weight) for weight in approach.model.parameters()]
        released(approach, trainer)
        gc.collect()
        seen.append(sum(weight() is not None for weight in weights))

    monkeypatch.setattr(experiment, "release", release)
    flags = training_flags(tiny("qwen2"), tmp_path / "run", num_train_epochs=1, max_train_samples=16)
    run_classifier.main([*flags, "--use_peft", "--load_in_4bit", "--merge_adapter"])
    assert seen == [0]
    assert (tmp_path / "run" / "merged" / "model.safetensors").exists()


# Dtypes


def test_weights_stay_fp32_where_there_is_no_bf16(tmp_path):
    for training, dtype in (({"fp16": True, "bf16": False}, "float32"), ({"bf16": True}, "bfloat16")):
        for more in ({"use_peft": True}, {"use_peft": True, "load_in_4bit": True}):
            model_args = ModelArguments(model_name_or_path="m", **more)
            training_args = TaskTrainingArguments(output_dir=str(tmp_path / "run"), **training)
            fill_in(model_args, ThresholdArguments(), training_args)
            assert model_args.dtype == dtype


def test_fp16_weights_are_not_trained_themselves(tiny, tmp_path, refused):
    flags = training_flags(tiny("roberta"), tmp_path / "run", dtype="float16")
    assert "pass --dtype float32" in refused(run_classifier.main, *flags)
    # Also where the checkpoint decides.
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = tmp_path / "half"
    AutoModelForMaskedLM.from_pretrained(tiny("roberta")).half().save_pretrained(model)
    AutoTokenizer.from_pretrained(tiny("roberta")).save_pretrained(model)
    flags = training_flags(model, tmp_path / "run", dtype="auto")
    assert "would be trained in fp16" in refused(run_classifier.main, *flags)


@pytest.mark.parametrize("more", [[], ["--load_in_4bit"]])
def test_a_bf16_run_predicts_in_what_the_machine_is_fast_at(tiny, tmp_path, more):
    flags = training_flags(tiny("qwen2"), tmp_path / "run", num_train_epochs=1, max_train_samples=16, bf16=True)
    run_classifier.main([*flags, "--use_peft", *more])
    assert json.loads((tmp_path / "run" / "run_args.json").read_text())["dtype"] == "bfloat16"
    run = load_run(tmp_path / "run")
    fast = bf16_is_fast(on_gpu=False)
    dtypes = {weight.dtype for weight in run.model.parameters() if weight.is_floating_point()}
    assert (torch.bfloat16 in dtypes) == fast
    computed = {module.compute_dtype for module in run.model.modules() if hasattr(module, "compute_dtype")}
    assert computed == ({torch.bfloat16 if fast else torch.float32} if more else set())
    assert 0 < run.predict(["some text"], 1).probabilities.min() < 1


# Padding


def test_rows_of_one_length_get_no_mask(tiny):
    """So that transformers takes the kernels that need none."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(tiny("qwen2")), AutoTokenizer.from_pretrained(tiny("qwen2"))
    masks = []
    model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    for lengths, width in (((11, 11), 11), ((11, 9), 16)):
        rows = [{"input_ids": [9] * length, "attention_mask": [1] * length} for length in lengths]
        batch = Collator(tokenizer, on_gpu=True)(rows)
        assert batch["input_ids"].shape == (2, width)
        model(**batch)
    assert masks[0] is None
    assert masks[1] is not None
