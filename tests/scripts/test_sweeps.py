"""The sweeps: every flag exists, a stopped one does what is missing, a failed run does not end it."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, SAMPLE, WARM_COMMANDS
from finished_runs import copy_run
from utils.core.parser import ArgumentParser

# In place of accelerate and python: writes its command down, and leaves a folder that looks finished, unless the
# folder's name holds $FAILS.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\t' "$(basename "$0")" "$@" >> "$LOG"
echo >> "$LOG"
[ "$(basename "$0")" = python ] && exit "${COMPARISON:-0}"
output="${@: -1}"
[[ -n "${FAILS:-}" && "$output" == *"$FAILS"* ]] && exit 1
mkdir -p "$output" && echo '{}' > "$output/manifest.json"
"""
# In place of accelerate: waits for a training as its launcher does; the training writes down which signals it gets, and
# takes a moment to save.
TRAINING = """
import signal, subprocess, sys, time
log = sys.argv[1]
if len(sys.argv) > 2:
    sys.exit(subprocess.run([sys.executable, __file__, log]).returncode != 0)
def say(words):
    with open(log, "a") as file:
        print(words, file=file)
received = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: received.append(signal.Signals(number).name))
say("began")
while not received:
    time.sleep(0.01)
time.sleep(0.5)
say(" ".join(["saved", *sorted(received)]))
sys.exit(143)
"""
DATA = [SAMPLE / "train.csv", SAMPLE / "validation.csv"]


SWEEPS = [path.stem for path in sorted((ROOT / "sweeps").glob("*.sh")) if path.stem != "common"]


@pytest.fixture
def sweep(tmp_path):
    """Run a sweep with stand-ins for what it starts: `sweep(name, *arguments, cwd=..., **environment)` gives the
    finished process and the commands, lists of words."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("accelerate", "python"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    log = tmp_path / "log"

    def call(name, *arguments, cwd=ROOT, **environment):
        log.write_text("")
        done = subprocess.run(
            [ROOT / "sweeps" / f"{name}.sh", *map(str, arguments)],
            cwd=cwd, capture_output=True, text=True, check=False,
            env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log)} | environment,
        )  # fmt: skip
        return done, [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]

    return call


def parse(script, words):
    """The flags of a command, by the script's own parser."""
    import run_classifier
    import run_sft_labels
    from utils.training.arguments import TaskTrainingArguments
    from utils.training.generator import GeneratorTrainingArguments

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
        ("folds", ["recipes/minilm_cpu.yaml", DATA[0]], [f"fold_{fold}" for fold in range(5)],
         {"num_folds": 5, "fold": 4}),
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
            {"model_name_or_path": "Qwen/Qwen3-0.6B", "load_in_4bit": True},
        ),
    ],
)  # fmt: skip
def test_every_flag_exists(sweep, tmp_path, name, arguments, runs, expected):
    done, commands = sweep(name, *arguments, tmp_path / "out", "--max_steps", 7)
    assert done.returncode == 0, done.stderr
    folders = [str(tmp_path / "out" / run) for run in runs]
    *trainings, comparison = commands
    for command, folder in zip(trainings, folders, strict=True):
        assert command[:4] == ["accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml"]
        values = parse(command[4], command[5:])
        assert (values["output_dir"], values["max_steps"]) == (folder, 7)
        assert values["train_file"] == [str(DATA[0])]
    assert {name: values[name] for name in expected} == expected
    assert comparison == ["python", "compare_runs.py", *folders]


def test_a_sweep_can_be_a_part(sweep, tmp_path):
    files = ["recipe.yaml", "train.csv"]
    _, commands = sweep("folds", *files, tmp_path, NUM_FOLDS="3", FOLDS="1", SCRIPT="run_sft_labels.py")
    flags = ["--config", "recipe.yaml", "--train_file", "train.csv", "--num_folds", "3", "--fold", "1"]
    assert commands[0][4:] == ["run_sft_labels.py", *flags, "--output_dir", f"{tmp_path}/fold_1"]
    assert len(commands) == 2
    done, commands = sweep("three_experiments", "train.csv", "validation.csv", tmp_path, EXPERIMENTS="fourth")
    assert (done.returncode, commands) == (2, [])
    assert done.stderr == "error: EXPERIMENTS: there is no fourth\n"


def test_a_failed_run_is_named_and_the_others_are_made(sweep, tmp_path):
    arguments = ("seeds", "recipe.yaml", *DATA, tmp_path)
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


def test_a_failed_comparison_is_a_failure(sweep, tmp_path):
    arguments = ("seeds", "recipe.yaml", *DATA, tmp_path)
    done, _ = sweep(*arguments, COMPARISON="2")
    assert done.returncode == 2
    done, _ = sweep(*arguments)
    assert done.returncode == 0


@pytest.mark.parametrize("name", SWEEPS)
def test_usage(sweep, tmp_path, name):
    done, commands = sweep(name, "--help")
    assert (done.returncode, done.stderr, commands) == (0, "", [])
    head = (ROOT / "sweeps" / f"{name}.sh").read_text().split("set -uo")[0]
    assert head == "#!/usr/bin/env bash\n" + "".join(f"# {line}\n" for line in done.stdout.splitlines())
    words = re.search(rf"sweeps/{name}.sh ([A-Z_ ]+)", done.stdout).group(1).split()
    for given in ([], words[:-1]):
        wrong, commands = sweep(name, *given)
        assert (wrong.returncode, wrong.stdout, wrong.stderr, commands) == (2, "", done.stdout, [])
    away, commands = sweep(name, *words, cwd=tmp_path)
    assert (away.returncode, commands) == (2, [])
    assert away.stderr == f"error: run_classifier.py is not here: start the sweep in {ROOT}\n"
    assert sweep(name, "-h", cwd=tmp_path)[0].stdout == done.stdout


def start_sweep(command, environment):
    """Start a sweep as a terminal does: as a group of processes that Ctrl-C reaches."""
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )  # fmt: skip


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("kill", "number", "received"),
    [
        (os.kill, signal.SIGTERM, "SIGTERM"),
        (os.kill, signal.SIGINT, "SIGTERM"),
        (os.killpg, signal.SIGINT, "SIGINT SIGTERM"),  # Ctrl-C: one order to stop for StopOnSignal
    ],
)
def test_a_sweep_that_is_told_to_stop_lets_the_training_save(tmp_path, kill, number, received):
    log = tmp_path / "log"
    (tmp_path / "training.py").write_text(TRAINING)
    (tmp_path / "accelerate").write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/training.py {log} "$@"\n')
    (tmp_path / "accelerate").chmod(0o755)
    command = ["sweeps/seeds.sh", "recipe.yaml", *DATA, tmp_path / "out"]
    process = start_sweep(command, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    wait_for(log.exists, process)
    time.sleep(0.1)
    kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == "stopped: give the same command again to go on\n"
    assert log.read_text().splitlines() == ["began", f"saved {received}"]  # each once, and no other run


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_goes_on_where_it_was(tiny, trained, tmp_path, number):
    """With real trainings: killed, or stopped by Ctrl-C, in the second run, after the first."""
    steps = {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5, "max_steps": 30}
    values = {"model_name_or_path": tiny("roberta"), "report": False, "disable_tqdm": True, **steps}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    copy_run(trained, tmp_path / "seed1", seed=1)
    command = ["sweeps/seeds.sh", recipe, *DATA, tmp_path]
    changed = {"SEEDS": "1 2", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    first = start_sweep(command, changed)
    wait_for((tmp_path / "seed2" / "checkpoint-5" / "trainer_state.json").exists, first)
    os.killpg(first.pid, number)
    _, errors = first.communicate(timeout=60)
    if number == signal.SIGINT:
        assert first.returncode == 130
        assert "SIGINT: saving a checkpoint" in errors or "SIGTERM: saving a checkpoint" in errors
        assert "give the same command again to go on from there" in errors
    assert not (tmp_path / "seed2" / "all_results.json").exists()
    before = (tmp_path / "seed1" / "all_results.json").stat().st_mtime_ns

    # Only the stopped sweep needs the processes that `accelerate launch` has.
    environment = os.environ | changed | {"PATH": f"{WARM_COMMANDS}:{os.environ['PATH']}"}
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "seed1 is finished: skipped" in second.stdout
    assert "resuming from" in second.stderr
    assert (tmp_path / "seed1" / "all_results.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "seed2" / "run_args.json").read_text())["seed"] == 2
    assert "macro-F1 tuned" in second.stdout  # the comparison


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "sweeps" / "wandb").iterdir())])
def test_sweep_of_wandb_trains_the_same(sweep, tmp_path, name):
    """The commands that W&B's agent makes of the whole grid, run as they are, train what the shell script does."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

    config = load_sweep_config(str(ROOT / "sweeps" / "wandb" / f"{name}.yaml"))
    assert set(config) == {"program", "method", "metric", "parameters", "command"}
    assert config["method"] == "grid"
    assert config["metric"] == {"name": "final/f1_macro_tuned", "goal": "maximize"}
    trainings = []
    for values in itertools.product(*(parameter["values"] for parameter in config["parameters"].values())):
        cell = {name: {"value": value} for name, value in zip(config["parameters"], values, strict=True)}
        macros = create_sweep_command_args({"args": cell}) | {"program": [config["program"]]}
        command = []
        for word in create_sweep_command(config["command"]):
            command += macros[word[2:-1]] if word.startswith("${") else [word]
        end = command.index(config["program"])
        assert command[0] == "env"
        words = command[end + 1 :]
        folder = next(word for word in words if word.startswith("outputs/"))
        words[words.index(folder)] = str(tmp_path / "agent")
        done, commands = sweep(Path(command[end]).stem, *words, **dict(word.split("=", 1) for word in command[1:end]))
        assert done.returncode == 0, done.stderr
        trainings += commands[:-1]
    words = [str(tmp_path / "shell") if word.endswith("agent") else word for word in words]
    _, commands = sweep(name, *words, ACCELERATE_CONFIG="accelerate_configs/single_gpu.yaml")
    assert [[word.replace("/agent/", "/shell/") for word in line] for line in trainings] == commands[:-1]
    assert all(line[-4:-2] == ["--report_to", "wandb"] for line in trainings)
    for line in trainings:
        assert all((ROOT / word).exists() for word in line if word.endswith(".yaml"))


def test_every_sweep_is_one_of_wandb_too():
    names = {path.stem for path in (ROOT / "sweeps").glob("*.sh")} - {"common"}
    assert names == {path.stem for path in (ROOT / "sweeps" / "wandb").glob("*.yaml")}
