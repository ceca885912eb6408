"""run_sft_labels.py: what counts in the loss, what trains, what is saved, what comes back."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from trl import SFTConfig, SFTTrainer

import make_submission
import run_sft_labels
from conftest import ROOT, SAMPLE, WARM_PYTHON, training_flags
from finished_runs import load_predictions
from utils.core.arguments import GeneratorModelArguments
from utils.data.examples import Examples
from utils.data.task import Task
from utils.models.approaches import describe_approach
from utils.models.generator.answering import Generation, answer_texts, build_format
from utils.models.generator.free import decode_freely
from utils.models.generator.generator import LabelGenerator
from utils.models.generator.loading import load_generator
from utils.models.generator.prompts import DEFAULT_TEMPLATE, text_ids
from utils.models.loading import load_tokenizer
from utils.models.parameters import parameter_kind
from utils.runs.finished import read_run
from utils.runs.inference import load_run
from utils.scoring.scores import SCORES
from utils.training.generator import GeneratorTrainingArguments, LabelTrainer

LABELS = list(pd.read_csv(SAMPLE / "sample_submission.csv").columns[1:])
PROBABILITIES = [f"probability/{label}" for label in LABELS]
MODES = {"full": {}, "lora": {"use_peft": True}, "qlora": {"use_peft": True, "load_in_4bit": True}}
# qwen3 has a chat template, qwen2 has none.
RUNS = [("qwen2", "full"), ("qwen3", "lora"), ("qwen3", "qlora")]


def sft_flags(model, output_dir, **flags):
    return training_flags(
        model, output_dir, **{"max_train_samples": 64, "max_eval_samples": 24, "max_nodes": 40, "bf16": False} | flags
    )


def results(folder):
    return json.loads((folder / "all_results.json").read_text())


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Folder of each run, and its tensors before and after training by name, with whether they were trainable."""
    folder = tmp_path_factory.mktemp("runs")
    seen = {}
    train = LabelTrainer.train

    def snapshot(model):
        return {name: (p.detach().float().clone(), p.requires_grad) for name, p in model.named_parameters()}

    for key in RUNS:

        def watched(self, *args, key=key, **kwargs):
            before = snapshot(self.model)
            result = train(self, *args, **kwargs)
            seen[key] = (before, snapshot(self.model))
            return result

        LabelTrainer.train = watched
        try:
            flags = sft_flags(tiny(key[0]), folder / "-".join(key), merge_adapter=key[1] != "full", **MODES[key[1]])
            run_sft_labels.main(flags)
        finally:
            LabelTrainer.train = train
    return {key: (folder / "-".join(key), *seen[key]) for key in RUNS}


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_what_should_train_does_and_nothing_else(runs, key):
    folder, before, after = runs[key]
    for name, (tensor, trainable) in before.items():
        assert torch.equal(tensor, after[name][0]) != trainable, name
        if key[1] != "full":
            assert trainable == (parameter_kind(name) == "LoRA"), name
    assert results(folder)["unchanged_tensors"] == 0
    if key[1] != "full":
        adapted = {re.sub(r"\.lora_.*", "", name) for name in before if "lora_A" in name}
        assert len(adapted) == 2 * 7  # all linear layers, MLP included, and not the language head


def test_adapters_of_quantised_models_train_in_fp32(runs):
    from safetensors.torch import load_file

    tensors = load_file(runs[("qwen3", "qlora")][0] / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_a_new_process_answers_the_same(runs, key, tmp_path):
    folder = runs[key][0]
    code = (
        "import sys, json, torch, numpy as np, pandas as pd\n"
        "from utils.runs.inference import load_run\n"
        "from utils.models.generator.answering import answer_texts\n"
        "run = load_run(sys.argv[1])\n"
        "texts = run.tokenize(list(pd.read_csv(sys.argv[2])['Tweet'][:24]))\n"
        "found = answer_texts(run.model.eval(), run.form, texts, 7, torch.float32)\n"
        "print(json.dumps([found.probabilities.tolist(), found.decoded.tolist()]))"
    )
    command = [WARM_PYTHON, "-c", code, str(folder), str(SAMPLE / "validation.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    probabilities, decoded = map(np.array, json.loads(done.stdout.splitlines()[-1]))
    saved = pd.read_parquet(folder / "predictions" / "validation.parquet")
    assert np.abs(saved[PROBABILITIES].to_numpy() - probabilities).max() < 1e-5
    assert (saved[[f"decoded/{label}" for label in LABELS]].to_numpy() == decoded).all()


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_folder_and_card(runs, key):
    folder = runs[key][0]
    names = {path.name for path in folder.iterdir()}
    assert {"task.json", "generation.json", "thresholds.json", "predictions", "README.md", "run_args.json"} <= names
    assert ("adapter_model.safetensors" in names) == (key[1] != "full") == ("config.json" not in names)
    assert "training_args.bin" not in names
    scores = results(folder)
    for name in ("f1_macro", "f1_macro_tuned", "f1_macro_decoded", "jaccard_decoded", "map", "coverage"):
        assert 0 <= scores[f"eval_{name}"] <= 1
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert [entry for entry in history if "eval_f1_macro_decoded" in entry and "eval_mean_token_accuracy" in entry]
    card = (folder / "README.md").read_text()
    assert "| macro-F1" in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    text = pd.read_csv(SAMPLE / "validation.csv")["Tweet"][5]
    snippet = snippet.replace('"so happy for you!! #proud"', repr(text))
    done = subprocess.run([WARM_PYTHON, "-c", snippet], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = load_run(folder)
    ids = text_ids([text], run.tokenizer)
    longest = len(run.form.answers.write(np.ones(11)))
    (expected,) = decode_freely(run.model.eval(), run.tokenizer, run.form.prompt, ids, 1, longest)
    if key[1] != "qlora":  # plain bitsandbytes computes 4-bit layers in bf16 on CPUs that have it
        assert done.stdout.strip() == expected.strip()


def test_merged_model_is_a_plain_language_model(runs):
    folder = runs[("qwen3", "lora")][0]
    model_args = GeneratorModelArguments(model_name_or_path=str(folder / "merged"), dtype="float32")
    tokenizer = load_tokenizer(str(folder / "merged"))
    model = load_generator(model_args, tokenizer).eval()
    form = build_format(Generation.load(folder), LABELS, tokenizer, 256)
    texts = text_ids(list(pd.read_csv(SAMPLE / "validation.csv")["Tweet"][:24]), tokenizer)
    probabilities = answer_texts(model, form, texts, 8, torch.float32).probabilities
    assert np.abs(load_predictions(folder, LABELS)[PROBABILITIES].to_numpy() - probabilities).max() < 1e-2


def test_submission_from_a_generator_and_a_classifier(runs, trained, tmp_path):
    """Averaged over rows that both have: the generator was evaluated on the first 24 only."""
    folder = runs[("qwen2", "full")][0]
    files = ["--output_file", str(tmp_path / "s.csv"), "--probabilities_file", str(tmp_path / "p.parquet")]
    make_submission.main(
        [
            "--model",
            str(folder),
            str(trained),
            "--test_file",
            str(SAMPLE / "test.csv"),
            *files,
            "--max_test_samples",
            "9",
        ]
    )
    probabilities = pd.read_parquet(tmp_path / "p.parquet")[LABELS]
    assert probabilities.shape == (9, 11)
    single = []
    for run in (folder, trained):
        out = ["--output_file", str(tmp_path / f"{len(single)}.csv")]
        out += ["--probabilities_file", str(tmp_path / f"{len(single)}.parquet")]
        test = ["--test_file", str(SAMPLE / "test.csv"), "--max_test_samples", "9"]
        make_submission.main(["--model", str(run), *test, *out])
        single.append(pd.read_parquet(out[-1])[LABELS].to_numpy())
    assert np.abs(probabilities.to_numpy() - sum(single) / 2).max() < 1e-6


def test_loss_equals_trl(tiny, tmp_path):
    """Our loss runs the head for the answers only; TRL's own over all positions, with padding on the other side."""
    tokenizer = load_tokenizer(tiny("qwen3"))
    model = load_generator(GeneratorModelArguments(model_name_or_path=tiny("qwen3"), dtype="float32"), tokenizer)
    generation = Generation(DEFAULT_TEMPLATE, ["joy", "love"], "none", "constrained", 1.0, 100)
    task = Task(["joy", "love"], ["text"], ["joy", "love"])
    model_args = GeneratorModelArguments(model_name_or_path=tiny("qwen3"))
    generator = LabelGenerator(model, tokenizer, model_args, task, generation, 256)
    rows = pd.read_csv(SAMPLE / "train.csv").head(12)
    examples = Examples(
        datasets.Dataset.from_dict(
            {"text": list(rows["Tweet"]), "labels": rows[["joy", "love"]].astype(float).to_numpy().tolist()}
        )
    )
    encoded = generator.encode(examples)
    args = GeneratorTrainingArguments(output_dir=str(tmp_path / "ours"), bf16=False, per_device_eval_batch_size=12)

    def no_scores(coverage):
        return SimpleNamespace(metrics={score.name: 0.0 for score in SCORES})

    no_scores.evaluate = SimpleNamespace(rule=SimpleNamespace(best_by="f1_macro"))
    ours = LabelTrainer(generator, args, encoded, encoded, no_scores, 0.9).evaluate()
    theirs = SFTTrainer(
        model=load_generator(GeneratorModelArguments(model_name_or_path=tiny("qwen3"), dtype="float32"), tokenizer),
        args=SFTConfig(
            output_dir=str(tmp_path / "theirs"), bf16=False, use_cpu=True, per_device_eval_batch_size=12,
            activation_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True}, report_to="none",
        ),
        train_dataset=encoded,
        eval_dataset=encoded,
        processing_class=tokenizer,
    ).evaluate()  # fmt: skip
    for name in ("eval_loss", "eval_mean_token_accuracy", "eval_entropy"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5)


def test_generator_learns_the_sample_data(tiny, tmp_path):
    template = tmp_path / "short.jinja"
    template.write_text("{{ text }}\n")
    flags = sft_flags(
        tiny("qwen3"), tmp_path / "run", validation_file=SAMPLE / "train.csv", max_train_samples=64,
        max_eval_samples=64, num_train_epochs=35, per_device_train_batch_size=8, learning_rate=3e-3,
        prompt_template=template, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    run_sft_labels.main(flags)
    scores = results(tmp_path / "run")
    assert scores["eval_f1_macro_decoded"] > 0.9
    assert scores["eval_coverage"] > 0.9


def test_zero_shot(tiny, tmp_path, refused, runs):
    folder = tmp_path / "zero-shot"
    flags = sft_flags(tiny("qwen2"), folder, train_file=None, eval_only=True, num_train_epochs=None)
    run_sft_labels.main(flags)
    assert 0 <= results(folder)["eval_f1_macro_decoded"] <= 1
    assert not list(folder.glob("*.safetensors"))
    run = read_run(folder)
    assert describe_approach(run.arguments) == "label generation, zero-shot"
    make_submission.main(
        ["--model", str(folder), "--test_file", str(SAMPLE / "test.csv"), "--output_file", str(tmp_path / "s.csv"),
         "--max_test_samples", "5"]
    )  # fmt: skip
    assert len(pd.read_csv(tmp_path / "s.csv")) == 5
    assert "leave --use_peft and" in refused(run_sft_labels.main, *flags, "--use_peft", "--overwrite")
    line = refused(run_sft_labels.main, *flags, "--model_name_or_path", runs[("qwen3", "lora")][0], "--overwrite")
    assert "is an adapter, not a model" in line
    shutil.copytree(tiny("qwen2"), tmp_path / "headless")
    config = json.loads((tmp_path / "headless" / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "headless" / "config.json").write_text(json.dumps(config | {"layer_types": ["full_attention"] * 3}))
    headless = sft_flags(tmp_path / "headless", tmp_path / "x", train_file=None, eval_only=True, num_train_epochs=None)
    assert "must be trained first" in refused(run_sft_labels.main, *headless)
    line = refused(run_sft_labels.main, *sft_flags(tiny("qwen2"), tmp_path / "x", train_file=None))
    assert "give the training data" in line


def test_free_decoding_counts_unknown_words(tiny, tmp_path, capsys):
    flags = sft_flags(tiny("qwen2"), tmp_path / "run", decoding="free", num_train_epochs=1, max_train_samples=16)
    run_sft_labels.main(flags)
    assert "words in free answers that are no label" in capsys.readouterr().err
    assert results(tmp_path / "run")["eval_unknown_words"] > 0  # after two steps it babbles


def test_early_stopping_sees_the_answers_score(tiny, tmp_path):
    flags = sft_flags(
        tiny("qwen2"), tmp_path / "run", num_train_epochs=6, early_stopping_patience=1, learning_rate=1e-8,
        metric_for_best_model="f1_macro_decoded",
    )  # fmt: skip
    run_sft_labels.main(flags)
    assert results(tmp_path / "run")["epoch"] == 2
    assert results(tmp_path / "run")["best_metric_name"] == "f1_macro_decoded"


def test_mistakes(tiny, tmp_path, refused):
    def say(**flags):
        return refused(run_sft_labels.main, *sft_flags(tiny("qwen2"), tmp_path / "run", **flags))

    assert "cannot be read" in say(prompt_template=tmp_path / "none.jinja")
    (tmp_path / "bad.jinja").write_text("no place for it")
    assert "must stand in it once" in say(prompt_template=tmp_path / "bad.jinja")
    assert "no room is left for a text" in say(max_length=50)
    assert "--coverage 1.5" in say(coverage=1.5)
    assert "--max_nodes 0" in say(max_nodes=0)
    assert "there are" in say(metric_for_best_model="f1")
    assert "unknown flag --packing" in say(packing=True)
    line = refused(run_sft_labels.main, *sft_flags(tiny("roberta"), tmp_path / "run", use_peft=True))
    assert "is an encoder" in line
    assert not (tmp_path / "run").exists()


def test_preflight_shows_prompt_and_answer(tiny, tmp_path, capsys):
    run_sft_labels.main(sft_flags(tiny("qwen3"), tmp_path / "run", use_peft=True, preflight_only=True))
    shown = capsys.readouterr().err
    assert "[anger, disgust, pessimism<|im_end|>]" in shown
    assert "run once for all rows" in shown
    assert not (tmp_path / "run").exists()


def test_zero_shot_in_four_bits(tiny, tmp_path):
    flags = sft_flags(tiny("qwen2"), tmp_path / "run", train_file=None, eval_only=True, load_in_4bit=True)
    run_sft_labels.main(flags)
    assert 0 < results(tmp_path / "run")["eval_coverage"] <= 1


def test_evaluation_does_not_depend_on_the_batches(tiny, tmp_path):
    scores = []
    for size in (3, 17):
        flags = sft_flags(
            tiny("qwen2"), tmp_path / str(size), num_train_epochs=1, max_train_samples=16, max_eval_samples=17,
            per_device_eval_batch_size=size,
        )  # fmt: skip
        run_sft_labels.main(flags)
        history = json.loads((tmp_path / str(size) / "trainer_state.json").read_text())["log_history"]
        scores.append(next(entry for entry in history if "eval_loss" in entry))
    for name in ("eval_loss", "eval_mean_token_accuracy", "eval_entropy", "eval_map"):
        assert scores[0][name] == pytest.approx(scores[1][name], abs=1e-5)


@pytest.mark.parametrize("mode", ["full", "qlora"])
def test_resumes_to_the_same_result(tiny, tmp_path, refused, mode):
    flags = sft_flags(
        tiny("qwen2"), tmp_path / "run", num_train_epochs=3, max_train_samples=48, keep_checkpoints=True,
        save_total_limit=3, per_device_train_batch_size=16, max_eval_samples=12, **MODES[mode],
    )  # fmt: skip
    run_sft_labels.main(flags)
    folder = tmp_path / "run"
    first, predictions = results(folder), load_predictions(folder, LABELS)
    # As if it had been killed before the last epoch ended.
    for name in ("manifest.json", "all_results.json"):
        (folder / name).unlink()
    for path in folder.glob("*.safetensors"):
        path.unlink()
    shutil.rmtree(folder / "checkpoint-9")
    run_sft_labels.main(flags)
    for name in ("eval_f1_macro_decoded", "eval_f1_macro_tuned", "eval_coverage"):
        assert results(folder)[name] == pytest.approx(first[name], abs=1e-4)
    difference = load_predictions(folder, LABELS)[PROBABILITIES] - predictions[PROBABILITIES]
    assert difference.abs().to_numpy().max() < 1e-5
    for name in ("manifest.json", "all_results.json"):
        (folder / name).unlink()
    for name, value in (("label_order", "rare_first"), ("coverage", "0.5")):
        line = refused(run_sft_labels.main, *flags, f"--{name}", value)
        assert f"was begun with {name} = " in line
