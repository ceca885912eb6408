"""The warm Python of these tests does what a new interpreter does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT, WARM_PYTHON

SHOW = """
import json, os, sys, threading
print(json.dumps([
    sys.argv, os.getcwd(), sys.path[0], __name__, os.environ.get("SHOWN"), sys.stdin.read(),
    [name for name in sys.modules if name.split(".")[0] in ("utils", "conftest", "run_classifier")],
    [thread.name for thread in threading.enumerate()],
]))
print("error", file=sys.stderr)
sys.exit(7)
"""


def both(*words, **options):
    """What a new interpreter and the warm one make of a command: exit status, output, errors."""
    done = [
        subprocess.run([python, *map(str, words)], capture_output=True, text=True, check=False, **options)
        for python in (sys.executable, WARM_PYTHON)
    ]
    return [(process.returncode, process.stdout, process.stderr) for process in done]


def test_a_command_finds_what_it_would_in_a_new_interpreter(tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    options = {"cwd": tmp_path, "input": "typed", "env": os.environ | {"SHOWN": "so schön"}}
    for words in (["show.py", "a b", "*"], ["-m", "show", "--flag"], ["-c", SHOW, "-m"]):
        new, warm = both(*words, **options)
        assert warm == new
        assert (warm[0], warm[2]) == (7, "error\n")


def test_ends_that_are_no_exit():
    new, warm = both("-c", "import os; os.kill(os.getpid(), 9)")
    assert warm == new == (-signal.SIGKILL, "", "")
    new, warm = both("-c", "1 / 0")
    assert warm[0] == new[0] == 1
    assert warm[2].splitlines()[-1] == new[2].splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_what_is_no_command_for_the_warm_one_is_run_by_a_new_one():
    assert both("-V")[1] == (0, f"Python {sys.version.split()[0]}\n", "")
    loaded = "import sys; print('torch' in sys.modules)"
    assert both("-c", loaded)[1] == (0, "True\n", "")
    assert both("-c", loaded, env=os.environ | {"HF_HOME": "/elsewhere"})[1] == (0, "False\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_reach_the_command(tmp_path, number):
    code = """
import os, signal, sys, time
def stop(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(3)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
print(os.getpid(), flush=True)
time.sleep(60)
"""
    command = [WARM_PYTHON, "-c", code]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # Where a shell runs the tests in the background, they ignore SIGINT, and what they start does too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    pid = int(process.stdout.readline())
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while os.path.exists(f"/proc/{pid}"):  # the command goes with it
            assert time.monotonic() < deadline
            time.sleep(0.01)
    else:
        assert (process.returncode, output) == (3, f"{number.name}\n")
