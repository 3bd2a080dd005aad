"""The web page at `/`: files served as they are, under a policy that lets nothing else in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

FOLDER = Path(__file__).parent
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # A newer kanna brings newer files under the same names.
    "Cache-Control": "no-cache",
}


@cache
def files() -> dict[str, tuple[str, bytes]]:
    """Media type and content of every file by its path on the server; `/` is the page."""
    parts = {
        f"/page/{p.name}": (TYPES[p.suffix], p.read_bytes())
        for p in sorted(FOLDER.iterdir())
        if p.suffix in TYPES and p.name != "index.html"
    }
    return {"/": (TYPES[".html"], (FOLDER / "index.html").read_bytes())} | parts


def routes(mark: str = "") -> list[BaseRoute]:
    """Starlette routes of the page; they need no key, since the page holds no secret.

    Args:
        mark: An attribute for the root element, by which the scripts know what else is served.
    """
    from starlette.routing import Route

    return [
        Route(path, _serving(kind, content), methods=["GET"], include_in_schema=False)
        for path, (kind, content) in _marked(mark).items()
    ]


def _marked(mark: str) -> dict[str, tuple[str, bytes]]:
    kind, html = files()["/"]
    root = b'<html lang="en"'
    return files() | {"/": (kind, html.replace(root, root + f" {mark}".encode() if mark else root))}


def _serving(kind: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    from starlette.responses import Response

    async def serve(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return serve
