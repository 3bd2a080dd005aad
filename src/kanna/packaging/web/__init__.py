"""What a model needs to run in a browser: a page, what runs it there, a server of plain files.

Each kind of model has a file here that exports BROWSER, a `BrowserEngine`.
"""

from __future__ import annotations

from pathlib import Path

from kanna._util import plugins
from kanna.packaging.web.base import BrowserEngine

FOLDER = Path(__file__).parent
_PAGE = ("index.html", "app.js", "style.css", "serve.py", "_headers")


def names() -> tuple[str, ...]:
    """Kinds of models that run in a browser."""
    return plugins.names(__name__, "BROWSER")


def get(kind: str) -> BrowserEngine:
    """What runs models of a kind."""
    return plugins.load(__name__, kind, "BROWSER")


def texts(engine: BrowserEngine) -> dict[str, str]:
    """Text of the page's files, by their path in the package."""
    files = {engine.script: "engine.js"} | {name: name for name in _PAGE}
    return {place: (FOLDER / name).read_text(encoding="utf-8") for name, place in files.items()}
