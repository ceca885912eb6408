"""Flags, YAML files and help."""

import importlib
import re
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

import compare_runs
import make_submission
import predict
import run_classifier
import run_sft_labels
from conftest import ROOT, run_script
from utils.core.help import MOST_USED
from utils.core.parser import ArgumentParser
from utils.core.trainer_flags import TrainerFlags, early_flags, flags_of_trainer
from utils.training.arguments import TaskTrainingArguments
from utils.training.generator import GeneratorTrainingArguments


@pytest.mark.parametrize("script", ["run_classifier.py", "run_sft_labels.py", "make_submission.py"])
def test_help_needs_no_torch(script):
    code = f"import runpy, sys; sys.argv = ['{script}', '--help']; runpy.run_path('{script}', run_name='__main__')"
    code += "; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout or "--overwrite" in done.stdout


def flags_in(text):
    return re.findall(r"^  (--\w[\w-]*)", text, re.MULTILINE)


@pytest.mark.parametrize("trainer", ["run_classifier", "run_sft_labels"])
def test_help_has_the_flags_that_most_people_need_with_defaults(trainer, capsys):
    script = importlib.import_module(trainer)
    script.main(["--help"])
    shown = capsys.readouterr().out
    assert flags_in(shown) == ["--config", *(f"--{name}" for name in MOST_USED)]
    assert len(shown.splitlines()) < 70
    assert shown.endswith("README.md leads to the documentation.\n")
    # What it says without loading Trainer's dataclass is what that one has.
    arguments = GeneratorTrainingArguments if script is run_sft_labels else TaskTrainingArguments
    defaults = {field.name: field.default for field in fields(arguments)}
    for name in ("num_train_epochs", "per_device_train_batch_size", "seed"):
        entry = shown.partition(f"--{name} ")[2].partition("\n  --")[0]
        assert f"(default: {defaults[name]})" in " ".join(entry.split())
    assert "left out: 2e-5 in full" in " ".join(shown.split())


@pytest.mark.parametrize("script", [make_submission, compare_runs, predict])
def test_help_lists_each_flag_once_with_its_default(script, capsys):
    script.main(["--help"])
    shown = capsys.readouterr().out
    flags = flags_in(shown)
    assert len(flags) == len(set(flags)) > 5
    assert len(re.findall(r"--\w+-\w+", shown)) == 0
    for entry in shown.partition("\nflags:\n")[2].split("\n  --")[1:]:
        assert any(word in " ".join(entry.split()) for word in ("(default: ", "left out", "(needed)")), entry
    script.main(["--help_all"])
    assert capsys.readouterr().out == shown


TRAIN = ["--train_file", "sample_data/train.csv", "--output_dir", "nowhere"]
REFUSED = {
    "error: nope is not": [
        ["make_submission.py", "--model", "nope", "--test_file", "t.csv", "--output_file", "s.csv"],
        ["predict.py", "--model", "nope", "a text"],
    ],
    "error: nope: no such": [["compare_runs.py", "nope"], ["run_classifier.py", *TRAIN, "--validation_file", "nope"]],
    "error: unknown flag --learning_rat: did you mean --learning_rate?": [
        ["run_classifier.py", *TRAIN, "--learning_rat", "1"],
        ["run_sft_labels.py", *TRAIN, "--learning_rat", "1"],
    ],
    "--learning_rate/--learning-rate: invalid float value: 'fast'": [
        ["run_classifier.py", *TRAIN, "--learning_rate", "fast"],
        ["run_sft_labels.py", *TRAIN, "--learning_rate", "fast"],
    ],
    "argument --max_length": [["run_sft_labels.py", *TRAIN, "--max_length", "long"]],
    "argument --bf16: Truthy value": [["run_classifier.py", *TRAIN, "--bf16", "maybe"]],
    "add --use_peft": [["run_sft_labels.py", *TRAIN, "--load_in_4bit"]],
    'no column "joi"': [["run_classifier.py", *TRAIN, "--label_columns", "joi", "love"]],
    "holds files but no run": [["run_sft_labels.py", *TRAIN, "--output_dir", "sample_data"]],
    "./nope: no such folder": [["run_classifier.py", *TRAIN, "--model_name_or_path", "./nope"]],
    "too few rows (1)": [["run_classifier.py", "--train_file", "one.csv", "--output_dir", "nowhere"]],
}


def test_what_is_refused_is_refused_without_torch(tmp_path):
    """All in one process, in which nothing may load torch: a refusal would then wait for it."""
    (tmp_path / "one.csv").write_text("id,text,a,b\n1,good,0,1\n")
    commands = [(message, command) for message, several in REFUSED.items() for command in several]
    code = f"""import contextlib, io, runpy, sys
for message, command in {commands}:
    sys.argv = [word.replace("one.csv", {str(tmp_path / "one.csv")!r}) for word in command]
    if command[0].startswith("run_") and "--model_name_or_path" not in command:
        sys.argv += ["--model_name_or_path", "some-model"]
    try:
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert end.code == 2, command
    assert message in printed.getvalue(), (command, printed.getvalue())
    assert "torch" not in sys.modules, command
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("trainer", [TaskTrainingArguments, GeneratorTrainingArguments])
def test_what_is_known_of_trainer_without_loading_it(trainer):
    actions = ArgumentParser([trainer])._actions
    flags = {name for action in actions for name in action.option_strings} - {"-h", "--help", "--config"}
    known = flags_of_trainer(f"{trainer.__module__}:{trainer.__name__}")
    assert flags <= known
    assert all(name.startswith(("--no_", "--no-")) for name in known - flags)
    parsed = ArgumentParser([early_flags(f"{trainer.__module__}:{trainer.__name__}")])._actions
    early = {action.dest: action.type.__name__ for action in parsed if action.type}
    assert {"learning_rate": "float", "max_steps": "int", "bf16": "string_to_bool"}.items() <= early.items()
    later = {action.dest: action.type.__name__ for action in actions if action.type and action.dest in early}
    assert early == later
    for default in fields(TrainerFlags):
        assert next(field for field in fields(trainer) if field.name == default.name).default == default.default


def test_help_of_all_flags():
    done = run_script("run_classifier.py", "--help_all")
    assert done.returncode == 0, done.stderr
    flags = flags_in(done.stdout)
    assert {"--pos_weight", "--learning_rate", "--hub_model_id", *(f"--{name}" for name in MOST_USED)} <= set(flags)
    assert len(flags) == len(set(flags))
    actions = ArgumentParser([*run_classifier.ARGUMENTS, TaskTrainingArguments])._actions
    known = {action.option_strings[0] for action in actions if action.dest != "help"}
    assert set(flags) - {"--config"} == {flag for flag in known if not flag.startswith("--no_")}


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_parses_and_means_what_it_says(recipe, tmp_path):
    generates = "labels" in recipe.stem
    script = run_sft_labels if generates else run_classifier
    parser = ArgumentParser([*script.ARGUMENTS, GeneratorTrainingArguments if generates else TaskTrainingArguments])
    parsed = parser.parse(["--config", str(recipe), "--train_file", "x.csv", "--output_dir", str(tmp_path)])
    for name, value in yaml.safe_load(recipe.read_text()).items():
        owner = next(arguments for arguments in parsed if hasattr(arguments, name))
        assert getattr(owner, name) == value


def test_command_line_overrides_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "learning_rate: 1e-3\nseed: 7\nbf16: false\nlabel_columns: [joy, fear]\npos_weight: 3\n"
    )
    parser = ArgumentParser([*run_classifier.ARGUMENTS, TaskTrainingArguments])
    words = [
        "--model_name_or_path",
        "m",
        "--train_file",
        "x.csv",
        "--output_dir",
        str(tmp_path),
        f"--config={tmp_path / 'c.yaml'}",
        "--seed",
        "8",
    ]
    _, data_args, _, loss_args, *_, training_args = parser.parse(words)
    assert (training_args.learning_rate, training_args.seed, training_args.bf16) == (1e-3, 8, False)
    assert data_args.label_columns == ["joy", "fear"]
    assert loss_args.pos_weight == "3"


def test_abbreviated_flags_are_not_guessed(refused):
    assert "--test_file" in refused(make_submission.main, "--model", "m", "--test", "t.csv", "--output_file", "s.csv")
