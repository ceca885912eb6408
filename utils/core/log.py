"""Messages for the person at the terminal, while a script works."""

import logging
import os
import sys

from utils.core.shown import printable


def log(message: str) -> None:
    """Print a line to stderr, in the main process of a launch only.

    The launcher says by an environment variable which process this is; asking accelerate would load torch.
    """
    if os.environ.get("RANK", "0") == "0":
        print(printable(message), file=sys.stderr, flush=True)


def send_deepspeed_to_stderr() -> None:
    """Keep DeepSpeed's log out of stdout, which may be a file of predictions: it is imported wherever it is installed.

    That there is no GPU, it says in every process; the preflight says on what a run computes.
    """

    def show(record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith("Setting accelerator to CPU"):
            print(printable(f"DeepSpeed: {record.getMessage()}"), file=sys.stderr, flush=True)
        return False

    logger = logging.getLogger("DeepSpeed")
    for earlier in logger.filters[:]:
        logger.removeFilter(earlier)
    logger.addFilter(show)
