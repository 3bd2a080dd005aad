"""What kanna is called as a distribution, and how this one can be installed again.

The name `kanna` on the Python package index belongs to another project. Nothing may install by it,
and this distribution is not published: it comes as source code or as a wheel.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

NAME = "kanna-edge"
"""Name of the distribution; what is imported and run is called `kanna`."""
WHEEL_PREFIX = "kanna_edge-"


Project = TypedDict(
    "Project",
    {
        "name": str,
        "version": str,
        "description": str,
        "requires-python": str,
        "dependencies": list[str],
        "optional-dependencies": dict[str, list[str]],
        "scripts": dict[str, str],
    },
)
"""The table `project` of pyproject.toml, as far as it is read here."""

_PACKAGE = Path(__file__).resolve().parents[1]
_PROJECT_NAME = re.compile(rf"""^name\s*=\s*["']{NAME}["']\s*$""", re.MULTILINE)


def installed() -> metadata.Distribution | None:
    """The installed distribution that this code belongs to; None for code of a source tree."""
    try:
        distribution = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        return None
    here = Path(str(distribution.locate_file("kanna"))).resolve()
    return distribution if here == _PACKAGE else None


def source_tree(folder: Path | None = None) -> Path | None:
    """The root of kanna's source code, where `folder` (this code's own by default) is one."""
    root = folder or _PACKAGE.parents[1]
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return root if _PROJECT_NAME.search(text) else None


def origin(distribution: metadata.Distribution) -> str:
    """Where an installed distribution came from, as pip noted it: a URL, or nothing."""
    try:
        note = json.loads(distribution.read_text("direct_url.json") or "{}")
        return str(note.get("url", ""))
    except (ValueError, AttributeError):
        return ""


def local_path(url: str) -> Path | None:
    """The path of a file: URL."""
    from urllib.request import url2pathname  # here, since it loads a client of HTTP

    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


@lru_cache
def install_command(extra: str = "") -> str:
    """What installs this kanna again, with an extra or several by comma.

    The source tree or the wheel it came from, where that is still there. Else the packages that the
    extra consists of, which are all that is missing.
    """
    brackets = f"[{extra}]" if extra else ""
    distribution = installed()
    url = origin(distribution) if distribution else ""
    path = local_path(url) if url else None
    tree = source_tree() if distribution is None else source_tree(path) if path else None
    if tree is not None:
        return f"pip install {_quoted(f'{tree}{brackets}')}"
    if path is not None and path.suffix == ".whl" and path.is_file():
        return f"pip install {_quoted(f'{path}{brackets}')}"
    if url.startswith("https://"):
        return f"pip install {_quoted(f'{NAME}{brackets} @ {url}')}"
    needed = _requirements(distribution, extra) if distribution else []
    if needed:
        return "pip install " + " ".join(map(_quoted, needed))
    return f"install kanna from its source code or wheel, as WHEEL{brackets}"


def _requirements(distribution: metadata.Distribution, extra: str) -> list[str]:
    """The requirements that extras add on this machine."""
    lines = distribution.requires or []
    wanted = {name.strip() for name in extra.split(",") if name.strip()}
    needed: list[str] = []
    for line in lines:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        named = set(re.findall(r"""extra\s*==\s*["']([^"']+)["']""", marker))
        if named & wanted and _fits(marker):
            needed.append(requirement)
    return list(dict.fromkeys(needed))


def _fits(marker: str) -> bool:
    """Whether a marker's words on the operating system are of this one."""
    for operator, platform in re.findall(r"""sys_platform\s*(==|!=)\s*["']([^"']+)["']""", marker):
        if (sys.platform == platform) != (operator == "=="):
            return False
    return True


def requirements() -> list[str]:
    """Everything that this kanna and its extras ask for."""
    distribution = installed()
    if distribution is not None:
        return distribution.requires or []
    tree = source_tree()
    if tree is None:
        return []
    project = read_project(tree)
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for lines in extras.values() for line in lines)]


def read_project(tree: Path) -> Project:
    """The table `project` of a source tree's pyproject.toml."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    with (tree / "pyproject.toml").open("rb") as file:
        project: Project = tomllib.load(file)["project"]
    return project


def _quoted(word: str) -> str:
    """A word as the shell of this machine takes it."""
    if sys.platform == "win32":
        import subprocess

        return subprocess.list2cmdline([word])
    return shlex.quote(word)
