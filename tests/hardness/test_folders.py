"""Folders of runs of which a file was replaced: refused, or as good as whole; never a traceback."""

import json
import shutil

import pytest

import compare_runs
import predict
from utils.runs.manifest import write_manifest

REPLACED = {
    "null": lambda text: "null",
    "a list": lambda text: "[]",
    "no keys": lambda text: "{}",
    "a number": lambda text: "3",
    "deep nesting": lambda text: "[" * 100_000,
    "cut in half": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
}
# What a classifier's folder holds, and what one of the others would.
FILES = ("task.json", "run_args.json", "all_results.json", "thresholds.json", "config.json", "tokenizer.json",
         "tokenizer_config.json", "manifest.json", "generation.json", "adapter_config.json")  # fmt: skip


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def said(capsys):
    """Call a script; gives its status and its line of error, which is the only one."""

    def call(main, *words):
        capsys.readouterr()
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (status, len(lines)) in ((0, 0), (2, 1))
        return status, "".join(lines)

    return call


@pytest.mark.parametrize("damage", REPLACED)
@pytest.mark.parametrize("name", FILES)
def test_json_that_was_replaced(run, said, name, damage):
    if name == "generation.json":
        arguments = json.loads((run / "run_args.json").read_text()) | {"script": "run_sft_labels.py"}
        (run / "run_args.json").write_text(json.dumps(arguments))
    if name == "adapter_config.json":
        shutil.copy(run / "model.safetensors", run / "adapter_model.safetensors")
    if not (run / name).exists():
        (run / name).write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    if name != "manifest.json":
        write_manifest(run)
    (run / name).write_text(REPLACED[damage]((run / name).read_text()))
    words = ["--model", run, "hello"]
    status, line = said(predict.main, *words)
    assert status == 2
    assert name in line
    # What the user vouches for is used where it can be. What no prediction reads is no obstacle.
    status, line = said(predict.main, *words, "--skip_checks")
    not_needed = name in ("manifest.json", "all_results.json") or (name, damage) == ("tokenizer_config.json", "no keys")
    assert status == (0 if not_needed else 2), line


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"values": [0.5]},
        {"values": None, "strategy": "fixed", "shrinkage": 0},
        {"values": {"joy": 0.5}, "strategy": "fixed", "shrinkage": 0},
        {"values": [float("inf")] * 11, "strategy": 3, "shrinkage": "x"},
    ],
)
def test_thresholds_without_their_keys(run, said, content):
    (run / "thresholds.json").write_text(json.dumps(content))
    status, line = said(predict.main, "--model", run, "--skip_checks", "hello")
    assert status == 2
    assert "thresholds.json" in line


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"peft_type": None},
        {"peft_type": "UNHEARD_OF"},
        {"peft_type": ["LORA"]},
        {"peft_type": "LORA", "r": "x"},
        {"peft_type": "LORA", "megatron_config": {"a": 1}},
        {"peft_type": "LORA", "r": 4, "target_modules": ["query"]},  # weights of something else
        {"peft_type": "LORA", "target_modules": "("},
        {"peft_type": "LORA", "task_type": "UNHEARD_OF"},
    ],
)
def test_adapters_of_unknown_types(run, said, tiny, config):
    shutil.copy(run / "model.safetensors", run / "adapter_model.safetensors")
    arguments = json.loads((run / "run_args.json").read_text()) | {"model_name_or_path": tiny("roberta")}
    (run / "run_args.json").write_text(json.dumps(arguments))
    (run / "adapter_config.json").write_text(json.dumps(config))
    status, line = said(predict.main, "--model", run, "--skip_checks", "hello")
    assert status == 2
    assert str(run) in line


@pytest.mark.parametrize("size", [0, 4, 8, 100, 0.5, 0.999])
def test_weights_that_were_cut(run, said, size):
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[: int(size if size == 0 or size >= 1 else size * len(content))])
    for more in ((), ("--skip_checks",), ("--check_weights",)):
        status, line = said(predict.main, "--model", run, "hello", *more)
        assert status == 2
        assert str(run) in line


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"id,text\n1,a\n"])
def test_predictions_that_are_no_parquet(run, trained, said, content):
    (run / "predictions" / "validation.parquet").write_bytes(content)
    for more in ((), ("--skip_checks",)):
        status, line = said(compare_runs.main, run, *more)
        assert status == 2
        assert "no finished run among" in line  # above it stands why this one is none
