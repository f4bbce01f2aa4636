"""Fetching an image that a request names by URL: from public addresses alone, within bytes, time and redirects.

The name is resolved once, every address that it has is checked, and the connection goes to the address that was
checked: a name that resolves to another one a moment later gains nothing. Each redirect is checked likewise.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from uniemox.files.images import Unreadable
from uniemox.wording import reason_of

_SECONDS: Final = 10.0  # For all of it
_MAX_REDIRECTS: Final = 3
_PIECE: Final = 64 * 1024
_LONGEST: Final = 2048  # Characters of a URL
_PORTS: Final = {"http": 80, "https": 443}
_UNICAST: Final = ipaddress.ip_network("2000::/3")  # All public addresses of IPv6
_SPECIAL: Final = tuple(map(ipaddress.ip_network, ("2002::/16", "2001::/23", "192.0.0.0/24", "192.88.99.0/24")))
"""Networks of protocols, such as 6to4 and Teredo, which embed addresses of IPv4; Python calls some of them global."""

Resolve = Callable[[str, int], Sequence[str]]
Allow = Callable[[str, int], bool]


def resolve(host: str, port: int) -> list[str]:
    """List the addresses of a host, or raise `OSError`."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str, port: int) -> bool:
    """Whether an address is one of the public internet, on a port of the web."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # such as one with a zone
        return False
    is_special = ip.is_multicast or ip.is_reserved or any(ip in network for network in _SPECIAL)
    is_unicast = ip.version == 4 or ip in _UNICAST
    return port in _PORTS.values() and ip.is_global and is_unicast and not is_special


def fetch(
    url: str, *, max_bytes: int, seconds: float = _SECONDS, resolve: Resolve = resolve, allow: Allow = is_public
) -> bytes | Unreadable:
    """Fetch what is at a URL, or say why not, without what an inner network would give away.

    Args:
        url: Of http or https.
        max_bytes: Largest content.
        seconds: For everything.
        resolve: Lists the addresses of a host.
        allow: Whether an address and a port may be connected to.
    """
    until = time.monotonic() + seconds
    for _ in range(_MAX_REDIRECTS + 1):
        parts = _split(url)
        if isinstance(parts, Unreadable):
            return parts
        try:
            found = _ask(parts, max_bytes, until, resolve, allow)
        except (OSError, ValueError, http.client.HTTPException) as error:
            return Unreadable(f"the URL cannot be fetched: {_explain(error, until)}")
        if not isinstance(found, str):
            return found
        url = urljoin(url, found)
    return Unreadable(f"the URL redirects more than {_MAX_REDIRECTS} times")


def _split(url: str) -> SplitResult | Unreadable:
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        return Unreadable("the URL is malformed")
    printable = url.isascii() and url.isprintable() and " " not in url and len(url) <= _LONGEST
    if parts.scheme not in _PORTS or not parts.hostname or not printable or not port_is_number:
        return Unreadable("not a URL of http or https, written as a browser sends it")
    if parts.username is not None or parts.password is not None:
        return Unreadable("a URL with a user name, which is not sent")
    return parts


def _ask(parts: SplitResult, max_bytes: int, until: float, resolve: Resolve, allow: Allow) -> bytes | str | Unreadable:
    """Send one request; return the content, or where it is redirected to."""
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    addresses = resolve(host, port)
    # One of an inner network among public ones is refused whole: a client that tries all would reach it.
    if not addresses or not all(allow(address, port) for address in addresses):
        return Unreadable("the URL's host or port is not a public one")
    connection = _Pinned(host, port, addresses[0], until, secure=parts.scheme == "https")
    # A server that sends a byte now and then outlives any timeout of the socket.
    watch = threading.Timer(max(0.0, until - time.monotonic()), connection.cut)
    watch.daemon = True
    watch.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "uniemox", "Connection": "close"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308) and (place := response.getheader("Location")):
            return place
        if response.status != http.client.OK:
            return Unreadable(f"the URL answers with {response.status}")
        data = bytearray()
        while piece := response.read1(_PIECE):
            data += piece
            if len(data) > max_bytes:
                return Unreadable(f"the URL gives more than {max_bytes} bytes")
        if time.monotonic() >= until:
            raise TimeoutError
        return bytes(data)
    finally:
        watch.cancel()
        connection.close()


def _explain(error: Exception, until: float) -> str:
    if isinstance(error, TimeoutError) or time.monotonic() >= until:
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its host is not found"
    return "its certificate is refused" if isinstance(error, ssl.SSLError) else reason_of(error)


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, which asks for a host by name."""

    def __init__(self, host: str, port: int, address: str, until: float, *, secure: bool) -> None:
        super().__init__(host, port)
        self._address, self._until, self._secure = address, until, secure
        self._plain: socket.socket | None = None  # Which the response outlives

    def connect(self) -> None:
        """Connect to the address; https checks the certificate against the name."""
        left = max(0.001, self._until - time.monotonic())
        self.sock = self._plain = socket.create_connection((self._address, self.port), timeout=left)
        if self._secure:
            self.sock = self._plain = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def cut(self) -> None:
        """End it, whatever another thread waits for."""
        if self._plain is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._plain, socket.SHUT_RDWR)
