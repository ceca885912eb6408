"""Flags, YAML files and help."""

import subprocess
import sys

import pytest
import yaml

import make_submission
import run_classifier
import run_sft_labels
from conftest import ROOT, run_script
from utils.core.parser import ArgumentParser
from utils.training.arguments import TaskTrainingArguments
from utils.training.generator import GeneratorTrainingArguments


@pytest.mark.parametrize("script", ["run_classifier.py", "run_sft_labels.py", "make_submission.py"])
def test_help_needs_no_torch(script):
    code = f"import runpy, sys; sys.argv = ['{script}', '--help']; runpy.run_path('{script}', run_name='__main__')"
    code += "; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout or "--overwrite" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["make_submission.py", "--model", "nope", "--test_file", "t.csv", "--output_file", "s.csv"],
        ["compare_runs.py", "nope"],
    ],
    ids=lambda command: command[0],
)
def test_a_wrong_path_is_refused_without_torch(command):
    code = f"import runpy, sys; sys.argv = {command}\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "except SystemExit as end: assert end.code == 2\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error: nope" in done.stderr


def test_help_of_all_flags():
    done = run_script("run_classifier.py", "--help_all")
    assert done.returncode == 0, done.stderr
    for flag in ("--pos_weight", "--learning_rate", "--hub_model_id"):
        assert flag in done.stdout


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
    _, data_args, loss_args, _, _, training_args = parser.parse(words)
    assert (training_args.learning_rate, training_args.seed, training_args.bf16) == (1e-3, 8, False)
    assert data_args.label_columns == ["joy", "fear"]
    assert loss_args.pos_weight == "3"


def test_abbreviated_flags_are_not_guessed(refused):
    assert "--test_file" in refused(make_submission.main, "--model", "m", "--test", "t.csv", "--output_file", "s.csv")
