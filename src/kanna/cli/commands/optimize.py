"""`kanna optimize SRC`: the closest file within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna import formats
from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command(
    "optimize",
    when_interrupted="Interrupted. What is finished stays; run the same command to go on from "
    "there.",
)
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.option(
    "-o",
    "--output",
    "out",
    type=options.FILE,
    required=True,
    help="Folder for the file and the report.",
)
@click.option(
    "--adapter",
    multiple=True,
    help="An adapter that is merged into SRC while it is read; the file must keep what it gained. "
    "FOLDER or FOLDER=WEIGHT; may be given several times.",
)
@click.option(
    "--apart",
    is_flag=True,
    help="Do not merge adapters: make a base that each of them lies beside, and keeps its gain.",
)
@options.held_out
@options.retention
@click.option(
    "--recover",
    is_flag=True,
    help="Tune scales, biases and norms on the text of --calibration, which is of the domain; kept "
    "where the loss on held-out text of it falls.",
)
@click.option(
    "--guard",
    type=options.NAMES,
    metavar="TASK[:TOLERANCE],…",
    help="Tasks of `evaluate` that the file must not lose, such as tool-calls,maths:0.05.",
)
@click.option("--examples", type=click.IntRange(1), help="Questions of each guard at most.")
@click.option(
    "--size-max",
    type=options.SIZE,
    help="Bytes of the largest file that a guard may ask for, where none within the budget holds. "
    "[default: 8 bits for every matrix]",
)
@click.option("--size", type=options.SIZE, help="Budget: bytes of the file, such as 95MB.")
@click.option("--bpw", type=options.NUMBER, help="Budget: bits per weight of the whole file.")
@click.option(
    "--like",
    metavar="PRESET",
    shell_complete=shells.presets,
    help="Budget: the size this preset would take.",
)
@click.option(
    "--memory",
    type=options.SIZE,
    help="Budget: memory of llama.cpp with its cache full at --context.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens, with --memory. [default: the target's, else 4096]",
)
@click.option(
    "--min-speed",
    type=options.NUMBER,
    metavar="TOKENS/S",
    help="Budget: tokens per second that the file must be predicted to generate.",
)
@click.option(
    "--objective",
    type=click.Choice(["quality", "balanced", "speed"]),
    default="quality",
    show_default=True,
    help="What is sought within the budgets: the closest file, the fastest that is no farther "
    "than a plain preset, or between them.",
)
@click.option(
    "--speeds",
    type=options.FILE,
    help="Costs of encodings that were measured elsewhere. [default: the target's, else this "
    "machine's]",
)
@options.target
@options.provider
@options.static
@click.option(
    "--effort",
    type=click.Choice(["fast", "balanced", "max"]),
    help="Trust predictions; correct them in the runtime; or then try swaps, choose values again "
    "behind quantized layers (correction), and tune scales. "
    "[default: balanced, or what --time-budget has room for]",
)
@click.option(
    "--calibration",
    type=options.FILE,
    multiple=True,
    help="Text to calibrate on, or `self`: see `kanna calibrate`.",
)
@click.option(
    "--tokens",
    type=click.IntRange(512),
    help="Tokens to calibrate on. [default: 24576, or what --time-budget has room for]",
)
@click.option(
    "--time-budget",
    metavar="TIME",
    help="Time that all of it may take, such as 2h or 90min: effort, tokens and windows that are "
    "not named are chosen by it.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only show what every stage would take here: time, memory and disk.",
)
@click.option(
    "--keep", multiple=True, metavar="PATTERN", help="Tensors to leave at 16 bits; may be repeated."
)
@click.option("--exclude", type=options.NAMES, help="Encodings not to use, by comma.")
@click.option(
    "--rule", "rule", multiple=True, metavar="PATTERN=ENCODING", help="What some tensors must get."
)
@click.option(
    "--text", type=options.FILE, help="Text to evaluate on. [default: the WikiText-2 test set]"
)
@click.option(
    "--windows",
    type=click.IntRange(1),
    help="Windows of 512 tokens to evaluate. [default: all of a given text, 32 of the default one, "
    "16 from a billion parameters on]",
)
@click.option(
    "--format",
    "format",
    metavar="FORMAT",
    shell_complete=shells.format_names,
    default=formats.DEFAULT,
    show_default=True,
    help="Container to write; onnx makes a folder for onnxruntime-genai, mlx one for mlx-lm, "
    "openvino one for openvino-genai.",
)
@click.option(
    "--device",
    help="Where to calibrate, measure, choose values, correct and tune: cpu, cuda or mps. "
    "[default: an accelerator when there is one]",
)
@options.parts_on("layers are measured, and values of a GGUF chosen")
@options.threads
@options.revision
@options.offline
@options.tracking
def optimize_command(
    terminal: Terminal,
    source: str,
    out: Path,
    adapter: tuple[str, ...],
    data: tuple[Path, ...],
    calibration: tuple[Path, ...],
    exclude: list[str] | None,
    rule: tuple[str, ...],
    **choices: Any,
) -> None:
    """Find the file closest to SRC within a budget, check it, and show what it was up against.

    Give one of --size, --bpw, --like and --memory, or --target alone, which means its memory. SRC
    is calibrated once, every encoding is measured on every tensor, and bytes go where they save
    most divergence, never beyond the budget. Run again with another budget, what was
    measured is used again.

    With --adapter, a fine-tune is what is optimized, and the share of its gain on held-out examples
    that the file keeps is one of the checks. With --apart, too, SRC alone is optimized, for what
    it reads without and with each adapter; adapters are written beside the file, and each must
    keep its gain there. With --guard, so are tasks: a file that surely lost
    more than it may is passed over for the next closest within the budget, and where none holds for
    a larger one, of at most --size-max. Exit code 1 where a
    check of the chosen file failed, 3 where gain or tasks cannot be measured.
    """
    from kanna.optimization import optimize

    result = optimize(
        source,
        out,
        adapter=list(adapter) or None,
        data=data or None,
        calibration=calibration or None,
        exclude=exclude or (),
        rules=rule,
        progress=terminal.progress(memory=True),
        remark=terminal.note,
        **choices,
    )
    terminal.result(result, _draw)
    if result.gate == "failed":
        click.secho(f"A check failed: {result.report} shows which.", err=True, fg="red")
        click.get_current_context().exit(1)
    if (result.retention is not None or result.tasks) and result.gate == "unprovable":
        click.get_current_context().exit(3)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    if data["dry_run"]:
        _draw_forecast(screen, data)
        return
    from kanna._util.units import format_size
    from kanna.checks import gate_word
    from kanna.cli.ui import duration, facts, notes
    from kanna.closeness import describe
    from kanna.optimization import result as results
    from kanna.optimization.accuracy_levels import level_words
    from kanna.tasks.pairing import from_json

    mean, rival = data["kl_mean"], data["rival_kl"]
    kl = f"{mean:.5f}" if mean is not None else "not measured"
    if mean is not None and rival:
        kl += f"  ({data['rival']}: {rival:.5f}, ratio {mean / rival:.2f})"
    size, budget = format_size(data["file_bytes"]), format_size(data["budget"])
    facts(
        screen,
        [
            ("Wrote", data["artefact"]),
            ("Size", f"{size} of {budget} ({data['said']})"),
            ("Bits per weight", f"{data['bits_per_weight']:.2f}"),
            (
                "Encodings",
                ", ".join(f"{count} {name}" for name, count in data["encodings"].items()),
            ),
            ("KL divergence", kl),
            ("Closeness", describe(mean, data["top1"])),
            ("Swaps", _swaps(data["swaps"])),
            ("Memory", _memory(data["memory"])),
            ("Run", data["memory"]["command"] if data["memory"] else ""),
            ("Speed", _speed(data["speed"])),
            ("Target", _target(data["target"])),
            ("Provider", results.placed_words(data["provider"])),
            ("Device", data["device"] if data["device"] != "cpu" else ""),
            ("Inputs", level_words(data["accuracy"])),
            ("Correction", _correction(data["correction"])),
            ("Tuning", _tuning(data["tuning"])),
            ("Recovery", results.recovery_words(data["tuning"])),
            *results.kept_facts(data["retention"], data["beside"]),
            *((f"Task {s.name}", s.words()) for s in from_json(data["tasks"])),
            ("Guard", results.guard_words(data["guard"])),
            ("Checks", gate_word(data["gate"])),
            (
                "Time",
                ", ".join(
                    f"{name} {duration(s)}" for name, s in data["seconds"].items() if s >= 0.1
                ),
            ),
            ("Report", data["report"]),
        ],
    )
    notes(screen, data["notes"])
    if data["advice"]:
        screen.print(f"Recommended: {data['advice']}", style="bold yellow")


def _draw_forecast(screen: Console, data: dict[str, Any]) -> None:
    """A table of the stages, and what a time budget chose."""
    from kanna.cli.ui import facts, notes, table
    from kanna.optimization.times import TIME_COLUMNS, time_rows

    shown = table(*TIME_COLUMNS[:-1])
    for row in time_rows(data["times"]):
        shown.add_row(*row[:-1])
    screen.print(shown)
    budget = data["time_budget"]
    facts(screen, [("Chosen", budget["chosen"] if budget else "")])
    screen.print("On this machine with nothing else to do; nothing was read but headers.")
    notes(screen, data["notes"])


def _memory(memory: dict[str, Any] | None) -> str:
    """`212 MB measured, 214 MB predicted, of 220 MB; cache in q8_0`."""
    from kanna._util.units import format_size

    if memory is None:
        return ""
    peak = memory["measured"]
    measured = "" if peak is None else f"{format_size(peak)} measured, "
    sizes = f"{format_size(memory['predicted'])} predicted, of {format_size(memory['limit'])}"
    return f"{measured}{sizes}; cache in {memory['cache']}: {memory['why']}"


def _speed(speed: dict[str, Any] | None) -> str:
    """`31.2 tokens/s measured, 29.8 predicted, at least 28 asked for`."""
    if speed is None or not speed["rows"]:
        return ""
    row = speed["rows"][0]
    words = f"{row['predicted']:.4g} predicted" if row["predicted"] else "not predicted"
    if row["measured"]:
        words = f"{row['measured']:.4g} tokens/s measured, {words}"
    floor = f", at least {speed['floor']:.4g} asked for" if speed["floor"] else ""
    return f"{words}{floor} ({speed['objective']}; {speed['basis']} on {speed['machine']})"


def _target(target: dict[str, Any] | None) -> str:
    """`raspberry-pi-5-8gb:cpu: 0 tensors outside its encodings; 4.9 tokens/s predicted`."""
    if target is None:
        return ""
    line = target["name"]
    if target["outside"] is not None:
        line += f": {target['outside']} tensors outside its encodings"
    if (speed := target["tokens_per_second"]) is not None:
        prompt = target["prompt_tokens_per_second"]
        also = f", {prompt:,.0f} of a prompt" if prompt else ""
        error = target["speed_error"]
        within = f", within a factor of {1 + error:.3g}" if error is not None else ""
        line += f"; {speed:.1f} tokens/s{also} predicted{within}"
    return line


def _correction(correction: dict[str, Any] | None) -> str:
    """`not kept: 0.0391 → 0.0352 nats, but code lost` on text that nothing was fitted to."""
    if correction is None:
        return ""
    line = _tuning(correction)
    return f"{line}, but {' and '.join(correction['worse'])} lost" if correction["worse"] else line


def _tuning(tuning: dict[str, Any] | None) -> str:
    """`kept: 0.0391 → 0.0352 nats` on the text that decided."""
    if tuning is None:
        return ""
    return "{}: {before:.5f} → {after:.5f} nats".format(
        "kept" if tuning["kept"] else "not kept", **tuning
    )


def _swaps(swaps: dict[str, Any] | None) -> str:
    """`3 of 20 kept: 0.0412 → 0.0391 nats on text that decided nothing`."""
    if swaps is None:
        return ""
    line = f"{swaps['kept']} of {swaps['tried']} kept"
    if swaps["kept"] and swaps["reported"]:
        line += ": {before:.5f} → {after:.5f} nats on text that decided nothing".format(
            **swaps["reported"]
        )
    return line


COMMAND = optimize_command
