"""Components of another distribution, installed for a test by a folder with entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from kanna import encodings
from kanna._util import plugins


def install(folder: Path, group: str, name: str, code: str, export: str) -> None:
    """Write a distribution to `folder`.

    Args:
        folder: Where it is put; what it holds can be imported once it is on the path.
        group: Group of the entry point, such as `kanna.methods`.
        name: Name of the component, and of the module after `kanna_`.
        code: Text of the module.
        export: What of the module the entry point names.
    """
    module = f"kanna_{name}"
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{module}.py").write_text(dedent(code))
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{export}\n")


def forget() -> None:
    """Clear the caches of what is installed."""
    for cached in (
        plugins._installed,
        plugins._foreign,
        plugins.names,
        plugins.load,
        encodings._by_type,
    ):
        cached.cache_clear()


@contextmanager
def plugged(folder: Path, group: str, name: str, code: str, export: str) -> Iterator[None]:
    """Install a component (see `install`) while the context is open, for child processes too."""
    install(folder, group, name, code, export)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        patch.delitem(sys.modules, f"kanna_{name}", raising=False)
        forget()
        yield
    sys.modules.pop(f"kanna_{name}", None)
    forget()
