"""The sweeps: every flag exists, a stopped one does what is missing, a failed run does not end it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, SAMPLE
from finished_runs import copy_run
from utils.arguments import ArgumentParser

# In place of accelerate and python: writes its command down, and leaves a folder that looks finished, unless the
# folder's name holds $FAILS.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\t' "$(basename "$0")" "$@" >> "$LOG"
echo >> "$LOG"
[ "$(basename "$0")" = python ] && exit 0
output="${@: -1}"
[[ -n "${FAILS:-}" && "$output" == *"$FAILS"* ]] && exit 1
mkdir -p "$output" && echo '{}' > "$output/all_results.json"
"""
DATA = [SAMPLE / "train.csv", SAMPLE / "validation.csv"]


@pytest.fixture
def sweep(tmp_path):
    """Run a sweep with stand-ins for what it starts: `sweep(name, *arguments, **environment)` gives the finished
    process and the commands, lists of words."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("accelerate", "python"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    log = tmp_path / "log"

    def call(name, *arguments, **environment):
        log.write_text("")
        done = subprocess.run(
            [f"sweeps/{name}.sh", *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log)} | environment,
        )  # fmt: skip
        return done, [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]

    return call


def parse(script, words):
    """The flags of a command, by the script's own parser."""
    import run_classifier
    import run_sft_labels
    from utils.sft import GeneratorTrainingArguments
    from utils.training_arguments import TaskTrainingArguments

    module, last = {
        "run_classifier.py": (run_classifier, TaskTrainingArguments),
        "run_sft_labels.py": (run_sft_labels, GeneratorTrainingArguments),
    }[script]
    values = {}
    for arguments in ArgumentParser([*module.ARGUMENTS, last]).parse(words):
        values |= vars(arguments)
    return values


@pytest.mark.parametrize(
    ("name", "arguments", "runs", "expected"),
    [
        ("seeds", ["recipes/minilm_cpu.yaml", *DATA], ["seed1", "seed2", "seed3"], {"seed": 3}),
        (
            "learning_rate_pos_weight",
            ["recipes/roberta_base.yaml", *DATA],
            [f"lr{rate}_{weight}" for rate in ("1e-5", "2e-5", "5e-5") for weight in ("none", "sqrt", "balanced")],
            {"learning_rate": 5e-5, "pos_weight": "balanced", "num_train_epochs": 6},
        ),
        (
            "lora_rank_targets",
            ["recipes/qwen2.5_0.5b_lora_head_t4.yaml", *DATA],
            [f"r{rank}_{targets}" for rank in (8, 16, 64) for targets in ("all-linear", "q_proj+k_proj+v_proj+o_proj")],
            {"lora_r": 64, "lora_alpha": 128, "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        ),
        (
            "three_experiments",
            DATA,
            ["encoder", "decoder_head", "decoder_labels"],
            {"model_name_or_path": "Qwen/Qwen3-0.6B", "load_in_4bit": True, "max_steps": 7},
        ),
    ],
)  # fmt: skip
def test_every_flag_exists(sweep, tmp_path, name, arguments, runs, expected):
    flags = ["--max_steps", "7"] if name == "three_experiments" else []
    done, commands = sweep(name, *arguments, tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    folders = [str(tmp_path / "out" / run) for run in runs]
    *trainings, comparison = commands
    for command, folder in zip(trainings, folders, strict=True):
        assert command[:4] == ["accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml"]
        values = parse(command[4], command[5:])
        assert values["output_dir"] == folder
        assert values["train_file"] == str(DATA[0])
    assert {name: values[name] for name in expected} == expected
    assert comparison == ["python", "compare_runs.py", *folders]


def test_folds(sweep, tmp_path):
    flags = ["--validation_file", DATA[1], "--max_steps", 7]
    done, commands = sweep("folds", "recipes/minilm_cpu.yaml", DATA[0], tmp_path, 3, *flags)
    assert done.returncode == 0, done.stderr
    *trainings, comparison = commands
    folders = [f"{tmp_path}/fold_{fold}" for fold in range(3)]
    for fold, (command, folder) in enumerate(zip(trainings, folders, strict=True)):
        values = parse(command[4], command[5:])
        assert (values["num_folds"], values["fold"], values["max_steps"]) == (3, fold, 7)
        assert [values["train_file"], values["validation_file"]] == list(map(str, DATA))
        assert values["output_dir"] == folder
    assert comparison == ["python", "compare_runs.py", *folders]


def test_a_failed_run_is_named_and_the_others_are_made(sweep, tmp_path):
    arguments = ("seeds", "recipe.yaml", *DATA, tmp_path, 1, 2, 3)
    done, commands = sweep(*arguments, FAILS="seed2")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"failed: {tmp_path}/seed2"
    assert commands[-1] == ["python", "compare_runs.py", f"{tmp_path}/seed1", f"{tmp_path}/seed3"]
    # Once more: what is missing alone.
    done, commands = sweep(*arguments)
    assert done.returncode == 0
    assert f"{tmp_path}/seed1 is finished: skipped" in done.stdout
    assert [command[-1] for command in commands[:-1]] == [f"{tmp_path}/seed2"]
    assert commands[-1] == ["python", "compare_runs.py", *(f"{tmp_path}/seed{seed}" for seed in (1, 2, 3))]


def test_a_killed_sweep_goes_on_where_it_was(tiny, trained, tmp_path):
    """With real trainings: killed in the second run, after the first."""
    steps = {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5, "max_steps": 30}
    values = {"model_name_or_path": tiny("roberta"), "report": False, "disable_tqdm": True, **steps}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    copy_run(trained, tmp_path / "seed1", seed=1)
    command = ["sweeps/seeds.sh", recipe, *DATA, tmp_path, "1", "2"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "seed2" / "checkpoint-5" / "trainer_state.json").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "seed2" / "all_results.json").exists()
    before = (tmp_path / "seed1" / "all_results.json").stat().st_mtime_ns

    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "seed1 is finished: skipped" in second.stdout
    assert "resuming from" in second.stderr
    assert (tmp_path / "seed1" / "all_results.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "seed2" / "run_args.json").read_text())["seed"] == 2
    assert "macro-F1 tuned" in second.stdout  # the comparison


def test_wandb_sweep_gives_flags_that_exist():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

    config = load_sweep_config(str(ROOT / "sweeps" / "learning_rate_pos_weight.wandb.yaml"))
    assert set(config) == {"program", "method", "metric", "parameters", "command"}
    assert config["method"] == "grid"
    assert config["metric"] == {"name": "final/f1_macro_tuned", "goal": "maximize"}
    # As W&B's agent makes the command of the last cell of the grid.
    cell = {name: {"value": values["values"][-1]} for name, values in config["parameters"].items()}
    macros = create_sweep_command_args({"args": cell}) | {"program": [config["program"]]}
    command = []
    for word in create_sweep_command(config["command"]):
        command += macros[word[2:-1]] if word.startswith("${") else [word]
    # echo in place of accelerate shows what the shell makes of it.
    command[2] = command[2].replace("exec accelerate", "printf '%s\\n'")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"WANDB_RUN_ID": "abc"})
    words = done.stdout.splitlines()
    assert words[:4] == ["launch", "--config_file", "accelerate_configs/single_gpu.yaml", "run_classifier.py"]
    assert (ROOT / words[2]).exists()
    values = parse(words[3], words[4:])
    assert values["output_dir"] == "outputs/sweep/abc"
    assert (values["learning_rate"], values["pos_weight"], values["report_to"]) == (5e-5, "balanced", ["wandb"])
