"""A Hub that fails in the middle, is in a hurry, or lies; and processes that are killed while they push."""

import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from conftest import ROOT
from hub_server import Repository, caller
from utils.runs.folder import RUN_FILES, matches

PULL = "from utils.hub.pull import local_folder; print(local_folder({!r}))"
# Shorter than what people should wait for: nothing waits longer than five seconds for a Hub that is silent.
IMPATIENT = (
    "import utils.hub.errors as errors, utils.hub.pull, utils.hub.push; errors.WAITS = (0, 0); "
    "errors.PATIENCE = utils.hub.pull.PATIENCE = utils.hub.push.PATIENCE = 5"
)


@pytest.fixture(scope="module")
def caller_(hub, home):
    seconds = {"HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "5"}
    with caller(hub, home, ROOT, "utils.hub.push", "utils.hub.pull", "utils.models.loading", **seconds) as call:
        yield call


@pytest.fixture
def call(hub, home, caller_):
    """`call(module, ...)` in a fork of a process that speaks to the Hub, with an empty cache."""
    hub.troubles, hub.requests, hub.retry_after = [], [], "1"
    shutil.rmtree(home / "hub", ignore_errors=True)
    yield caller_
    hub.troubles = []


@pytest.fixture(scope="module")
def run(hub, trained, caller_):
    """A finished run that has a repository, me/run, as one would find it there."""
    status, output = caller_("utils.hub.push", "push", trained, "--hub_model_id", "me/run")
    assert status == 0, output
    return trained


def kill(home):
    """What kills the process that is asking."""
    return lambda: os.kill(int((home / "pid").read_text()), signal.SIGKILL)


def pull(call, name="me/run"):
    status, output = call("exec", f"from utils.core.errors import exit_on_user_error\n{IMPATIENT}\n"
                                  f"@exit_on_user_error\ndef main():\n    {PULL.format(name)}\nmain()")  # fmt: skip
    assert "Traceback" not in output, output
    return status, (output.strip().splitlines() or [""])[-1]


def names_of(folder, hub):
    files = hub.repositories["me/run"].files
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all(files[name] == content for name, content in found.items())
    return set(found)


def needed(hub):
    """What is pulled of a run."""
    needed = [file for file in RUN_FILES if file.needed]
    return {name for name in hub.repositories["me/run"].files if matches(name, needed)}


@pytest.mark.processes
@pytest.mark.parametrize(
    "troubles",
    [
        [("GET /api/models/me/run", 500), ("HEAD /me/run/resolve", 503), ("GET /me/run/resolve", 502)],
        [("GET /api/models/me/run", 429), ("HEAD /me/run/resolve", 429), ("GET /me/run/resolve", 429)],
        [("GET /api/models/me/run", "reset"), ("GET /me/run/resolve", "cut"), ("GET /me/run/resolve", "reset")],
        [("GET /api/models/me/run", "cut"), ("GET /me/run/resolve", "cut"), ("GET /me/run/resolve", "cut")],
        [("GET /api/models/me/run", "silent"), ("GET /me/run/resolve", "silent")],
        [("GET /me/run/resolve", "short"), ("GET /api/models/me/run", 503)],
    ],
)
def test_a_pull_goes_on_after_trouble(hub, run, call, troubles, tmp_path):
    hub.troubles = list(troubles)
    status, line = pull(call)
    assert status == 0, line
    assert not hub.troubles
    assert names_of(Path(line), hub) == needed(hub)


@pytest.mark.processes
def test_a_hub_that_is_in_trouble_for_good(hub, run, call):
    for kind, words in ((500, "trouble of its own"), ("reset", "network"), ("silent", "network"), ("cut", "network")):
        start = "GET /api/models/me/run" if kind == "silent" else "GET /me/run/resolve"
        hub.troubles = [(start, kind)] * 300
        status, line = pull(call)
        assert (status, line.startswith("error: me/run: ")) == (2, True), line
        assert words in line, line
    hub.troubles, hub.retry_after = [("GET /api/models/me/run", 429)] * 300, "3600"
    status, line = pull(call)
    hub.retry_after = "1"
    assert "too many requests: try again in 3600 s" in line
    assert Counter(hub.requests)["GET /api/models/me/run"] > 0
    hub.troubles = []
    assert pull(call)[0] == 0


@pytest.mark.processes
@pytest.mark.parametrize("name", ["task.json", "model.safetensors", "tokenizer.json", "manifest.json"])
def test_a_hub_that_sends_other_files_than_it_lists(hub, run, call, name):
    """Of another size, or of other bytes: of weights all are read when they arrive, and again when they did not fit."""
    resolve = f"GET /me/run/resolve/{hub.repositories['me/run'].commit}/{name}"
    for kind in ("short", "long", "changed"):
        hub.troubles = [(resolve, kind)] * 300
        status, line = pull(call)
        assert (status, line.startswith("error: ")) == (2, True), (kind, line)
        assert pull(call)[0] == 2, kind
    hub.troubles = []
    assert pull(call)[0] == 0


@pytest.mark.processes
def test_hostile_repositories(hub, run, call, home):
    """None brings a file of another name, leads out of the cache, or ends in anything but a line."""
    bomb = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x0atouch pwned\x94\x85\x94R\x94."
    good = hub.repositories["me/run"].files
    cases = {
        "climbs": ({"../../../evil.json": b"{}"}, "leads out of its folder"),
        "absolute": ({"/etc/tokenizer.json": b"{}"}, "leads out of its folder"),
        "backslash": ({"..\\tokenizer.json": b"{}"}, "leads out of its folder"),
        "task-list": ({"task.json": b"[]"}, "is not a run of these scripts"),
        "task-deep": ({"task.json": b"[" * 100_000}, "is not a run of these scripts"),
        "task-labels": ({"task.json": b'{"labels": 3}'}, "is not a run of these scripts"),
        "pickle": ({"pytorch_model.bin": bomb, "model.safetensors": None}, "has lost its model.safetensors"),
        "cut-weights": ({"model.safetensors": good["model.safetensors"][:100]}, "is not what it was"),
        "control": ({"tokenizer\x1b[2J.json": b"{}"}, "\\u001b[2J.json was not there when the run was finished"),
        "no-manifest": ({"manifest.json": None}, "it has no manifest.json"),
        "manifest-climbs": ({"manifest.json": b'{"files": {"../x.json": {"size": 1, "sha256": "0"}}}'}, "damaged"),
        "extra-code": ({"modeling.py": b"raise SystemExit", "config.json": None}, "has lost its config.json"),
    }
    for name, (changes, words) in cases.items():
        hub.repositories[f"bad/{name}"] = Repository(False)
        hub.repositories[f"bad/{name}"].files |= {**good, **changes}
        for path in [path for path, content in hub.repositories[f"bad/{name}"].files.items() if content is None]:
            del hub.repositories[f"bad/{name}"].files[path]
        status, line = pull(call, f"bad/{name}")
        assert (status, line.startswith("error: ")) == (2, True), (name, line)
        assert words in line, (name, line)
        assert "\x1b" not in line
    assert not list(home.rglob("*.bin")), "a pickle was loaded"
    assert not list(home.rglob("*.py"))
    assert not list(home.parent.rglob("evil.json"))
    assert all(path.resolve().is_relative_to(home.resolve()) for path in home.rglob("*"))


# Pushing

PUSH = ("POST /api/repos/create", "GET /api/models/me/", "POST /api/models/me/{}/preupload", "POST /me/{}.git/info/lfs",
        "PUT /lfs/", "POST /api/models/me/{}/commit")  # fmt: skip


def push(call, run, name, *flags):
    words = ["push", str(run), "--hub_model_id", f"me/{name}", *flags]
    status, output = call("exec", f"{IMPATIENT}\nfrom utils.hub.push import main; main({words!r})")
    assert "Traceback" not in output, output
    return status, (output.strip().splitlines() or [""])[-1]


@pytest.mark.processes
@pytest.mark.parametrize("kind", [500, 429, "reset", "silent"])
def test_a_push_goes_on_after_trouble(hub, run, call, kind):
    name = f"pushed-{kind}"
    met = (PUSH[0], PUSH[5]) if kind == "silent" else PUSH
    hub.troubles = [(start.format(name), kind) for start in met]
    status, line = push(call, run, name)
    assert status == 0, line
    assert not hub.troubles
    assert hub.repositories[f"me/{name}"].files.keys() == hub.repositories["me/run"].files.keys()
    assert hub.repositories[f"me/{name}"].messages == ["A finished run"]


@pytest.mark.processes
def test_a_push_that_fails_for_good_can_be_made_later(hub, run, call):
    for i, start in enumerate((PUSH[0], PUSH[5])):
        name = f"later-{i}"
        hub.troubles = [(start.format(name), "reset")] * 300
        status, line = push(call, run, name, "--skip_checks")
        assert status == 2, line
        assert f"push it later by `python -m utils.hub push {run} --hub_model_id me/{name} --skip_checks`" in line
        hub.troubles = []
        assert push(call, run, name)[0] == 0
        assert set(hub.repositories[f"me/{name}"].files) == set(hub.repositories["me/run"].files)


@pytest.mark.processes
@pytest.mark.parametrize("number", range(len(PUSH)))
def test_a_push_that_is_killed_leaves_a_whole_run_or_none(hub, run, call, home, number):
    """Killed at each of its requests; given again, it brings the run whole. The run here stays as it was."""
    name, before = f"killed-{number}", sorted(path.name for path in run.iterdir())
    hub.troubles = [(PUSH[number].format(name), kill(home))]
    assert push(call, run, name)[0] == -signal.SIGKILL
    whole = set(hub.repositories["me/run"].files)
    there = hub.repositories.get(f"me/{name}")
    assert there is None or set(there.files) in ({".gitattributes"}, whole)
    status, line = push(call, run, name)
    assert status == 0, line
    assert set(hub.repositories[f"me/{name}"].files) == whole
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.processes
@pytest.mark.parametrize("start", ["GET /api/models/me/run", "HEAD /me/run/resolve", "GET /me/run/resolve"])
def test_a_pull_that_is_killed_is_made_whole_by_the_next(hub, run, call, home, start):
    hub.troubles = [(start, kill(home))]
    assert pull(call)[0] == -signal.SIGKILL
    status, line = pull(call)
    assert status == 0, line
    assert names_of(Path(line), hub) == needed(hub)
