"""What goes wrong with the Hub, in one line and without secrets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from utils.core.errors import UserError
from utils.core.log import log

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

Answer = TypeVar("Answer")

WHAT_TO_DO = {
    401: "log in again by `hf auth login`, or set HF_TOKEN to a token that is valid",
    403: "the token may not write there: give it the right to, or choose another --hub_model_id",
    404: "no such repository or account, or the token may not see it: check the name, and log in by `hf auth login`",
    409: "somebody else is changing the repository: try again",
    429: "too many requests: try again in some minutes",
}


# Seconds to wait before trying again where the Hub is busy or has trouble; it may ask for more, up to LONGEST_WAIT.
WAITS = (1, 3)
LONGEST_WAIT = 120
# Seconds without a word from the Hub after which a request has failed; huggingface_hub would wait forever.
PATIENCE = 60


def with_retries(request: Callable[[], Answer]) -> Answer:
    """What a request to the Hub gives. It is made again where the Hub is busy (429, after the time that it asks for),
    has trouble (5xx), ends the connection, says nothing, or sends less than it said."""
    from huggingface_hub.errors import HTTPError

    for wait in WAITS:
        try:
            return request()
        except (HTTPError, OSError) as error:
            seconds = _seconds_to_wait(_cause(error), wait)
            if seconds is None:
                raise
            log(f"the Hub has trouble, or the connection to it; trying again in {seconds} s")
            time.sleep(seconds)
    return request()


def _cause(error: BaseException) -> BaseException:
    """Of a file that is not in the cache either: why it could not be fetched."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error


def _seconds_to_wait(error: BaseException, at_least: int) -> int | None:
    """How long to wait before trying again; None where that would not help."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        wanted = max(at_least, _retry_after(error) or 0)
        return wanted if (status in (408, 429) or status >= 500) and wanted <= LONGEST_WAIT else None
    if isinstance(error, HTTPError):
        return None if "Connect" in type(error).__name__ else at_least  # nobody is there
    return at_least if "Consistency check failed" in str(error) else None


def _retry_after(error: HfHubHTTPError) -> int | None:
    """The seconds that the Hub asks to wait for, if it does."""
    asked = error.response.headers.get("Retry-After", "")
    return int(asked) if asked.isdigit() else None


@contextmanager
def hub_errors(doing: str, token: str | None = None, later: str | None = None) -> Generator[None]:
    """Turn what goes wrong with the Hub in the block into a `UserError` of one line, without the token.

    Args:
        doing: what was being done, at the beginning of the line.
        token: to leave out.
        later: the command to try again by.
    """
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    def user_error(reason: str, todo: str) -> UserError:
        again = f". The run is complete; push it later by {later}" if later else ""
        text = f"{doing}: {reason}: {todo}{again}"
        secrets = (token, os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"))
        for secret in filter(None, secrets):
            text = text.replace(secret, "<HUB_TOKEN>")
        return UserError(text)

    get_session().timeout = PATIENCE
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last ones of LFS and Xet
        cause: Any = _cause(error)
        if isinstance(cause, OfflineModeIsEnabled):
            raise user_error("HF_HUB_OFFLINE is set", "unset it to reach the Hub") from error
        if isinstance(cause, OSError) and cause.filename:
            raise user_error(f"{cause.filename}: {cause.strerror}", "see to that file") from error
        if not isinstance(cause, HfHubHTTPError):
            said = " ".join(str(cause).split())[:300]
            raise user_error(said or type(cause).__name__, "check the network of this machine") from error
        status = cause.response.status_code
        said = f", {' '.join(cause.server_message.split())[:200]}" if cause.server_message else ""
        asked = _retry_after(cause) if status == 429 else None
        if asked:
            raise user_error(
                f"the Hub says no ({status}){said}", f"too many requests: try again in {asked} s"
            ) from error
        todo = WHAT_TO_DO.get(status, "the Hub has trouble of its own: try again" if status >= 500 else "see there")
        raise user_error(f"the Hub says no ({status}){said}", todo) from error
