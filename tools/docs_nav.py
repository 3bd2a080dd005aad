"""A hook of mkdocs: an entry of `nav` that ends in `/` stands for the pages of that folder.

Those that are named elsewhere are left out, so that a new page is in the navigation by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Fill in the pages of folders."""
    root = Path(config["docs_dir"])
    config["nav"] = _filled(config["nav"], root, set(_named(config["nav"])))
    return config


def _named(nav: Any) -> list[str]:
    """Every page and folder that stands somewhere in `nav`."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [name for part in parts for name in _named(part)]


def _filled(nav: Any, root: Path, named: set[str]) -> Any:
    if isinstance(nav, dict):
        return {title: _filled(part, root, named) for title, part in nav.items()}
    if isinstance(nav, str):
        return nav
    filled: list[Any] = []
    for part in nav:
        if isinstance(part, str) and part.endswith("/"):
            pages = [p.relative_to(root).as_posix() for p in sorted((root / part).glob("*.md"))]
            filled += [page for page in pages if page not in named]
        else:
            filled.append(_filled(part, root, named))
    return filled
