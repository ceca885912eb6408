"""Mistakes of the user are told in one line; a traceback is kept for our own bugs."""

import functools
import os
import sys


class UserError(Exception):
    """Something the user can put right. The message says what was wrong, where, and what to do."""


def exit_on_user_error(main):
    """Decorate a script's `main`: a `UserError` becomes one line on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            # Every process of a launch meets the same mistake; one of them tells it.
            if os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)

    return wrapper
