"""What the demo's server refuses before Gradio sees it: requests of other web pages, and bodies without an end."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MiB = 2**20
LONGEST_FILE, LONGEST_BODY = 20 * MiB, 8 * MiB  # a file with the form around it, and all else
# What a client sends beyond is read and forgotten, up to so many times as much: a connection that is closed before
# would take the answer with it.
READ_ON = 10
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass
class Names:
    """Whose requests are answered.

    A page of somebody else, open in a browser that reaches this server, can send requests to it: to its address, and by
    a name of its own that it lets lead to this machine (DNS rebinding). Browsers say by `Origin` which page sends what
    changes something, and by `Host` under which name they have found the server. Programs send no `Origin`.

    Args:
        hosts: names of the server; None: any, where it is there for a network.
        origins: names of other servers whose pages may send requests, as a proxy's.
    """

    hosts: Collection[str] | None
    origins: Collection[str] = ()

    @classmethod
    def of(cls, address: str, known_as: Collection[str] = ()) -> Names:
        """Those of a server.

        Args:
            address: that it listens on.
            known_as: names that it has elsewhere.
        """
        address, known_as = address.strip("[]").lower(), [name.lower() for name in known_as]
        local = {*LOOPBACK, address, *known_as} if is_loopback(address) else None
        return cls(local, known_as)

    def fault(self, host: str, origin: str | None) -> str | None:
        """Why a request is refused; None for one that is not.

        Args:
            host: its header of that name.
            origin: likewise, if it has one.
        """
        if self.hosts is not None and _split(f"//{host}").hostname not in self.hosts:
            return "This page is for its own machine, and does not go by this name: demo.py --known_as adds one."
        if origin is None or _split(origin).netloc.lower() == host.lower() or _split(origin).hostname in self.origins:
            return None
        return "Requests of other web pages are not answered: demo.py --known_as lets those of a server in."


def is_loopback(address: str) -> bool:
    """Whether an address is one that this machine alone reaches."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


class Guard:
    """ASGI middleware that refuses requests in words, as Gradio does: `{"detail": "..."}`.

    Args:
        app: that answers the others.
        names: whose requests are answered; None: everybody's.
    """

    def __init__(self, app: ASGIApp, names: Names | None):
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        fault = None if self.names is None else self.names.fault(headers.get("host", ""), headers.get("origin"))
        if fault is not None:
            return await _refusal(403, fault)(scope, receive, send)
        most = LONGEST_FILE if scope["path"].rstrip("/").endswith("/upload") else LONGEST_BODY
        body = _Body(receive, most)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            if "expect" not in headers:  # a client that waits for leave sends nothing
                await body.read_on()
            return await _refusal(413, body.fault)(scope, receive, send)
        await self.app(scope, body.receive, send)


class _Body:
    """The body of a request, up to so many bytes."""

    def __init__(self, receive: Receive, most: int):
        self._receive, self.most, self.read = receive, most, 0
        self.fault = f"The request is longer than {most // MiB} MB: send less at a time."

    async def receive(self) -> Message:
        """The next part.

        Raises:
            HTTPException: at the end of one that is too long, which Starlette answers.
        """
        message = await self._next()
        if self.read > self.most:
            if message.get("more_body"):
                await self.read_on()
            raise HTTPException(413, self.fault)
        return message

    async def read_on(self) -> None:
        """Forget what comes."""
        while self.read <= READ_ON * self.most and (await self._next()).get("more_body"):
            pass

    async def _next(self) -> Message:
        message = await self._receive()
        self.read += len(message.get("body", b""))
        return message


def _refusal(status: int, fault: str) -> JSONResponse:
    return JSONResponse({"detail": fault}, status)
