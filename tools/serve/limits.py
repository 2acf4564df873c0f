"""What a server does not let in: bodies that are too large or too slow, heads that never end, images that would burst.

What is refused is an HTTP status and a sentence that says what came and what is allowed.
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tools.serve.metrics import Metrics
from utils.files.images import BROKEN, decode_image

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # what browsers show
MAX_SIDE = 32_000
DRAINED = 4  # times the limit: what is too large is still taken in, and thrown away, so that the sender hears why
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """Of a request: its bytes, the pixels of an image, images, seconds to send it and to wait for its answer."""

    body_bytes: int
    pixels: int
    images: int
    body_s: float
    answer_s: float


class Refused(Exception):
    """A request that is not answered as it wished: the HTTP status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# Images ---------------------------------------------------------------------------------------------------------------


def read_upload(data: bytes, name: str, limits: Limits) -> np.ndarray:
    """The image (h, w, 3) uint8 BGR in the bytes of an upload, turned as its EXIF tag says.

    Its header is read first, and no memory is taken for one that says it is too large. Refused with 413 or 415.
    """
    if not data:
        raise Refused(400, f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            width, height = file.size
    except Image.DecompressionBombError as error:
        raise Refused(413, f"{name}: {error}") from None
    except BROKEN:
        raise Refused(415, f"{name}: no readable image; wanted is one of {', '.join(FORMATS)}") from None
    if width * height > limits.pixels or max(width, height) > MAX_SIDE:
        allowed = f"{limits.pixels / 1e6:g} megapixels and {MAX_SIDE} a side"
        raise Refused(413, f"{name}: {width} x {height} pixels; allowed are {allowed}")
    try:
        return decode_image(data, name)
    except ValueError as error:
        raise Refused(415, str(error)) from None


# Requests -------------------------------------------------------------------------------------------------------------


class Guard:
    """Wraps an ASGI app: bounds the size of a request's body and the time it may take to come, and counts answers."""

    def __init__(self, app: App, limits: Limits, metrics: Metrics, paths: frozenset[str], headers: Message) -> None:
        self.app, self.limits, self.metrics, self.paths = app, limits, metrics, paths
        self.headers = [(key.encode(), value.encode()) for key, value in headers.items()]  # of every answer

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, within its limits."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        try:
            await self.app(scope, self.bounded(scope, receive), counted_send)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.add("requests_total", path=path, status=str(status))
            if path == "/detect":
                self.metrics.add("request_seconds", time.perf_counter() - start)

    def bounded(self, scope: Message, receive: Receive) -> Receive:
        """Receives what `receive` does; Refused with 413 or 408 where the body is too large or too slow."""
        most, end = self.limits.body_bytes, time.monotonic() + self.limits.body_s
        said = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
        is_complete, count = False, 0
        too_large = Refused(413, f"a request of more than the {most} bytes that are allowed")

        async def bounded_receive() -> Message:
            nonlocal is_complete, count
            if is_complete:  # what comes now is that the client has gone
                return await receive()
            while True:
                if not said.isdigit() or max(int(said), count) > DRAINED * most:
                    raise too_large
                try:
                    message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0))
                except TimeoutError:
                    reason = f"the request did not arrive within {self.limits.body_s:g} seconds"
                    raise Refused(408, reason) from None
                count += len(message.get("body", b""))
                is_complete = not message.get("more_body", False)
                if max(int(said), count) <= most:
                    return message
                if is_complete:
                    raise too_large

        return bounded_receive


def punctual_protocol(longest_s: float) -> "type[H11Protocol]":
    """uvicorn's HTTP protocol, which closes connections whose request has no complete head within longest_s.

    uvicorn itself waits for ever for the head of a connection's request; a few thousand such connections lock it.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Punctual(H11Protocol):
        """Answers 408 where no head comes."""

        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self.rest()
            super().connection_lost(exc)

        def watch(self) -> None:
            """Starts the clock where no request is at work, stops it where one is."""
            if self.cycle is not None and not self.cycle.response_complete:
                self.rest()
            elif self.late is None:
                self.late = self.loop.call_later(longest_s, self.end)

        def rest(self) -> None:
            """Stops the clock."""
            if self.late is not None:
                self.late.cancel()
                self.late = None

        def end(self) -> None:
            """Closes the connection, unless a request came after all."""
            self.late = None
            is_idle = self.cycle is None or self.cycle.response_complete
            if is_idle and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                self.transport.close()

    return Punctual
