"""What trackers get of a run, and that nobody gets a secret."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

import run_classifier
from conftest import ROOT, SAMPLE, WARM_PYTHON, training_flags
from hub_server import MiniHub, online
from utils.core.tables import format_table
from utils.models.generator.label_text import LabelText
from utils.report.tracking import sample_rows
from utils.runs.finished import read_run

SECRETS = {
    "flag": "hf_plantedintheflag",
    "HF_TOKEN": "hf_plantedintheenvironment",
    "WANDB_API_KEY": "planted" * 6,
}


@pytest.fixture(scope="module")
def tracked(tiny, tmp_path_factory):
    """A run tracked by W&B (offline) and TensorBoard with secrets all around, whose push fails in the end: its folder,
    that of W&B, and the finished process."""
    folder = tmp_path_factory.mktemp("tracked")
    hub = MiniHub(token=SECRETS["flag"])
    hub.answers["POST /api/models/me/tracked/commit"] = (500, "Internal")
    flags = {
        "report": True,
        "num_train_epochs": 1,
        "max_train_samples": 64,
        "keep_checkpoints": True,
        "push_to_hub": True,
        "hub_model_id": "me/tracked",
        "hub_token": SECRETS["flag"],
    }
    words = [*training_flags(tiny("roberta"), folder / "run", **flags), "--report_to", "wandb", "tensorboard"]
    environment = online(hub, folder / "home", WANDB_MODE="offline", WANDB_DIR=str(folder), WANDB_PROJECT="emotions")
    environment |= {name: secret for name, secret in SECRETS.items() if name != "flag"}
    process = subprocess.run(
        [sys.executable, "run_classifier.py", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    hub.shutdown()
    hub.server_close()
    return folder, process


def wandb_records(path):
    """The records of a .wandb file, which is a log of LevelDB's form: blocks of 32 KiB; of each part of a record its
    checksum (4 bytes), length (2), kind (1: whole, 2 first, 3 middle, 4 last) and content."""
    data, at, record = path.read_bytes(), 7, b""  # after W&B's own 7 bytes
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def items(entries):
    """`{name: value}` of items of a record, names of nested ones joined by slashes."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in entries}


def test_run_is_finished_though_the_push_failed(tracked):
    folder, process = tracked
    assert process.returncode == 2
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("error: pushing")
    assert "(500)" in last
    later = f"push it later by `python -m utils.hub push {folder / 'run'} --hub_model_id me/tracked`"
    assert later in last
    assert (folder / "run" / "all_results.json").exists()
    assert "Traceback" not in process.stderr


def test_no_secret_is_left_anywhere(tracked):
    folder, process = tracked
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"training_args.bin", "report.html", "debug.log", "output.log", "run_args.json"} <= names
    for secret in SECRETS.values():
        for path in files:
            assert secret.encode() not in path.read_bytes(), path
        assert secret not in process.stdout + process.stderr
    [log] = folder.glob("wandb/offline-run-*/run-*.wandb")
    [arguments] = [
        list(record.environment.args) for record in wandb_records(log) if len(record.environment.args)
    ]  # W&B writes the command line down
    assert arguments[arguments.index("--hub_token") + 1] == "<HUB_TOKEN>"


def test_wandb_has_it_all(tracked):
    folder, _ = tracked
    [log] = folder.glob("wandb/offline-run-*/run-*.wandb")
    config, history = {}, {}
    for record in wandb_records(log):
        config |= items(record.config.update)
        history |= items(record.history.item)
        if record.HasField("run"):
            assert (record.run.project, record.run.display_name) == ("emotions", "run")
    results = json.loads((folder / "run" / "all_results.json").read_text())
    run_args = json.loads((folder / "run" / "run_args.json").read_text())
    assert {name: config[name] for name in ("loss", "pos_weight", "threshold_strategy", "train_file")} == {
        name: run_args[name] for name in ("loss", "pos_weight", "threshold_strategy", "train_file")
    }
    assert config["learning_rate"] == run_args["learning_rate"]
    assert config["preflight/trainable"] == results["trainable_parameters"]
    assert config["preflight/memory/weights"] > 0
    assert history["final/f1_macro_tuned"] == pytest.approx(results["eval_f1_macro_tuned"])
    assert history["eval/f1_macro_tuned"] == pytest.approx(results["eval_f1_macro_tuned"])
    assert history["final/f1/joy"] == pytest.approx(results["eval_f1/joy"])
    assert not any(name.startswith("test/") for name in history)  # there are no test rows
    files = log.parent / "files"
    for name in ("label_f1", "precision_recall", "co_occurrence", "calibration", "training_curves"):
        assert (files / history[f"pictures/{name}/path"]).read_bytes()[1:4] == b"PNG"

    tables = {name: json.loads((files / history[f"{name}/path"]).read_text()) for name in ("labels", "samples")}
    labels = pd.DataFrame(tables["labels"]["data"], columns=tables["labels"]["columns"]).set_index("label")
    saved = json.loads((folder / "run" / "thresholds.json").read_text())["thresholds"]
    assert labels["threshold"].to_dict() == pytest.approx(saved)
    assert labels.loc["joy", "f1"] == pytest.approx(results["eval_f1/joy"])
    samples = pd.DataFrame(tables["samples"]["data"], columns=tables["samples"]["columns"])
    assert len(samples) == 50
    truth = pd.read_csv(SAMPLE / "validation.csv").set_index("Tweet")
    for _, row in samples.iterrows():
        names = [name for name in labels.index if truth.loc[row["text"], name] == 1]
        assert row["true"] == (", ".join(names) or "(none)")
        assert 0 < row["p(joy)"] < 1


def test_tensorboard_has_it_too(tracked):
    folder, _ = tracked
    [events] = (folder / "run" / "runs").iterdir()
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    results = json.loads((folder / "run" / "all_results.json").read_text())
    for name in ("eval/f1_macro_tuned", "final/f1_macro_tuned"):
        assert accumulator.Scalars(name)[-1].value == pytest.approx(results["eval_f1_macro_tuned"])
    assert "pictures/label_f1" in accumulator.Tags()["images"]
    assert {"config/text_summary", "labels/text_summary", "samples/text_summary"} <= set(accumulator.Tags()["tensors"])


def test_samples_of_a_generator_show_the_labels_of_its_answers(trained, tmp_path):
    run = read_run(trained)
    label_text = LabelText(run.task.labels, run.task.labels[::-1], "nothing")
    decoded = np.zeros_like(run.predictions.truth)
    decoded[::2, :2] = 1
    run.predictions.decoded = decoded
    header, rows = sample_rows(run, label_text.write, most=10**6)
    frame = pd.DataFrame(rows, columns=header)
    assert list(frame["text"]) == run.predictions.texts
    assert set(frame["answered"][::2]) == {", ".join(label_text.order[-2:])}
    assert set(frame["answered"][1::2]) == {"nothing"}


@given(st.lists(st.tuples(st.text(), st.text(), st.floats(0, 1)), min_size=1))
def test_a_row_of_markdown_is_one_line(rows):
    lines = format_table(["text", "true", "p"], rows, markdown=True).splitlines()
    assert len(lines) == len(rows) + 2


def test_trackers_that_cannot_track_are_refused_before_the_model_is_loaded(refused, tmp_path):
    flags = training_flags("no-such-model", tmp_path / "run")
    assert "codecarbon" in refused(run_classifier.main, *flags, "--report_to", "codecarbon")
    assert "nowhere is not supported" in refused(run_classifier.main, *flags, "--report_to", "nowhere")
    environment = os.environ | {"WANDB_MODE": "online", "HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    environment.pop("WANDB_API_KEY", None)
    done = subprocess.run(
        [WARM_PYTHON, "run_classifier.py", *flags, "--report_to", "wandb"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert "WANDB_MODE=offline" in done.stderr.strip().splitlines()[-1]
