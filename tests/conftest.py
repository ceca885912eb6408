"""Tiny models built on the spot, and the scripts called as a user calls them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Before anything is imported: no network, and caches that leave no trace.
CACHE = tempfile.mkdtemp(prefix="test-cache-")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": CACHE,
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}

import pytest  # noqa: E402

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample_data"


# Files that take minutes come first, so that they do not end up on one worker while the other has nothing to do.
LONGEST = ("test_quickstart.py", "test_readme.py", "test_same_result.py", "test_lora.py", "test_sft.py")


def pytest_collection_modifyitems(items):
    """Put the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="module")
def fresh_copy(tmp_path_factory):
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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a tiny base model: `tiny("roberta")`."""
    from utils.models.tiny import build

    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = build(kind, tmp_path_factory.mktemp("models") / kind)
        return built[kind]

    return get


def start_script(script, *arguments, processes=None, launcher=()):
    """Start a script in a new process, with `processes` through `accelerate launch`, given flags `launcher`."""
    command = [sys.executable, script]
    if processes:
        config = f"accelerate_configs/cpu{'_2_processes' if processes > 1 else ''}.yaml"
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
        command = [*launch, "--num_processes", str(processes), *launcher, str(script)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(script, *arguments, processes=None, timeout=300):
    """Run a script as `start_script` does; returns the finished process with its output."""
    process = start_script(script, *arguments, processes=processes)
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture
def refused(capsys):
    """Call a script's `main` with arguments it must refuse: exit status 2, one line on stderr; returns the line."""

    def call(main, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        assert exit_info.value.code == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    return call


@pytest.fixture(scope="session")
def model_without_dropout(tiny, tmp_path_factory):
    """A tiny RoBERTa whose training does not depend on how it draws random numbers."""
    folder = tmp_path_factory.mktemp("models") / "roberta"
    shutil.copytree(tiny("roberta"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory):
    """A finished run of tiny RoBERTa on the sample data."""
    from run_classifier import main

    output_dir = tmp_path_factory.mktemp("runs") / "trained"
    main(training_flags(tiny("roberta"), output_dir))
    return output_dir


def training_flags(model, output_dir, **flags):
    """Flags of a short training run on the sample data; `flags` replaces or adds some, None takes one out."""
    values = {
        "model_name_or_path": model,
        "train_file": SAMPLE / "train.csv",
        "validation_file": SAMPLE / "validation.csv",
        "output_dir": output_dir,
        "learning_rate": 3e-3,
        "num_train_epochs": 2,
        "disable_tqdm": True,
        "report": False,  # seconds of drawing for each run; tests/test_report.py draws
    } | flags
    return [str(word) for name, value in values.items() if value is not None for word in (f"--{name}", value)]


@pytest.fixture
def compare(tmp_path, capsys):
    """Run compare_runs.py; returns its records by run name, what it printed, and what it told."""

    import pandas as pd

    import compare_runs

    def call(*arguments):
        target = tmp_path / "figures.csv"
        capsys.readouterr()
        compare_runs.main([*map(str, arguments), "--csv", str(target), "--overwrite", "--resamples", "300"])
        said = capsys.readouterr()
        records = pd.read_csv(target).set_index("run")
        return records, said.out, said.err

    return call


def scikit_learn(truth, predictions):
    """Scores by scikit-learn, under the names they have here."""
    from sklearn.metrics import f1_score, jaccard_score

    return {
        "f1_macro": f1_score(truth, predictions, average="macro", zero_division=0.0),
        "f1_micro": f1_score(truth, predictions, average="micro", zero_division=0.0),
        "jaccard": jaccard_score(truth, predictions, average="samples", zero_division=1.0),
    }
