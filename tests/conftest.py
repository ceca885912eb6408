"""Tiny models built on the spot, and the scripts called as a user calls them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Before anything is imported: no network, and caches that leave no trace. The workers of xdist share what the process
# that started them has set.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        # As the demo page sets them in its process: the warm Python serves commands with its own environment alone.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HOME": tempfile.mkdtemp(prefix="test-cache-"),
        "WANDB_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

import warm_python

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample_data"
CACHE = Path(os.environ["HF_HOME"])
WARM_COMMANDS = CACHE / "bin"  # `python` and `accelerate` that have their imports already; see warm_python.py
WARM_PYTHON = str(WARM_COMMANDS / "python")


# The longest files come first, so that none ends up on one worker while the other has nothing to do.
LONGEST = (
    "test_sharded.py",
    *("test_quickstart.py", "test_same_result.py", "test_readme.py", "test_lora.py", "test_benchmarks.py"),
    "test_notebooks.py",
    *("test_launch.py", "test_sweeps.py", "test_sft.py", "test_classifier.py", "test_tracking.py", "test_hub.py"),
    *("test_export.py", "test_space.py", "test_demo.py", "test_browser.py"),
)


def pytest_configure(config):
    """Start the warm Python once for a test run; it imports nothing before its first command."""
    if not hasattr(config, "workerinput"):
        warm_python.write_commands(WARM_COMMANDS, Path(sys.prefix))
        config.add_cleanup(lambda: shutil.rmtree(CACHE, ignore_errors=True))
        config.add_cleanup(warm_python.start(CACHE))  # ended first


# Fixtures that train in a new process, which has a Hub or a tracker of its own.
TRAINED_ELSEWHERE = {"pushed", "tracked"}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    """Mark what trains elsewhere, and put the longest files first."""
    for item in items:
        if TRAINED_ELSEWHERE & set(item.fixturenames):
            item.add_marker("processes")
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder that the first test process to need it makes, for all of them: `made_once(name, make)` calls
    `make(folder)`. Tests copy it before they change anything."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def get(name, make):
        folder, finished = shared / name, shared / f"{name}.finished"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                make(folder)
                finished.touch()
        return folder

    return get


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
def tiny(made_once):
    """Folder of a tiny base model: `tiny("roberta")`."""
    from utils.models.tiny import build

    return cache(lambda kind: str(made_once(f"models/{kind}", lambda folder: build(kind, folder))))


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_script(script, *arguments, processes=None, launcher=(), warm=True):
    """Start a script in a new process, with `processes` through `accelerate launch`, given flags `launcher`; `warm`:
    by an interpreter that has its imports already."""
    python = WARM_PYTHON if warm else sys.executable
    command = [python, script]
    if processes:
        config = f"accelerate_configs/cpu{'_2_processes' if processes > 1 else ''}.yaml"
        launch = [python, "-m", "accelerate.commands.launch", "--config_file", config]
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


@pytest.fixture(scope="module")
def hub():
    """A Hub on this machine."""
    from hub_server import MiniHub

    server = MiniHub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Home of those who speak to the Hub."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def model_without_dropout(tiny, made_once):
    """A tiny RoBERTa whose training does not depend on how it draws random numbers."""

    def make(folder):
        shutil.copytree(tiny("roberta"), folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (folder / "config.json").write_text(json.dumps(config))

    return made_once("models/without_dropout/roberta", make)


def files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every file of a folder: what shows that one was changed."""
    states = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (state.st_size, state.st_mtime_ns) for path, state in states.items()}


@pytest.fixture(scope="session")
def trained(tiny, made_once):
    """A finished run of tiny RoBERTa on the sample data. All tests have this one: copy it before you change it."""
    from run_classifier import main

    folder = made_once("runs/trained", lambda folder: main(training_flags(tiny("roberta"), folder)))
    before = files_of(folder)
    yield folder
    assert files_of(folder) == before, "a test has changed the run that all share"


def undivided_flags(model, folder, micro_batch, accumulation=1, **more):
    """Flags of a short training that gives the same result however its batches of 8 rows are cut."""
    return training_flags(
        model,
        folder,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_train_samples=64,
        per_device_eval_batch_size=31,  # divides the 124 rows, so that the mean validation loss is comparable
        logging_steps=1,
        bf16=False,
        learning_rate=1e-3,
        **more,
    )


def assert_trains_as(expected, folder, flags, processes=1):
    """Train with `flags` into `folder`: every loss is that of `expected`, a run with whole batches in one process."""
    from run_classifier import main

    if processes == 1:
        main(flags)
    else:
        done = run_script("run_classifier.py", *flags, processes=processes)
        assert done.returncode == 0, done.stderr
    logs = [json.loads((one / "trainer_state.json").read_text())["log_history"] for one in (folder, expected)]
    found, wanted = (
        [entry.get("loss", entry.get("eval_loss")) for entry in log if {"loss", "eval_loss"} & set(entry)]
        for log in logs
    )
    assert len(found) == 18
    assert found == pytest.approx(wanted, abs=2e-4)


@pytest.fixture(scope="session")
def undivided(model_without_dropout, made_once):
    """A finished run of one process with 8 rows a step and its checkpoints: what divided ones are compared with."""
    from run_classifier import main

    def make(folder):
        main(undivided_flags(model_without_dropout, folder, 8, keep_checkpoints=True, save_total_limit=2))

    return made_once("runs/undivided", make)


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
        "baseline": False,  # as much for loading scikit-learn; tests/doctor trains it
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


def assert_close(found, expected):
    """The same figures by name up to rounding: 1e-4.

    ROC-AUC counts pairs of rows in the right order. Where rounding makes two rows change places it moves by a pair,
    of which the sample data have some hundred for their rarest label.
    """
    import pytest

    assert found.keys() == expected.keys()
    for name, value in found.items():
        tolerance = 2e-3 if "roc_auc" in name else 1e-4
        same = (
            value == pytest.approx(expected[name], abs=tolerance)
            if isinstance(value, float)
            else value == expected[name]
        )
        assert same, f"{name}: {value}, expected {expected[name]}"


def scikit_learn(truth, predictions):
    """Scores by scikit-learn, under the names they have here."""
    from sklearn.metrics import f1_score, jaccard_score

    return {
        "f1_macro": f1_score(truth, predictions, average="macro", zero_division=0.0),
        "f1_micro": f1_score(truth, predictions, average="micro", zero_division=0.0),
        "jaccard": jaccard_score(truth, predictions, average="samples", zero_division=1.0),
    }
