"""This machine as a target: the profile of its figures, as they are measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanna.hardware import EFFICIENCY, operators, weights_per_second
from kanna.hardware.accelerators import accelerators
from kanna.hardware.cpu import cpu, default_threads
from kanna.hardware.memory import bandwidth, memory

_CPU = "cpu"


def profile(runs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The profile, as its YAML file has it.

    Args:
        runs: Names of the formats whose runtimes multiply here, by backend.
    """
    here, space, threads = cpu(), memory(), default_threads()
    return {
        "title": here.model,
        "memory": {
            f"{round(space.total / (1 << 30)) or 1}gb": {
                "total": _measured(f"{space.total}B", "this machine"),
                "available": _measured(f"{space.available}B", "free when it was measured"),
            }
        },
        "bandwidth": _measured(f"{round(bandwidth())}B", f"read by {threads} threads"),
        "cores": _measured(here.cores, "this machine"),
        "context": {"value": 4096, "basis": "assumed", "source": "what kanna fit takes"},
        "backends": {_CPU: _processor(runs.get(_CPU, ()))}
        | {name: _accelerator(name, those) for name, those in runs.items() if name != _CPU},
    }


def _processor(formats: Sequence[str]) -> dict[str, Any]:
    constants = "kanna's measurements of llama.cpp with 2 to 8-bit files on other machines"
    flops = round(2 * weights_per_second() * default_threads() / 1e9, 1)
    return {
        "operators": "CPU",
        "formats": list(formats),
        "efficiency": {"value": EFFICIENCY, "basis": "derived", "source": constants},
        "error": {"value": 0.3, "basis": "assumed", "source": "one kind of machine"},
        "gigaflops": {"value": flops, "basis": "derived", "source": constants},
    }


def _accelerator(name: str, formats: Sequence[str]) -> dict[str, Any]:
    """A GPU that a runtime multiplies on here: what it is, and no speed that nobody measured."""
    tables = {table.lower(): table for table in operators.tables()}
    own = max((a.memory for a in accelerators() if a.api.lower() == name), default=0)
    memory_of_its_own = {"memory": _measured(f"{own}B", "its driver")} if own else {}
    return {"operators": tables[name], "formats": list(formats)} | memory_of_its_own


def _measured(value: object, source: str) -> dict[str, object]:
    return {"value": value, "basis": "measured", "source": source}
