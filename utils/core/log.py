"""Messages for the person at the terminal, while a script works."""

import os
import sys

from utils.core.shown import printable


def log(message: str) -> None:
    """Print a line to stderr, in the main process of a launch only.

    The launcher says by an environment variable which process this is; asking accelerate would load torch.
    """
    if os.environ.get("RANK", "0") == "0":
        print(printable(message), file=sys.stderr, flush=True)
