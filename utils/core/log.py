"""Messages for the person at the terminal, while a script works.

Inside a script only these functions reach the terminal: what libraries print is kept aside (`utils.core.noise`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TextIO

from utils.core.shown import printable


def terminal(stream: TextIO) -> TextIO:
    """The terminal behind `sys.stdout` or `sys.stderr`, where the words of libraries are kept from it."""
    return getattr(stream, "terminal", stream)


def is_main_process() -> bool:
    """Whether this is the first process of a launch, or the only one.

    The launcher says so by an environment variable; asking accelerate would load torch.
    """
    return os.environ.get("RANK", "0") == "0"


def log(message: str) -> None:
    """Print a line to stderr, in the main process of a launch only: what is being done."""
    if is_main_process():
        with _through(sys.stderr):
            print(printable(message), file=sys.stderr, flush=True)


def say(*parts: object, sep: str = " ", end: str = "\n", flush: bool = False) -> None:
    """Print to stdout: what a script was asked for. As `print` does, but with `?` for signs that stdout does not have,
    and no control characters.

    Args:
        parts: what to print.
        sep: between them.
        end: behind them.
        flush: whether it shall be seen at once, also where stdout is no terminal.
    """
    stream, text = terminal(sys.stdout), printable(sep.join(map(str, parts)))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with _through(sys.stdout):
        print(text.encode(encoding, "replace").decode(encoding), end=end, flush=flush)


def silence_deepspeed() -> None:
    """Keep DeepSpeed from saying on stdout that there is no GPU.

    It is imported wherever it is installed, and stdout may be a file of predictions.
    """
    logging.getLogger("DeepSpeed").addFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Setting accelerator to CPU")


@contextmanager
def libraries_speak() -> Generator[None]:
    """While it is open, what libraries print goes to the terminal after all: they ask for something."""
    with _through(sys.stdout), _through(sys.stderr):
        yield


def _through(stream: TextIO) -> AbstractContextManager:
    """While it is open, `stream` leads to the terminal. Written to it all the same: W&B copies what passes there."""
    return getattr(stream, "through", nullcontext)()
