"""What a target is: where a packaged artefact runs, and the files it is told with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kanna.packaging.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target.

    Attributes:
        about: What it is, for people.
        kinds: Kinds of artefacts it can run.
        needs: Targets whose files it uses.
        files: Text of each file by its path in the package; raises UnsupportedError.
        usage: The shell lines that start it, run in the package.
    """

    about: str
    files: Callable[[Service], dict[str, str]]
    usage: Callable[[Service], list[str]]
    kinds: tuple[str, ...] = ("gguf", "onnx", "mlx")
    needs: tuple[str, ...] = ()


def as_yaml(*documents: dict[str, Any]) -> str:
    """Documents in the order their keys were given, never with anchors."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump_all(documents, Dumper=Plain, sort_keys=False, width=120, allow_unicode=True)
