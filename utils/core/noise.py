"""What libraries print while a script works: kept from the terminal, and written to a file of the run.

Loading reports, progress bars of their own, warnings and log lines are for somebody who looks for a cause; between the
lines of the script they hide what matters. Records of level ERROR go to the terminal too, and so does everything when
the script ends by a traceback.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from utils.core.errors import UserError
from utils.core.log import terminal

# Loggers that hand their records to nobody else; errors are looked for in the root logger and in these.
LOGGERS = ("", "transformers", "DeepSpeed")
MOST_KEPT = 1_000_000  # characters kept while there is no file


class LibraryNoise:
    """While its block runs, only `utils.core.log` writes to the terminal."""

    def __init__(self):
        self.path: Path | None = None
        self.kept: list[str] = []  # lines, while there is no file

    def __enter__(self) -> LibraryNoise:
        self.streams = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = (_Aside(self, stream) for stream in self.streams)
        # Handlers that libraries have made before hold the terminal.
        handlers: list[Any] = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
        self.moved = [(handler, handler.stream) for handler in handlers if type(handler) is logging.StreamHandler]
        for handler, _ in self.moved:  # not those of its subclasses, which write to files
            handler.stream = sys.stderr  # setStream would flush the old one, which may be closed
        self.handlers = [_ErrorsToTerminal(logging.ERROR), logging.StreamHandler(sys.stderr)]
        self.handlers[1].setLevel(logging.WARNING)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self.handlers[0])
        logging.getLogger().addHandler(self.handlers[1])  # else Python prints the records that nobody takes
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.end()
        if isinstance(error, Exception) and not isinstance(error, UserError | BrokenPipeError):
            if self.path is not None:
                print(f"what libraries said before is in {self.path}", file=sys.stderr)
            print(*self.kept, sep="", end="", file=sys.stderr)

    def end(self) -> None:
        """Let libraries print to the terminal again."""
        if not isinstance(sys.stderr, _Aside) or sys.stderr.noise is not self:
            return
        for stream in (sys.stdout, sys.stderr):
            stream.write("\n")  # the last line may not be complete
        sys.stdout, sys.stderr = self.streams
        for handler, stream in self.moved:
            handler.stream = stream
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self.handlers[0])
        logging.getLogger().removeHandler(self.handlers[1])

    def write(self, line: str) -> None:
        """Keep a line, or write it to the file. Several processes write to one file, line by line."""
        if self.path is None:
            if sum(map(len, self.kept)) < MOST_KEPT:
                self.kept.append(line)
            return
        rank = os.environ.get("RANK", "0")
        with suppress(OSError), open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line if rank == "0" else f"[{rank}] {line}")  # a full disk is told by what matters more

    def write_to(self, path: str | Path) -> None:
        """Write what was kept, and what will be, to a file, behind what is in it."""
        self.path = Path(path)
        kept, self.kept = self.kept, []
        for line in kept:
            self.write(line)


def keep_noise_in(path: str | Path) -> None:
    """Write what libraries print in this script to a file from now on, with what they have printed so far."""
    if isinstance(sys.stderr, _Aside):
        sys.stderr.noise.write_to(path)


def end_noise() -> None:
    """Let libraries print to the terminal for the rest of the script, and leave the file as it is."""
    if isinstance(sys.stderr, _Aside):
        sys.stderr.noise.end()


class _Aside(io.TextIOBase):
    """A standard stream that gives lines to a `LibraryNoise`. A bar that was drawn over and over is its last state.

    Args:
        noise: that takes the lines.
        stream: the standard stream in whose place it stands.
    """

    def __init__(self, noise: LibraryNoise, stream: TextIO):
        self.noise, self.terminal, self.partial = noise, terminal(stream), ""
        self.name = "<stdout>" if stream is sys.stdout else "<stderr>"
        self.is_open = 0  # to the terminal, by so many

    # As libraries ask standard streams; a file has no colours.
    encoding = "utf-8"
    errors = "backslashreplace"

    def fileno(self) -> int:
        return self.terminal.fileno()

    def writable(self) -> bool:
        return True

    @contextmanager
    def through(self) -> Generator[None]:
        """While it is open, what is written goes to the terminal: for `utils.core.log`."""
        self.is_open += 1
        try:
            yield
        finally:
            self.is_open -= 1

    def write(self, text: str) -> int:
        if self.is_open:
            return self.terminal.write(text)
        now = sys.stdout if self.name == "<stdout>" else sys.stderr
        if now is not self:  # a handler that a library has made meanwhile outlives the script
            return now.write(text)
        *lines, self.partial = (self.partial + text).split("\n")
        for line in lines:
            self._keep(line)
        return len(text)

    def flush(self) -> None:
        if self.is_open:
            self.terminal.flush()

    def _keep(self, line: str) -> None:
        shown = line.rstrip("\r").rpartition("\r")[2]
        if shown.strip():
            self.noise.write(f"{shown}\n")


class _ErrorsToTerminal(logging.Handler):
    """Shows the person at the terminal what a library calls an error."""

    shown: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> Any:
        """Print the message, once: a logger that hands its records on (transformers does where CI=true) comes twice."""
        if record is self.shown:
            return
        self.shown = record
        print(f"{record.name}: {record.getMessage()}", file=terminal(sys.stderr), flush=True)
