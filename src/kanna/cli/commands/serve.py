"""`kanna serve FILE…`: one OpenAI-compatible gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


@command("serve", handles_signals=True, when_interrupted="Stopped.")
@click.argument("models", type=options.MODEL, nargs=-1, required=True, metavar="[NAME=]MODEL...")
@click.option(
    "--alias", multiple=True, help="Another name for the first model, or ALIAS=NAME. Repeatable."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; others than loopback need keys.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Tokens of one request.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Requests computed together.",
)
@click.option(
    "--memory",
    type=options.SIZE,
    help="What all engines together may take. [default: 80 % of what is free]",
)
@click.option(
    "--engine-memory",
    type=options.SIZE,
    help="What one engine may take before it is started again. [default: twice what its model "
    "is reckoned to need, and 2 GiB]",
)
@click.option(
    "--adapter",
    multiple=True,
    help="A LoRA adapter, in GGUF, .onnx_adapter or a folder beside MLX: FILE for the first model, "
    "or NAME=FILE.",
)
@click.option(
    "--draft",
    multiple=True,
    help="A small GGUF that guesses ahead: FILE for the first model, or NAME=FILE.",
)
@click.option(
    "--mmproj",
    multiple=True,
    help="A vision tower in GGUF, for chats with pictures: FILE for the first model, or NAME=FILE.",
)
@click.option(
    "--tls-cert", type=options.FILE, help="Certificate chain in PEM; with --tls-key, HTTPS."
)
@click.option("--tls-key", type=options.FILE, help="Its key in PEM.")
@click.option(
    "--canary",
    multiple=True,
    metavar="[NAME=]PATH[@SHARE]",
    help="A file to try on a share (0.1) of a model's requests.",
)
@click.option(
    "--canary-agreement",
    type=options.Number(0, 1),
    default=0.8,
    show_default=True,
    help="Least share of equal next tokens.",
)
@click.option(
    "--canary-slowdown",
    type=options.POSITIVE,
    default=1.5,
    show_default=True,
    help="Most it may take of the model's time.",
)
@click.option(
    "--llama-server",
    default="auto",
    show_default=True,
    help="What runs GGUF: a native llama-server, never (xllamacpp), or auto: the faster one, "
    "measured once.",
)
@click.option(
    "--gpu-layers",
    type=click.IntRange(0),
    help="Layers to put on the GPU. [default: llama.cpp's choice]",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(0),
    default=0,
    help="Most new tokens of one answer. [default: the context]",
)
@click.option(
    "--queue",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Requests that may wait; more get 503.",
)
@click.option(
    "--time-limit",
    type=options.POSITIVE,
    default=600.0,
    show_default=True,
    help="Seconds an answer may take, whole or streamed.",
)
@click.option(
    "--idle",
    type=options.Number(0),
    default=0.0,
    help="Unload a model unused for so many seconds. [default: never]",
)
@click.option(
    "--state",
    type=options.FILE,
    help="Folder of keys and usage. [default: $KANNA_STATE, ~/.local/state/kanna]",
)
@click.option(
    "--audit", type=options.FILE, help="File that gets a JSON line per request, never its text."
)
@click.option(
    "--traces",
    default="",
    metavar="URL",
    help="An OpenTelemetry collector (OTLP over HTTP) for traces.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="URL",
    help="Web pages elsewhere that may ask; * for all. Repeatable.",
)
@click.option("--keys", is_flag=True, help="Ask for keys on loopback, too.")
@click.option(
    "--wait-for-key",
    is_flag=True,
    help="Start although no key was made yet; until then every request is refused.",
)
@click.option(
    "--open-to-all",
    is_flag=True,
    help="Ask for no keys, whatever the address. Everybody who reaches it can use it.",
)
@options.threads
@options.offline
def serve_command(
    terminal: Terminal, models: tuple[str, ...], state: Path | None, **choices: Any
) -> None:
    """Serve GGUF files and folders behind one OpenAI-compatible API, until Ctrl-C.

    A model is asked for by the name of its file without .gguf, or by NAME. The first one is loaded
    at once, the others when they are asked for; within --memory the least recently used idle one
    makes room.
    """
    from kanna.serving import serve
    from kanna.serving.arguments import model_name

    def started(address: str) -> None:
        names = ", ".join(model_name(model) for model in models)
        terminal.done(f"Serving {names} at {address}/v1")

    serve(models, state=state, started=started, remark=terminal.note, **choices)


COMMAND = serve_command
