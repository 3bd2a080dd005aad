"""`kanna inspect SRC`: what a source or artefact is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


_MADE = (
    ("Made from", "kanna.source"),
    ("  which was", "kanna.source.quantized"),
    ("Made by", "kanna.command"),
    ("Plan", "kanna.plan"),
    ("With kanna", "kanna.version"),
    ("Quantized by", "general.quantized_by"),
    ("Imatrix", "quantize.imatrix.file"),
)


@command("inspect")
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option(
    "--hash", "with_hash", is_flag=True, help="Also hash the file's bytes (reads all of it)."
)
@options.revision
@options.offline
def inspect_command(
    terminal: Terminal,
    source: str,
    tensors: bool,
    with_hash: bool,
    revision: str | None,
    offline: bool,
) -> None:
    """Show what a model is, as published or as kanna wrote it.

    Family, tensors, precision, tokenizer, chat template, licence.

    Any GGUF can be inspected, also of an architecture kanna does not know, and statistics of
    `kanna calibrate` too.
    """
    from kanna.inspection import inspect

    result = inspect(
        source, revision=revision, offline=offline, hash=with_hash, progress=terminal.progress()
    )
    terminal.result(result, lambda screen, data: _draw(screen, data, tensors))


def _draw(screen: Console, data: dict[str, Any], every_tensor: bool) -> None:
    from rich.text import Text

    from kanna.cli.ui import facts
    from kanna.escaping import visible

    if data["statistics"] is not None:
        _draw_statistics(screen, data)
        return
    made = data["provenance"]
    known = (
        ""
        if data["known_family"] or data["problems"] or data["vision"]
        else " (kanna has no data file for it: requantized as it is)"
    )
    title = (visible(data["name"]), "bold cyan")
    screen.print(Text.assemble(title, "  ", visible(data["kind"])))
    facts(
        screen,
        [
            ("Path", data["path"]),
            ("Family", data["family"] + _also(data["also"]) + known),
            ("Vision tower", _tower(data["vision"])),
            *_sizes(data),
            ("Context", f"{data['context']:,} tokens" if data["context"] else ""),
            ("Shape", ", ".join(f"{k} {v:,}" for k, v in data["shape"].items())),
            *([] if data["vision"] else _text_facts(data)),
            ("Licence", data["license"] or "not stated"),
            ("Hash", data["hash"]),
            *((label, made.get(key)) for label, key in _MADE),
            ("Encodings", _mix(data["made"])),
            ("Gate", _gate(data)),
        ],
    )
    if data["types"]:
        _draw_types(screen, data)
    if every_tensor:
        _draw_tensors(screen, data)
    _draw_remarks(screen, data)


def _text_facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    """What reads and writes the text of a model."""
    tokenizer, template = data["tokenizer"], data["chat_template"]
    kinds = (
        f"{tokenizer['kind']}, {tokenizer['size']:,} tokens"
        if tokenizer["kind"]
        else "none in this source"
    )
    pre = f", pre-tokenizer {tokenizer['pre']}" if tokenizer["pre"] else ""
    return [
        ("Tokenizer", kinds + pre),
        ("Chat template", f"yes: {template['excerpt']}" if template["present"] else "none"),
    ]


def _tower(vision: dict[str, Any] | None) -> str:
    """What a vision tower is, where the file is one."""
    from kanna.families.towers import StoredTower

    return StoredTower(**vision).words() if vision else ""


def _mix(made: dict[str, Any] | None) -> str:
    """Tensors by encoding, as the file says that it was planned."""
    mix = made["encodings"] if made else {}
    return ", ".join(f"{name.partition(':')[0]} × {count}" for name, count in mix.items())


def _gate(data: dict[str, Any]) -> str:
    """What the gate report beside a file of kanna says, or how to have one."""
    if not data["made"]:
        return ""
    return data["made"]["gate"] or "no report beside it: kanna verify SRC FILE --gate REPORT"


def _also(names: Sequence[str]) -> str:
    """A few models of other names that are of this family."""
    if not names:
        return ""
    return f" (also {', '.join(names[:4])}{', …' if len(names) > 4 else ''})"


def _draw_statistics(screen: Console, data: dict[str, Any]) -> None:
    """What a calibration left."""
    from kanna._util.units import format_size
    from kanna.calibration import expert_coverage
    from kanna.cli.ui import facts, table

    known = data["statistics"]
    facts(
        screen,
        [
            ("Statistics", f"{data['path']} ({format_size(data['bytes'])})"),
            ("Inputs", f"{known['sites']:,}"),
            ("Tokens", f"{known['tokens']:,} of {known['text']}"),
            *expert_coverage.facts(known["coverage"]),
        ],
    )
    if known["coverage"]:
        layers = table("layer>", "tokens of each expert", "too few>")
        for layer in known["coverage"]:
            tokens = " ".join(f"{n:,}" for n in layer["tokens"])
            layers.add_row(str(layer["layer"]), tokens, str(len(layer["few"]) or "–"))
        screen.print(layers)


def _sizes(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Weights and bytes; of an artefact that nothing is read back from, bytes alone."""
    from kanna._util.units import format_size

    size = format_size(data["bytes"])
    if not data["num_tensors"]:
        return [("Files", size)]
    return [
        ("Parameters", f"{data['parameters']:,}"),
        ("Tensors", f"{data['num_tensors']:,}, {size}"),
        ("Bits per weight", f"{data['bits_per_weight']:.2f}: {data['precision_class']}"),
    ]


def _draw_types(screen: Console, data: dict[str, Any]) -> None:
    """A row per encoding."""
    from kanna._util.units import format_size
    from kanna.cli.ui import table

    types = table("encoding", "tensors>", "weights>", "size>", "share>")
    for row in data["types"]:
        share = row["bytes"] / data["bytes"] if data["bytes"] else 0.0
        types.add_row(
            row["encoding"],
            str(row["tensors"]),
            f"{row['weights']:,}",
            format_size(row["bytes"]),
            f"{share:.1%}",
        )
    screen.print(types)


def _draw_tensors(screen: Console, data: dict[str, Any]) -> None:
    """A row per tensor."""
    from kanna._util.units import format_size
    from kanna.cli.ui import table

    listing = table("tensor", "encoding", "shape>", "size>")
    for row in data["tensors"]:
        shape = " × ".join(map(str, row["shape"]))
        listing.add_row(row["name"], row["encoding"], shape, format_size(row["bytes"]))
    screen.print(listing)


def _draw_remarks(screen: Console, data: dict[str, Any]) -> None:
    """Notes, and what stands in the way of a conversion."""
    from kanna.cli.ui import notes

    notes(screen, data["notes"])
    for problem in data["problems"]:
        screen.print(f"It cannot be converted: {problem['found']}", style="bold red")
        for label, key in (("Expected", "expected"), ("What to do", "todo")):
            if problem[key]:
                screen.print(f"  {label}: {problem[key]}")


COMMAND = inspect_command
