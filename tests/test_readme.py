"""Every command of README.md runs as it stands there, in a fresh copy, or is marked as needing what tests lack."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from conftest import ROOT, SAMPLE

MARKS = ("needs the hub", "needs a GPU", "the test suite itself")
BLOCK = re.compile(r"(?:<!-- (?P<mark>.*?) -->\n)?```bash\n(?P<code>.*?)```", re.DOTALL)


def blocks():
    return [match.groupdict() for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """What a fresh clone holds, with the environment of these tests as its .venv."""
    folder = tmp_path_factory.mktemp("clone") / "repository"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run_block(code, folder):
    # The environment is there already, so `make` need not install it; the generator's scores are not looked at; and two
    # folds are as good as five.
    environment = os.environ | {
        "MAKEFLAGS": "-o .venv/installed GENERATOR_EPOCHS=1",
        "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
        "FOLDS": "0 1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_unmarked_commands_are_the_ones_below():
    assert all(block["mark"] is None or block["mark"].startswith(MARKS) for block in blocks())
    assert sum(block["mark"] is None for block in blocks()) == 12


def test_quickstart(copy):
    output = run_block(next(block["code"] for block in blocks() if "quickstart" in block["code"]), copy)
    assert "macro-F1" in output
    # Both approaches in the table at the end.
    assert re.search(r"^minilm .* head, full", output, re.MULTILINE)
    assert re.search(r"^generator .* label generation, full", output, re.MULTILINE)
    assert "outputs/quickstart/submission.csv" in output
    submission = pd.read_csv(copy / "outputs/quickstart/submission.csv")
    held = pd.read_csv(SAMPLE / "test_labels.csv")
    assert list(submission["ID"]) == list(held["ID"])
    score = f1_score(held.iloc[:, 1:], submission.iloc[:, 1:], average="macro", zero_division=0.0)
    assert score > 0.45  # giving every label to every row scores 0.31


def test_other_commands(copy):
    # With fewer rows and epochs than a person would take: it is the commands that are tested here.
    for recipe in (copy / "recipes").glob("minilm_*.yaml"):
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        values |= {"max_train_samples": 32, "max_eval_samples": 40, "num_train_epochs": 1, "report": False}
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    for block in blocks():
        if block["mark"] is None and "quickstart" not in block["code"]:
            run_block(block["code"], copy)
    for name in (
        "submission.csv",
        "averaged.csv",
        "averaged.parquet",
        "folds.csv",
        "tiny-roberta/config.json",
        "two/README.md",
        "results.html",
        "tracked/README.md",
    ):
        assert (copy / "outputs" / name).exists()
    assert len(pd.read_csv(copy / "outputs" / "averaged.csv")) == len(pd.read_csv(SAMPLE / "test.csv"))


def test_links_and_paths_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"(?:recipes|accelerate_configs|utils|sample_data|sweeps|benchmarks)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path
