"""The page of a fleet at `/`: without a secret of its own, in the style of the gateway's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kanna.serving import page as gateway_page

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

FOLDER = Path(__file__).parent
_SHARED = ("/page/style.css", "/page/icon.svg")


def files() -> dict[str, tuple[str, bytes]]:
    """Media type and content of every file by its path on the server; `/` is the page."""
    shared = gateway_page.files()
    return {
        "/": (gateway_page.TYPES[".html"], (FOLDER / "index.html").read_bytes()),
        "/page/fleet.css": (gateway_page.TYPES[".css"], (FOLDER / "fleet.css").read_bytes()),
        "/page/fleet.js": (gateway_page.TYPES[".js"], (FOLDER / "fleet.js").read_bytes()),
        **{path: shared[path] for path in _SHARED},
    }


def routes() -> list[BaseRoute]:
    """Starlette routes of the page; they need no key, since the page holds no secret."""
    from starlette.routing import Route

    return [
        Route(path, _serving(kind, content), methods=["GET"])
        for path, (kind, content) in files().items()
    ]


def _serving(kind: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    from starlette.responses import Response

    async def serve(_: Request) -> Response:
        return Response(content, media_type=kind, headers=gateway_page.HEADERS)

    return serve
