"""The options that every command takes, as one run has them."""

from __future__ import annotations

from dataclasses import dataclass

import click


@dataclass(slots=True)
class Settings:
    """What the common options were set to."""

    json: bool = False
    quiet: bool = False
    debug: bool = False


def settings(ctx: click.Context) -> Settings:
    """The settings of this run, shared by the group and its command."""
    return ctx.find_root().ensure_object(Settings)
