"""Components of another distribution, installed for a test by a folder with entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from kanna import encodings
from kanna._util import plugins


def install(folder: Path, group: str, name: str, code: str, export: str) -> None:
    """Write a distribution of one component to `folder`.

    Args:
        folder: Where it is put; what it holds can be imported once it is on the path.
        group: Group of the entry point, such as `kanna.methods`.
        name: Name of the component, and of the module after `kanna_`.
        code: Text of the module.
        export: What of the module the entry point names.
    """
    declare(folder, name, {group: f"kanna_{name}:{export}"})
    (folder / f"kanna_{name}.py").write_text(dedent(code))


def declare(folder: Path, name: str, components: Mapping[str, str]) -> None:
    """Write the metadata of a distribution to `folder`.

    Args:
        folder: Where it is put.
        name: Name of all its components.
        components: The object that each is, `module:export`, by group.
    """
    about = folder / f"kanna_{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kanna_{name}\nVersion: 1.0\n")
    lines = [f"[{group}]\n{name} = {place}\n" for group, place in components.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))


def forget() -> None:
    """Forget what was installed."""
    for cached in (
        plugins._installed,
        plugins._foreign,
        plugins.names,
        plugins.load,
        encodings._by_type,
    ):
        cached.cache_clear()
    # Its options list the methods and formats there were when it was imported.
    sys.modules.pop("kanna.cli.commands.convert", None)


@contextmanager
def plugged(folder: Path, group: str, name: str, code: str, export: str) -> Iterator[None]:
    """Install a component (see `install`) while the context is open, for child processes too."""
    install(folder, group, name, code, export)
    with _on_path(folder, str(folder)) as patch:
        patch.delitem(sys.modules, f"kanna_{name}", raising=False)
        yield
    sys.modules.pop(f"kanna_{name}", None)


@contextmanager
def plugged_modules(
    folder: Path, name: str, components: Mapping[str, str], path: str
) -> Iterator[None]:
    """Install components whose modules exist (see `declare`) while the context is open.

    Args:
        folder: Where the metadata is put.
        name: Name of all components.
        components: The object that each is, by group.
        path: PYTHONPATH of child processes.
    """
    declare(folder, name, components)
    with _on_path(folder, path):
        yield


@contextmanager
def _on_path(folder: Path, path: str) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", path)
        forget()
        yield patch
    forget()
