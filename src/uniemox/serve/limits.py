"""How much a service takes at once: bytes of bodies, images in process, and the time in which a body must arrive."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from fastapi import HTTPException
from starlette.requests import ClientDisconnect

_MOST_BYTES: Final = 256 * 1024**2  # Of all bodies that are held at once, or four of the largest
_LONGEST_WAIT: Final = 60  # Seconds that a client is asked to wait


@dataclass
class Admission:
    """Counts what is accepted and not yet answered, and refuses more than there is room for.

    Used by the thread of the event loop alone.
    """

    max_images: int
    max_body: int  # Bytes of one request
    images: int = 0
    bytes: int = 0
    seconds_per_image: float = 0.01  # Lately, as whoever answers measures it

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """Make room for a request while the block runs."""
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self.images -= ticket.images
            self.bytes -= ticket.bytes

    def refuse(self, what: str) -> HTTPException:
        """Make the answer to a request that there is no room for: 429, with the seconds after which there may be."""
        wait = min(max(1, math.ceil(self.images * self.seconds_per_image)), _LONGEST_WAIT)
        return HTTPException(429, f"{what}: try again in {wait} s", {"Retry-After": str(wait)})


@dataclass
class Ticket:
    """What one request takes."""

    admission: Admission
    images: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)

    def take_images(self, count: int) -> None:
        """Take room for images and the people in them, or raise 429; more than there ever is room for raises 413."""
        most = self.admission.max_images
        if (own := self.images + count) > most:
            raise HTTPException(413, f"{own} images and boxes, over the {most} that are taken at once: send fewer")
        if self.admission.images + count > most:
            raise self.admission.refuse(f"{self.admission.images} images are waiting already")
        self.images += count
        self.admission.images += count

    def take_bytes(self, count: int) -> None:
        """Take room for a part of the body, or raise 413 or 429."""
        if self.bytes + count > self.admission.max_body:
            raise HTTPException(413, f"the body has more than {self.admission.max_body} bytes")
        if self.admission.bytes + count > max(_MOST_BYTES, 4 * self.admission.max_body):
            raise self.admission.refuse("the bodies of other requests take all memory")
        self.bytes += count
        self.admission.bytes += count


async def read_body(parts: AsyncIterable[bytes], ticket: Ticket, *, declared: str | None, seconds: float) -> bytes:
    """Read the body of a request.

    Args:
        parts: As they arrive.
        ticket: Of the request, which they are counted on.
        declared: Number of bytes by the header Content-Length, by which a large body is refused at once.
        seconds: Time in which all of it must arrive.

    Raises:
        HTTPException: 413 for too many bytes, 408 for too much time, 429 where there is no room, 400 for a client
            that left.
    """
    if declared is not None and declared.isdecimal() and int(declared[:20]) > ticket.admission.max_body:
        raise HTTPException(413, f"the body has {declared[:20]} bytes, over the limit of {ticket.admission.max_body}")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in parts:
                ticket.take_bytes(len(part))
                body += part
    except ClientDisconnect:
        raise HTTPException(400, "the client left before the body ended") from None
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {seconds:g} s") from None
    return bytes(body)
