"""Text of the data as people see it: no control characters on the terminal, nothing endless, no Markdown of its own."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

QUOTED = 80  # characters of a cell that a message quotes
LONGEST_MESSAGE = 2000

# What moves the cursor, rings, recolours or turns the order of writing: C0 but tab and line break, DEL, C1, and the
# marks of bidirectional text.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# What Markdown would read as its own; intervals such as [0.1, 0.2], snake_case and "< 0.001" are none of it.
_MARKDOWN = re.compile(
    r"[\\`*|~$]|(?<!\w)_|_(?!\w)|<(?=[a-zA-Z/!?])|&(?=#|\w+;)|\[(?![-+]?\d+\.\d+, [-+]?\d+\.\d+\](?![(\[:]))"
)


def printable(text: str) -> str:
    """Text without control characters: each is shown as JSON writes it, `\\u001b`. Tabs and line breaks stay."""
    return _CONTROL.sub(lambda match: json.dumps(match[0])[1:-1], text)


def quote(value: Any, most: int = QUOTED) -> str:
    """A cell, name or id for a message, by its first characters."""
    text = str(value)
    return printable(text if len(text) <= most else f"{text[:most]}...")


def join_names(names: Any, most: int = 20) -> str:
    """Names of columns or labels for a message, the first of them."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(quote(name) for name in names[:most]) + more


def nearest(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """The known name that `name` was probably meant to be, or is the beginning of, ignoring case; None for none.

    Args:
        name: that was written.
        known: names that there are.
        cutoff: how like it must be, up to 1.
    """
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    if not near and len(name) > 2:
        near = [other for other in by_lower if other.startswith(name.lower())]
    return by_lower[near[0]] if near else None


def escape_markdown(value: Any) -> str:
    """Text that Markdown shows as it is, in one line: no links, pictures, HTML or tables of its own."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(printable(str(value)).split()))
