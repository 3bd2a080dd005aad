"""What shells complete, and where they look for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from kanna._util.folders import data_folder
from kanna.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_KANNA_COMPLETE"
# References hold colons, at which bash cuts words otherwise.
_BASH_COLONS = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n"


def script(command: click.Command, shell: str) -> str:
    """The script that makes a shell complete `kanna`."""
    kind = get_completion_class(shell)
    if kind is None or shell not in SHELLS:
        raise UsageError(f"the shell {shell!r}", expected=", ".join(SHELLS))
    text = kind.source_template % kind(command, {}, "kanna", _VARIABLE).source_vars()
    return (_BASH_COLONS if shell == "bash" else "") + text


def current() -> str:
    """The shell of the user; raises UsageError where it is none of ours."""
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(
            f"the shell {name or '(unknown)'!r} is not supported",
            expected=", ".join(SHELLS),
            todo="name one: kanna completion install bash",
        )
    return name


def place(shell: str) -> Path:
    """Where a shell looks for the completions of one user."""
    if shell == "fish":
        config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(config) / "fish" / "completions" / "kanna.fish"
    if shell == "zsh":
        return data_folder() / "zsh" / "site-functions" / "_kanna"
    return data_folder() / "bash-completion" / "completions" / "kanna"


def names_beginning(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Those names that begin as what was typed, whatever the case; after a comma, the last one."""
    before, comma, last = incomplete.rpartition(",")
    return [
        CompletionItem(f"{before}{comma}{word}")
        for word in words
        if word.lower().startswith(last.lower())
    ]


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of presets: plain ones of GGUF, `onnx:int4` of other formats."""
    from kanna import formats

    words = [
        formats.qualified(name, preset)
        for name in formats.names()
        for preset in formats.get(name).presets
    ]
    return names_beginning(words, incomplete)


def format_names(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of formats."""
    from kanna import formats

    return names_beginning(formats.names(), incomplete)


def targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of devices."""
    from kanna.hardware import targets as profiles

    return names_beginning(profiles.names(), incomplete)


def providers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of execution providers of onnxruntime."""
    from kanna.hardware import providers as profiles

    return names_beginning(profiles.names(), incomplete)


def models(incomplete: str) -> list[CompletionItem]:
    """Models on this machine, and files."""
    from kanna import sources
    from kanna.storage import inventory

    words = {model.reference for model in inventory.models()}
    words |= {f"builtin:{name}" for name in sources.BUILTIN}
    return [CompletionItem(incomplete, type="file"), *names_beginning(sorted(words), incomplete)]
