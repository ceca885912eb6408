"""`python demo.py --export_space`: a folder that starts by itself, and goes to the Hub."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import demo
from conftest import ROOT, SAMPLE
from demo_server import Served
from hub_server import MiniHub, Repository, online
from utils.core.files import read_json
from utils.runs.folder import load_task

pytest.importorskip("gradio", reason="the extra is not installed: requirements-demo.txt")

PUSH = "import sys\nfrom utils.hub.space import push_space\npush_space(sys.argv[1], sys.argv[2], True)"


@pytest.fixture(scope="module")
def space(trained, made_once):
    flags = ["--model", str(trained), "--export_space"]
    return made_once("spaces/trained", lambda folder: demo.main([*flags, str(folder)]))


def check_answers(server, trained):
    """The Space says what the run has said of its validation rows."""
    server.wait()
    assert server.process.poll() is None, server.said()
    labels = load_task(trained).labels
    saved = pd.read_parquet(trained / "predictions" / "validation.parquet")[:5]
    try:
        status, rows = server.call("predict_many", list(saved["text"]))
    except OSError as error:
        raise AssertionError(server.said()) from error
    assert status == 200
    found = np.array([[row["probabilities"][label] for label in labels] for row in rows])
    assert np.abs(found - saved[[f"probability/{label}" for label in labels]].to_numpy()).max() < 0.01
    thresholds = read_json(trained / "thresholds.json")["thresholds"]
    for row in rows:
        assert row["labels"] == [x for x, p in row["probabilities"].items() if p >= thresholds[x]]
    end = time.monotonic() + 60  # Gradio answers before it is done with its start
    while not server.said() and time.monotonic() < end:
        time.sleep(0.1)
    assert server.said() == f"page and HTTP interface: {server.url} (Ctrl-C ends it)\n"


@pytest.mark.processes
def test_it_starts_without_the_project(space, trained):
    server = Served("app.py", folder=space, PYTHONPATH="", PYTHONUNBUFFERED="1")
    try:
        check_answers(server, trained)
    finally:
        server.stop()


@pytest.mark.fresh
def test_it_starts_in_an_environment_of_its_own(space, trained, tmp_path):
    """Minutes, and 2 GB: all packages are installed. `make test` leaves it out."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", space / "requirements.txt"], check=True)
    server = Served("app.py", folder=space, python=python, PYTHONPATH="", PYTHONUNBUFFERED="1")
    try:
        check_answers(server, trained)
    finally:
        server.stop()


def test_it_holds_what_it_needs_and_no_texts(space):
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "run/model.safetensors", "run/manifest.json"} <= files
    assert not any(
        name.startswith(("run/predictions", "utils/training", "utils/hub", "utils/report")) for name in files
    )
    pins = (space / "requirements.txt").read_text().split()
    ours = {line for path in ROOT.glob("requirements*.txt") for line in path.read_text().splitlines()}
    assert set(pins) <= ours
    text = next(iter(pd.read_csv(SAMPLE / "validation.csv")["Tweet"]))
    readable = [path.read_text(encoding="utf-8") for path in space.rglob("*") if path.suffix in (".json", ".md", ".py")]
    assert not any(text in content or str(ROOT) in content for content in readable)


def test_it_is_pushed_in_one_commit(space, tmp_path):
    hub = MiniHub()

    def push(name):
        environment = online(hub, tmp_path, HF_TOKEN=hub.token)
        command = [sys.executable, "-c", PUSH, space, name]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = push("me/space")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["spaces/me/space"]
    pushed = {path.relative_to(space).as_posix(): path.read_bytes() for path in space.rglob("*") if path.is_file()}
    pushed = {name: content for name, content in pushed.items() if "__pycache__" not in name}
    assert repository.private
    assert repository.sdk == "gradio"
    assert {name: content for name, content in repository.files.items() if name != ".gitattributes"} == pushed
    assert len(repository.messages) == 1
    # An earlier one of ours is replaced, somebody's other Space is not.
    repository.files["utils/core/gone.py"] = repository.files["notes.md"] = b"old"
    assert push("me/space").returncode == 0
    assert "utils/core/gone.py" not in repository.files
    assert repository.files["notes.md"] == b"old"
    hub.repositories["spaces/me/other"] = Repository(True, {"game.py": b""})
    assert "other files: choose another name" in push("me/other").stderr
    hub.repositories["spaces/me/public"] = Repository(False)
    assert "exists and is public" in push("me/public").stderr
    hub.shutdown()
    hub.server_close()


def test_mistakes(trained, space, tmp_path, refused):
    flags = ["--model", trained]
    assert "pass --overwrite" in refused(demo.main, *flags, "--export_space", space)
    assert "holds a run" in refused(demo.main, *flags, "--export_space", trained)
    assert "one --model" in refused(demo.main, *flags, tmp_path, "--export_space", tmp_path / "space")
    assert "HF_HUB_OFFLINE is set" in refused(demo.main, *flags, "--push_space", "me/space")
    assert "form user/name" in refused(demo.main, *flags, "--push_space", "me/my/space")
    assert json.loads((space / "run" / "task.json").read_text())["labels"]
    assert os.listdir(tmp_path) == []
