"""Mistakes of the user are told in one line; a traceback is kept for our own bugs."""

import functools
import os
import select
import sys


class UserError(Exception):
    """Something the user can put right. The message says what was wrong, where, and what to do."""


def exit_on_user_error(main):
    """Decorate a script's `main`: a `UserError` becomes one line on stderr and exit status 2.

    Where nobody reads the output any more (`| head -1`), the script ends without a word.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            try:
                return main(*args, **kwargs)
            except UserError as error:
                # Every process of a launch meets the same mistake; one of them tells it.
                if os.environ.get("LOCAL_RANK", "0") == "0":
                    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
                sys.exit(2)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # while a closed pipe can still be caught
        except BrokenPipeError:
            if not _nobody_reads(sys.stdout):
                raise  # of something else, a tracker's connection say
            # Python writes what is left when it ends, and would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # 128 + SIGPIPE: what a shell shows of other programs in a pipe that is closed

    return wrapper


def _nobody_reads(stream):
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
