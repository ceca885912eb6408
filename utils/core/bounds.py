"""Bounds of time and memory for what strangers' templates compute."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.core.errors import UserError

SECONDS = 3  # of this process's own computing; a prompt takes thousandths of one
BYTES = 2**30  # beyond what the process has


class _TooLong(BaseException):
    """None of the exceptions that a template engine catches while it computes constants."""


@contextmanager
def bounded(what: str) -> Generator[None]:
    """End the block with an error when it has computed for too long or wants too much memory.

    The clock works in the main thread, the bound of memory where the system tells what a process has (Linux).

    Args:
        what: is computed, for the message.

    Raises:
        UserError: for a block that does not end, or takes too much memory.
    """

    def stop(number: int, frame: object) -> None:
        raise _TooLong

    timed = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGVTALRM, stop) if timed else None
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + BYTES
        if limits[0] == resource.RLIM_INFINITY or most < limits[0]:
            resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        yield
    except _TooLong as error:
        raise UserError(f"{what} does not end: {SECONDS} seconds of computing were too few") from error
    except MemoryError as error:
        raise UserError(f"{what} makes too much text: it wants more than {BYTES // 2**20} MiB") from error
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, earlier)
        resource.setrlimit(resource.RLIMIT_AS, limits)
