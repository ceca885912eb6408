"""A Python that has imported the heavy libraries once and forks for every command, in place of a start for each.

A start of a script costs 7 to 9 CPU seconds of imports. Tests that run commands by the dozen put the folder that
`write_commands` fills on their PATH: its `python` and `accelerate` hand their command to the server, which forks a
clean process for it.

- The server has the libraries of `import_libraries` imported, none of this repository's modules, and has computed
  nothing: there are no threads that a fork would lose. It imports with the first command, so it costs nothing unused.
- The command has its own arguments, folder, environment and standard streams, and ends as any interpreter does.
- `python` passes signals on to the command and ends as it does; killed, it takes the command with it.
- A command that a warm interpreter cannot stand in for starts a new one: options of the interpreter (`python -I ...`),
  or another value of a variable that libraries read while they are imported.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

ADDRESS = "WARM_PYTHON"  # the variable of the environment that says where the server listens
# Read while libraries are imported, or by the interpreter at its start.
READ_EARLY = ("HF_", "OMP_", "MKL_", "CUDA_", "PYTHON", "LD_")
NOT_READ_EARLY = ("PYTHONUNBUFFERED", "PYTHON_EXEC")
LIBRARIES = (
    "accelerate.commands.launch",
    "datasets",
    "matplotlib.figure",
    "pandas",
    "peft",
    "scipy.stats",
    "sklearn.metrics",
    "torch.distributed.run",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "roberta", "qwen2", "qwen3")),
    "transformers.trainer",
    "trl.scripts.utils",
    "trl.trainer.sft_trainer",
)
STARTED = os.getpid()  # in the server and its commands: the server
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def read_early(environment) -> dict[str, str]:
    """The variables that must be the server's own, or a fork of it would not do what a new interpreter does."""
    return {
        name: value for name, value in environment.items() if name.startswith(READ_EARLY) and name not in NOT_READ_EARLY
    }


# The server


class KeptDirectory(tempfile.TemporaryDirectory):
    """A temporary folder; one made at import is kept, or the first command to end would remove it for all of them."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if os.getpid() == STARTED:
            self._finalizer.detach()

    def cleanup(self):
        """Remove it, unless it is kept: `start`'s caller then removes the folder that it lies in."""
        if self._finalizer.alive:
            super().cleanup()


def import_libraries() -> None:
    """Import what the scripts import, with what transformers and TRL would import at the first use of a name."""
    tempfile.tempdir = os.path.dirname(os.environ[ADDRESS])
    with patch("tempfile.TemporaryDirectory", KeptDirectory):
        for name in LIBRARIES:
            importlib.import_module(name)
    tempfile.tempdir = None


def serve(listener: socket.socket) -> None:
    """Fork for each connection until standard input ends, which it does with the process that started the server."""
    signal.signal(signal.SIGCHLD, lambda number, frame: reap())
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            return
        connection, _ = listener.accept()
        import_libraries()
        gc.freeze()  # a command does not collect what it shares with the server: its memory stays shared
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return attend(connection)
        connection.close()


def reap() -> None:
    """Wait for the children that have ended, so that their CPU time counts as that of the tests."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def attend(connection: socket.socket) -> None:
    """Read a command, fork once more to run it, and tell the client its process id, then how it ended."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = json.loads(connection.makefile("rb").readline())
    if request["read_early"] != read_early(os.environ):
        connection.sendall(b"another environment\n")
        os._exit(0)
    pid = os.fork()
    if pid == 0:
        connection.close()
        return run(request, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(b"%d\n" % pid)
    ended = os.pidfd_open(pid)
    if ended not in select.select([connection, ended], [], [])[0]:  # the client is gone
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        connection.sendall(b"%d\n" % status)
    os._exit(0)


def run(request: dict, streams: list[int]) -> None:
    """Become the process of the command, and run it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["unbuffered"]:
        sys.stdout.reconfigure(write_through=True)
    for number in FORWARDED:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
    sys.executable = request["executable"]
    kind, *words = request["words"]
    if kind == "-m":
        sys.argv, sys.path[0] = words, request["folder"]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[0] = ["-c", *words[1:]], ""
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = [kind, *words], os.path.dirname(os.path.realpath(kind))
        runpy.run_path(kind, run_name="__main__")


# The client


def start_new(words: list[str]) -> NoReturn:
    """Become a new interpreter."""
    os.execv(sys.executable, [sys.executable, *words])


def ask(executable: str, words: list[str]) -> int:
    """Have the server run `python *words`; returns the status of that process, as `os.waitpid` gives it."""
    unbuffered = words[:1] == ["-u"]  # as torchrun starts its processes
    command = words[unbuffered:]
    # multiprocessing's own helpers, `-c "from multiprocessing ..."`, hold open files that only a child inherits.
    helper = command[:1] == ["-c"] and command[1].startswith("from multiprocessing")
    if not command or helper or (command[0].startswith("-") and command[0] not in ("-c", "-m")):
        start_new(words)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[ADDRESS])
    request = {
        "words": command,
        "unbuffered": unbuffered or bool(os.environ.get("PYTHONUNBUFFERED")),
        "executable": executable,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "read_early": read_early(os.environ),
        "ignored": [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN],
    }
    # A signal that comes while the command starts waits until it can be passed on.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    socket.send_fds(connection, [b" "], [0, 1, 2])
    connection.sendall(json.dumps(request).encode() + b"\n")
    answers = connection.makefile()
    answer = answers.readline()
    if answer == "another environment\n":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)  # a new interpreter would inherit the mask
        start_new(words)
    pid = int(answer)
    for number in FORWARDED:
        if number not in request["ignored"]:
            signal.signal(number, lambda number, frame: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    return int(answers.readline())


def end_as(status: int) -> NoReturn:
    """End this process as another did: with its exit status, or by the same signal."""
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) in FORWARDED:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


# For conftest.py


def start(folder: Path) -> Callable[[], None]:
    """Start the server, with its socket and its log in `folder`; returns what ends it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "python.socket"))
    listener.listen(64)
    os.environ[ADDRESS] = str(folder / "python.socket")
    with open(folder / "python.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {f"{ADDRESS}_LISTENER": str(listener.fileno())},
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C ends the tests, and they the server
        )
    listener.close()
    return server.communicate


def write_commands(folder: Path, environment: Path) -> Path:
    """Fill `folder` with the commands of a virtual environment, of which `python` and `accelerate` are warm."""
    folder.mkdir(parents=True)
    warm = f'exec "{sys.executable}" -IS "{__file__}" "{folder}/python"'
    commands = {"python": warm, "python3": warm, "accelerate": f'{warm} "{environment}/bin/accelerate"'}
    for path in (environment / "bin").iterdir():
        if path.name not in commands:
            (folder / path.name).symlink_to(path)
    for name, command in commands.items():
        (folder / name).write_text(f'#!/bin/sh\n{command} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve(socket.socket(fileno=int(os.environ[f"{ADDRESS}_LISTENER"])))
    else:
        end_as(ask(sys.argv[1], sys.argv[2:]))
