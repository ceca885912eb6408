"""Errors of the user: one line instead of a traceback. A traceback is for bugs in this code."""

from __future__ import annotations

import errno
import functools
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TextIO, TypeVar

from utils.core.shown import LONGEST_MESSAGE, printable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SIGPIPE_STATUS = 141  # 128 + SIGPIPE: the status that a shell shows when a program's reader has gone


class UserError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what to do."""


def exit_on_user_error(main: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a script's `main`: a `UserError` becomes one line on stderr and exit status 2.

    If the reader of stdout has gone (`| head -1`), the script ends silently with the status of a closed pipe.
    """

    @functools.wraps(main)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            try:
                return main(*args, **kwargs)
            except UserError as error:
                _refuse(error)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # a closed pipe must show up here, where it is caught
        except OSError as error:
            if _disk_is_full(error):
                _give_up_stdout()
                _refuse(UserError(f"{error}: free some space, or write to another disk"))
            if not isinstance(error, BrokenPipeError) or not _reader_has_gone(sys.stdout):
                raise  # another pipe broke, for example the connection to a tracker
            _give_up_stdout()
            sys.exit(SIGPIPE_STATUS)

    return wrapper


def _give_up_stdout() -> None:
    """Lead stdout to /dev/null where it cannot be written: Python flushes it again at exit, which would fail too."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(error: UserError) -> NoReturn:
    """End with a line and exit status 2."""
    # All processes of a launch fail with the same error; the first on each machine prints it.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {_one_line(error)}", file=sys.stderr)
    sys.exit(2)


def _disk_is_full(error: OSError) -> bool:
    """Whether nothing more can be written, as Python, shutil and Arrow say it; Arrow and shutil in words alone."""
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def _one_line(error: UserError) -> str:
    """The message in one line; of a very long one the beginning and the end, which says what to do."""
    text = printable(" ".join(str(error).split()))
    half = LONGEST_MESSAGE // 2
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} [...] {text[-half:]}"


def _reader_has_gone(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
