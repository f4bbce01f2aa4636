"""Settings of `uniemox serve`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from uniemox.config.checks import Natural, Range, up_to
from uniemox.config.inference import ComputeConfig, Decoding
from uniemox.config.people import DetectorChoice

KEY_VARIABLE = "UNIEMOX_KEY"
"""Environment variable of the key, in place of a file."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ComputeConfig, DetectorChoice):
    """Answering requests over HTTP with a classifier."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone, 0.0.0.0 from everywhere."""
    port: Annotated[int, Range("between 0 and 65535", lambda value: 0 <= value <= 65535)] = 8000
    """Port to listen on; 0 takes a free one, which is printed."""
    key_file: Path | None = field(default=None, metadata={"metavar": "FILE"})
    """File with the key that requests must carry (Authorization: Bearer KEY); null takes it from the environment
    variable UNIEMOX_KEY, and asks for none where that is not set."""
    max_bytes: Annotated[int, Range("at least 1024", lambda value: value >= 1024)] = 20 * 1024**2
    """Largest body of a request, in bytes."""
    max_images: Annotated[int, up_to(256)] = 32
    """Maximum number of images in a request."""
    queue: Natural = 256
    """Images that are accepted and not yet answered; a request beyond that is refused for the moment."""
    timeout: Annotated[float, Range("between 1 and 600", lambda value: 1 <= value <= 600)] = 30.0
    """Seconds that a request may take to arrive, and as many to be answered."""
    allow_urls: bool = False
    """Fetch images that a request names by URL, from public addresses alone."""
    decoding: Decoding = "auto"
    """auto decodes a JPEG at a part of its size where that suffices, several times faster; exact decodes all pixels."""
