"""Every sharded configuration, executed on two CPU processes: it trains as one process does, saves, resumes, predicts.

What accelerate allows on GPUs only is replaced by `sharded_launch.py`, which says what.
"""

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import run_classifier
import run_sft_labels
from conftest import ROOT, SAMPLE, WARM_PYTHON, training_flags

pytestmark = pytest.mark.processes

LORA = {"use_peft": True, "lora_dropout": 0}
QLORA = LORA | {"load_in_4bit": True, "bf16": True}
BF16 = {"bf16": True, "activation_checkpointing": True}
# Runs as script, base model and flags: each kind of model in full and with LoRA.
EVERY_KIND = {
    "encoder-full": ("run_classifier.py", "roberta", {}),
    "encoder-lora": ("run_classifier.py", "roberta", LORA),
    "head-full": ("run_classifier.py", "qwen2", {}),
    "head-lora": ("run_classifier.py", "qwen2", LORA),
    "generator-full": ("run_sft_labels.py", "qwen3", {}),
    "generator-lora": ("run_sft_labels.py", "qwen3", LORA),
}
IN_BF16 = {"head-lora": ("run_classifier.py", "qwen2", LORA | BF16)}
# By configuration.
RUNS = {
    "fsdp2": EVERY_KIND | {"encoder-full": ("run_classifier.py", "bert", {})} | IN_BF16,
    "fsdp2_qlora": {
        "encoder-qlora": ("run_classifier.py", "roberta", QLORA),
        "head-qlora": ("run_classifier.py", "qwen2", QLORA),
        "generator-qlora": ("run_sft_labels.py", "qwen3", QLORA),
    },
    "deepspeed_zero2": EVERY_KIND,
    "deepspeed_zero3": EVERY_KIND | IN_BF16,
}
SCRIPTS = {"run_classifier.py": run_classifier.main, "run_sft_labels.py": run_sft_labels.main}
EPOCHS, STEPS = 2, 8  # steps of an epoch


def flags(folder, model, micro_batch, script, more):
    """Two epochs of 8 steps of 8 rows. 13 validation rows give two processes another number of batches to score."""
    if script == "run_sft_labels.py":
        more = more | {"max_eval_samples": 13, "per_device_eval_batch_size": 2, "max_nodes": 20}
    values = {
        "num_train_epochs": EPOCHS,
        "max_train_samples": 64,
        "per_device_train_batch_size": micro_batch,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "keep_checkpoints": True,
        "save_total_limit": 2,
        "load_best_model_at_end": False,
        "bf16": False,
    }
    return training_flags(model, folder, **values | more)


@pytest.fixture(scope="module")
def base(tiny, model_without_dropout, made_once):
    """Folder of a tiny base model without dropout: `base("bert")`."""

    def make_bert(folder):
        from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

        from utils.models.tiny import SHAPE

        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(tiny("roberta"))
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = BertConfig(**SHAPE, **dropout, max_position_embeddings=130, pad_token_id=tokenizer.pad_token_id)
        BertForMaskedLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def get(kind):
        if kind == "bert":
            return str(made_once("models/without_dropout/bert", make_bert))
        return str(model_without_dropout) if kind == "roberta" else tiny(kind)

    return get


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """Folder of the same run by one process; made once for all configurations."""
    made = {}

    def get(script, kind, more):
        key = json.dumps([script, kind, more], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("alone") / "run"
            SCRIPTS[script](flags(folder, base(kind), 8, script, more))
            made[key] = folder
        return made[key]

    return get


@pytest.fixture(scope="module", params=list(RUNS))
def launched(request, base, tmp_path_factory):
    """`(configuration, folder of its runs)`, all by one launch of two processes; `resumed` is the last one resumed."""
    config = request.param
    if config.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: requirements-deepspeed.txt")
    folder = tmp_path_factory.mktemp(config)
    jobs = [
        [script, *flags(folder / name, base(kind), 4, script, more)]
        for name, (script, kind, more) in RUNS[config].items()
    ]
    last = list(RUNS[config])[-1]
    script, kind, more = RUNS[config][last]
    jobs.append(["interrupt", str(folder / last), str(folder / "resumed"), str(STEPS)])
    jobs.append([script, *flags(folder / "resumed", base(kind), 4, script, more)])
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [WARM_PYTHON, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    words = ["tests/sharded_launch.py", f"accelerate_configs/{config}.yaml", folder / "jobs.json"]
    done = subprocess.run(
        [*command, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )
    (folder / "stderr.txt").write_text(done.stderr)
    assert done.returncode == 0, done.stderr[-6000:]
    assert f"resuming from {folder / 'resumed'}" in done.stderr
    assert "did not change" not in done.stderr
    if config == "fsdp2_qlora":  # all its runs compute in bf16
        assert set(re.findall("gradients are added in (.*)", done.stdout)) == {"torch.float32"}
    return config, folder


def losses(folder):
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def weights(folder):
    [path] = [path for name in ("adapter_model", "model") if (path := folder / f"{name}.safetensors").exists()]
    # Under ZeRO-3 transformers writes old names of norms, which it reads as the new ones.
    return {
        name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): value
        for name, value in load_file(path).items()
    }


def test_trains_as_one_process_does(launched, alone):
    config, folder = launched
    for name, (script, kind, more) in RUNS[config].items():
        expected = alone(script, kind, more)
        in_fp32 = not more.get("bf16")
        assert len(losses(folder / name)) == EPOCHS * STEPS
        tolerance = 1e-4 if in_fp32 else 2e-3
        assert losses(folder / name) == pytest.approx(losses(expected), abs=tolerance), name
        assert losses(expected)[-1] < losses(expected)[0]
        assert json.loads((folder / name / "all_results.json").read_text())["unchanged_tensors"] == 0
        found, others = weights(folder / name), weights(expected)
        assert found.keys() == others.keys()
        if config == "fsdp2_qlora":  # in bf16 Adam's second moment would stand still
            assert {value.dtype for value in found.values()} == {torch.float32}
        for tensor, value in found.items():
            difference = (value.float() - others[tensor].float()).abs().max()
            assert difference < (5e-4 if in_fp32 else 1e-2), (name, tensor)


def test_checkpoint_resumes_to_the_same_loss(launched):
    config, folder = launched
    last = list(RUNS[config])[-1]
    assert losses(folder / "resumed") == pytest.approx(losses(folder / last), abs=1e-4)
    found, others = weights(folder / "resumed"), weights(folder / last)
    assert max((found[name].float() - others[name].float()).abs().max() for name in found) < 1e-4


def test_saved_folder_predicts_in_one_process_what_the_trainer_predicted(launched):
    from utils.runs.inference import load_run

    config, folder = launched
    for name, (_, _, more) in RUNS[config].items():
        saved = pd.read_parquet(folder / name / "predictions" / "validation.parquet")
        texts = pd.read_csv(SAMPLE / "validation.csv", dtype=str).set_index("ID").loc[saved["id"], "Tweet"]
        found = load_run(folder / name).predict(list(texts), 16).probabilities
        columns = [column for column in saved if column.startswith("probability/")]
        assert abs(saved[columns].to_numpy() - found).max() < (0.02 if more.get("bf16") else 1e-4), name


def test_every_sharded_configuration_is_executed():
    names = {path.stem for path in Path(ROOT / "accelerate_configs").glob("*.yaml")}
    assert set(RUNS) == {name for name in names if "fsdp" in name or "deepspeed" in name}
