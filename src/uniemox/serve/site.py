"""The page of the service: three files of the package and a few embedded drawings, with headers that confine it."""

import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response

from uniemox.checkpoints.open import EMBEDDED

FILES: Final = {"style.css": "text/css", "page.js": "text/javascript"}
"""What the page is made of beside itself, with the media type of each."""

EXAMPLES: Final = (
    "amusement/amusement_00413",
    "fear/fear_00397",
    "contentment/contentment_00378",
    "sadness/sadness_00429",
)
"""Drawings that a visitor may try, of the split test: no embedded model was trained on them."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Nothing of another origin is loaded, nothing inline runs, and no other site frames the page."""

_FOLDER: Final = Path(__file__).parent / "page"
_DRAWINGS: Final = EMBEDDED["demo"].parent / "drawn6.zip"


def site() -> APIRouter:
    """Make the routes of the page; its addresses are relative, so a proxy may serve it below a path."""
    router = APIRouter(include_in_schema=False)
    held = {"": ((_FOLDER / "index.html").read_bytes(), "text/html")}
    held |= {f"page/{name}": ((_FOLDER / name).read_bytes(), media) for name, media in FILES.items()}
    with zipfile.ZipFile(_DRAWINGS) as archive:
        for number, name in enumerate(EXAMPLES):
            held[f"page/examples/{number}.webp"] = (archive.read(f"drawn6/image/{name}.webp"), "image/webp")
    for path, (content, media) in held.items():
        router.add_api_route(f"/{path}", _answer(content, media), methods=["GET", "HEAD"])
    return router


def _answer(content: bytes, media: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(content, media_type=media, headers=HEADERS)

    return answer
