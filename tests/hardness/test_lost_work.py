"""Two commands in one folder, kills between two files, full disks, folders that are gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerCallback

import compare_runs
import make_submission
import predict
import run_classifier
import run_sft_labels
from conftest import SAMPLE, training_flags
from utils.core.errors import UserError
from utils.core.files import atomic_path, remove_temporary_files
from utils.runs import folder as run_folder
from utils.runs.lock import RunLock
from utils.training import experiment, loop

HOLD = """
import sys, time
from utils.runs.lock import RunLock
lock = RunLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_two_commands_in_one_folder(tiny, refused, tmp_path):
    folder = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        line = refused(run_classifier.main, *training_flags(tiny("roberta"), folder))
        assert f"process {other.pid} on " in line
        assert "is at work in it" in line
        with pytest.raises(UserError, match=f"process {other.pid} on "):
            RunLock(folder).acquire()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    lock = RunLock(folder)
    lock.check()  # that of a process that has died is free
    lock.acquire()
    assert json.loads((folder / ".lock_owner.json").read_text())["process"] == os.getpid()
    lock.release()
    assert not list(folder.iterdir())


def short(model, folder, **more):
    return training_flags(model, folder, num_train_epochs=1, max_train_samples=32, max_eval_samples=16, **more)


def test_a_run_killed_before_its_last_files_gets_them(tiny, refused, tmp_path):
    """A kill while the report was made left a run that counted as finished, without one."""
    flags = short(tiny("roberta"), tmp_path / "run")
    run_classifier.main(flags)
    folder = tmp_path / "run"
    before = (folder / "all_results.json").read_bytes()
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "manifest.json").unlink()
    line = refused(run_classifier.main, *flags, "--seed", "7")
    assert "begun with seed = 42, now it is 7" in line
    run_classifier.main([*flags, "--report", "True"])
    assert (folder / "manifest.json").exists()
    assert (folder / "report.html").exists()
    assert (folder / "all_results.json").read_bytes() == before
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert "holds a finished run" in refused(run_classifier.main, *flags)


def test_a_run_killed_between_its_first_files_begins_again(tiny, tmp_path, monkeypatch):
    """A folder with a task and no arguments could not be resumed, nor begun again."""
    flags, folder = short(tiny("roberta"), tmp_path / "run"), tmp_path / "run"

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.Task, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_classifier.main(flags)
    monkeypatch.undo()
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {"run_args.json"}
    run_classifier.main(flags)
    assert (folder / "manifest.json").exists()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_temporary_files_of_dead_processes_go(tmp_path):
    with atomic_path(tmp_path / "a.json") as mine:
        other = mine.with_name(mine.name.replace(f".{os.getpid()}.", ".999999999."))
        other.touch()
        remove_temporary_files(tmp_path)
        assert mine.exists()
        assert not other.exists()
        mine.write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


class InTraining(TrainerCallback):
    """Does something after the first step."""

    def __init__(self, do):
        self.do = do

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.do()


@pytest.fixture
def disturbed(tiny, refused, tmp_path, monkeypatch):
    """Train with a disturbance after the first step; returns the line that says what was wrong."""

    def call(do):
        flags = short(tiny("roberta"), tmp_path / "run", per_device_train_batch_size=8)
        train = loop.train_to_the_end

        def with_disturbance(trainer, *arguments):
            trainer.add_callback(InTraining(do))
            return train(trainer, *arguments)

        monkeypatch.setattr(experiment, "train_to_the_end", with_disturbance)
        return refused(run_classifier.main, *flags)

    return call


def test_a_folder_that_is_gone(disturbed, tmp_path):
    line = disturbed(lambda: shutil.rmtree(tmp_path / "run"))
    assert f"--output_dir {tmp_path / 'run'} is gone" in line
    assert not (tmp_path / "run").exists()


def test_a_full_disk(disturbed, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        line = disturbed(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot write" in line
    assert "free some space" in line
    assert not (tmp_path / "run").exists()  # nothing to go on from, so nothing is left


def test_a_disk_that_a_submission_fills(refused, trained, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    words = ["--model", trained, "--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv"]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        line = refused(make_submission.main, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free some space" in line
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small(tiny, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    line = refused(run_classifier.main, *short(tiny("roberta"), tmp_path / "run"))
    assert "checkpoints and model take about" in line
    assert not (tmp_path / "run").exists()


def test_names_and_places_that_cannot_be_written(refused, tiny, tmp_path):
    for place in (tmp_path / ("x" * 300), "/proc/1/run", tmp_path / ("a/" * 2500)):
        line = refused(run_classifier.main, *short(tiny("roberta"), place))
        assert "longer than the system allows" in line or "/proc/1/run" in line


@pytest.mark.parametrize("place", ["/proc/1/run", "/proc/run", "/sys/run", "/dev/fd/9999/run"])
def test_places_that_take_no_files_are_told_at_once(refused, trained, place):
    """Before data and model are read; to root, permissions say that one may write there."""
    line = refused(run_classifier.main, *training_flags("no-such-model", place))
    assert f"--output_dir {place}: nothing can be written to " in line
    line = refused(
        make_submission.main, "--model", trained, "--test_file", SAMPLE / "test.csv", "--output_file", f"{place}.csv"
    )
    assert f"--output_file {Path(place).parent}: nothing can be written to " in line


def test_a_training_that_cannot_be_made_leaves_no_folder(refused, tiny, tmp_path):
    flags = short(tiny("qwen2"), tmp_path / "run", activation_offloading="yes", activation_checkpointing=True)
    assert "Trainer cannot be made" in refused(run_sft_labels.main, *flags)
    assert not (tmp_path / "run").exists()


def test_a_file_name_that_is_too_long(refused, trained, tiny, tmp_path):
    line = refused(compare_runs.main, trained, trained, "--csv", tmp_path / ("a" * 300))
    assert "is longer than the system allows" in line
    assert refused(predict.main, "--model", trained, "--file", "a/" * 3000).endswith("a/...: no such file")
    flags = short(tiny("roberta"), tmp_path / "run", validation_file="a/" * 3000)
    assert refused(run_classifier.main, *flags).endswith("/a...: no such file")
    assert "no such folder" in refused(run_classifier.main, *short("/" + "a" * 300, tmp_path / "run"))
    for words in (["hello"], ["--file", SAMPLE / "test.csv"]):
        assert "is not the folder of a run" in refused(predict.main, "--model", "é" * 300, *words)
