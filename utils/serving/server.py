"""Serving the demo page until somebody ends it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator
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


def serve(page: Any, host: str, port: int, share: bool) -> None:
    """Serve a page until Ctrl-C or SIGTERM.

    Args:
        page: of `build_page`.
        host: address to listen on.
        port: likewise.
        share: whether Gradio gives it a public address too.

    Raises:
        UserError: for an address that is taken, or not of this machine.
    """
    from utils.serving.page import launch

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        _, local, public = launch(page, server_name=host, server_port=port, share=share, prevent_thread_lock=True)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there: choose another port") from error
    say(f"page and HTTP interface: {local}{f', {public}' if public else ''} (Ctrl-C ends it)", flush=True)
    page.block_thread()
