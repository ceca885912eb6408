"""What goes wrong with the Hub, in one line and without secrets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from utils.core.errors import UserError

Answer = TypeVar("Answer")

WHAT_TO_DO = {
    401: "log in again by `hf auth login`, or set HF_TOKEN to a token that is valid",
    403: "the token may not write there: give it the right to, or choose another --hub_model_id",
    404: "no such repository or account, or the token may not see it: check the name, and log in by `hf auth login`",
    409: "somebody else is changing the repository: try again",
    429: "too many requests: try again in some minutes",
}


# Seconds to wait before trying again where the Hub is busy or has trouble.
WAITS = (1, 3)


def with_retries(request: Callable[[], Answer]) -> Answer:
    """What a request to the Hub gives; where the Hub is busy (429) or has trouble (5xx) it is made again."""
    from huggingface_hub.errors import HfHubHTTPError

    for wait in WAITS:
        try:
            return request()
        except HfHubHTTPError as error:
            if error.response.status_code != 429 and error.response.status_code < 500:
                raise
            time.sleep(wait)
    return request()


@contextmanager
def hub_errors(doing: str, token: str | None = None, later: str | None = None) -> Generator[None]:
    """Turn what goes wrong with the Hub in the block into a `UserError` of one line, without the token.

    Args:
        doing: what was being done, at the beginning of the line.
        token: to leave out.
        later: the command to try again by.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    def user_error(reason: str, todo: str) -> UserError:
        again = f". The run is complete; push it later by {later}" if later else ""
        text = f"{doing}: {reason}: {todo}{again}"
        secrets = (token, os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"))
        for secret in filter(None, secrets):
            text = text.replace(secret, "<HUB_TOKEN>")
        return UserError(text)

    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last ones of LFS and Xet
        # Of files that are not in the cache either, the cause is why they could not be fetched.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        if isinstance(cause, OfflineModeIsEnabled):
            raise user_error("HF_HUB_OFFLINE is set", "unset it to reach the Hub") from error
        if isinstance(cause, OSError) and cause.filename:
            raise user_error(f"{cause.filename}: {cause.strerror}", "see to that file") from error
        if not isinstance(cause, HfHubHTTPError):
            said = " ".join(str(cause).split())[:300]
            raise user_error(said or type(cause).__name__, "check the network of this machine") from error
        status = cause.response.status_code
        said = f", {' '.join(cause.server_message.split())[:200]}" if cause.server_message else ""
        todo = WHAT_TO_DO.get(status, "the Hub has trouble of its own: try again" if status >= 500 else "see there")
        raise user_error(f"the Hub says no ({status}){said}", todo) from error
