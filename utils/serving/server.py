"""Serving the demo page until somebody ends it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any

from utils.core.errors import UserError
from utils.core.log import say


@contextmanager
def own_temporary_folder() -> Generator[None]:
    """Keep uploaded files in a folder that is removed when the block ends."""
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def serve(
    page: Any, host: str | None = None, port: int | None = None, share: bool = False, known_as: Collection[str] = ()
) -> None:
    """Serve a page until Ctrl-C or SIGTERM, and say where.

    Args:
        page: of `build_page`.
        host: address to listen on; None: that of Gradio's environment variable, else this machine's own.
        port: likewise.
        share: whether Gradio gives it a public address too.
        known_as: further names of this server, as a proxy's before it.

    Raises:
        UserError: for an address that is taken, or not of this machine.
    """
    from utils.serving.page import launch

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        _, local, public = launch(page, host, port, share, known_as)
    except OSError as error:
        raise UserError(f"{error}: cannot listen there: choose another --host or --port") from error
    say(f"page and HTTP interface: {local}{f', {public}' if public else ''} (Ctrl-C ends it)", flush=True)
    page.block_thread()
