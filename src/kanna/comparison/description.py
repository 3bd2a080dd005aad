"""Describes a comparison: its source, the machine, and the command that repeats it."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from kanna import __version__, runtimes
from kanna import formats as known_formats
from kanna._util.units import format_size
from kanna.comparison.speed import REPEAT
from kanna.escaping import argument, shell_line
from kanna.hardware.cpu import cpu
from kanna.hardware.threads import choose_threads
from kanna.inspection import inspect
from kanna.model import Model
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source

PUBLISHED = {"builtin:smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where the embedded models were published."""


def describe_source(source: Source, model: Model) -> dict[str, Any]:
    """What the report and the cards say of the source."""
    summary = inspect(source)
    base = (
        source.given
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source.given) and not Path(source.given).exists()
        else None
    )
    base = base or model.meta("general.base_model.0.repo_url") or model.meta("general.repo_url")
    base = base or PUBLISHED.get(source.given)
    languages = model.meta("general.languages")
    return {
        "name": source.given,
        "title": summary.name,
        "kind": summary.kind,
        "family": summary.family,
        "parameters": model.num_parameters,
        "type": "/".join(t["encoding"] for t in summary.types if t["bytes"] > summary.bytes / 20),
        "bytes": summary.bytes,
        "license": model.meta("general.license") or summary.license,
        "license_name": model.meta("general.license.name"),
        "license_link": model.meta("general.license.link"),
        "languages": list(languages) if languages else [],
        "base_model": str(base).removeprefix("https://huggingface.co/") if base else None,
        "revision": source.revision,
        "hash": summary.hash,
        "chat_template": summary.chat_template["present"],
    }


def versions(formats: Sequence[str]) -> dict[str, str]:
    """Version of the runtime of each format, by format; empty where it is not here."""
    return {f: runtimes.get(known_formats.get(f).runtime).available().version for f in formats}


def environment(
    threads: int | None, formats: Sequence[str] = (known_formats.DEFAULT,)
) -> dict[str, str]:
    """The machine and the runtimes the numbers were measured with."""
    others = {
        known_formats.get(f).title: v or "not installed"
        for f, v in versions([f for f in formats if f != known_formats.DEFAULT]).items()
    }
    here, processor = RUNTIME.available(), cpu()
    build = str(here.build.get("kind", ""))
    return {
        "CPU": f"{processor.model}, {processor.cores} cores ({', '.join(processor.simd[:4])})",
        "Memory": format_size(psutil.virtual_memory().total),
        "Threads": str(threads or choose_threads().count),
        "llama.cpp": f"{here.version}, {build} build, {', '.join(here.backends)}"
        if here.ok
        else "not installed",
        **others,
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "kanna": __version__,
    }


def command(
    source: str | Path,
    presets: Sequence[str],
    out: Path,
    *,
    formats: Sequence[str] = (known_formats.DEFAULT,),
    repeat: int = REPEAT,
    **options: object,
) -> str:
    """The command line that makes the same comparison again.

    Args:
        source: As the user named it.
        presets: Names of what was made.
        out: The folder.
        formats: Which took part.
        repeat: Rounds of the speed test.
        **options: Values of other options by name; None: not used.
    """
    parts = ["kanna", "compare", argument(source), "--presets", ",".join(presets)]
    parts += ["-o", argument(out)]
    if list(formats) != [known_formats.DEFAULT]:
        parts += ["--formats", ",".join(formats)]
    for name, value in {**options, "repeat": None if repeat == REPEAT else repeat}.items():
        if value is not None:
            parts += [f"--{name}", str(value)]
    return shell_line(parts)
