"""The `kanna` command: finds commands by file name, turns errors into messages and exit codes."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import traceback
from typing import Any

import click

from kanna import __version__
from kanna._util import extras, folders, last_error, plugins
from kanna._util.interruption import Terminated
from kanna.cli import config, streams
from kanna.cli.options import common_options
from kanna.cli.settings import settings
from kanna.errors import KannaError
from kanna.escaping import one_line, visible_text

COMMANDS = "kanna.cli.commands"
ORDER = (
    "demo",
    "doctor",
    "runtime",
    "pull",
    "list",
    "rm",
    "cache",
    "inspect",
    "fit",
    "convert",
    "adapt",
    "merge",
    "verify",
    "evaluate",
    "bench",
    "compare",
    "calibrate",
    "optimize",
    "generate",
    "chat",
    "embed",
    "serve",
    "ps",
    "swap",
    "keys",
    "studio",
    "package",
    "fleet",
    "agent",
    "run",
    "recipe",
    "components",
    "completion",
    "bug-report",
)
INTERRUPTED, TERMINATED = 130, 143


class Commands(click.Group):
    """A group whose commands are the files of `cli/commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of all commands in the order of the help."""
        names = [name.replace("_", "-") for name in plugins.names(COMMANDS, "COMMAND")]
        return [n for n in ORDER if n in names] + [n for n in names if n not in ORDER]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a command, or None where there is none of that name."""
        module = cmd_name.replace("-", "_")  # a file cannot be imported by a name with a dash
        if "_" in cmd_name or module not in plugins.names(COMMANDS, "COMMAND"):
            return None
        return plugins.load(COMMANDS, module, "COMMAND")

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Returns the command that was named; the error for an unknown one suggests another."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], self.list_commands(ctx), 1)
            if close:
                raise click.UsageError(
                    f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx
                ) from None
            raise error

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line, whatever its output can show and whoever stops reading it."""
        streams.prepare()
        try:
            return super().main(*args, **options)
        finally:
            streams.discard()

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the options of all commands; `--help` and `--version` print here."""
        try:
            return super().make_context(*args, **options)
        except BrokenPipeError:
            raise click.exceptions.Exit(0) from None
        except click.ClickException as error:
            _show_as_text(error)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors become messages and exit codes."""
        if streams.colourless():
            ctx.color = False
        # Vocabularies are lists of half a million strings without cycles: looking for some takes a
        # tenth of the time.
        gc.set_threshold(50_000, 20, 100)
        atexit.register(gc.freeze)  # the system takes everything back anyway
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            _show_as_text(error)
            if settings(ctx).json:
                click.echo(_as_json({"found": error.format_message()}, error.exit_code))
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError as error:
            # Who reads the first lines alone, as `head` does, has what it wanted.
            ctx.exit(0 if streams.reader_left() else report(error, ctx))
        except Terminated:
            click.secho("\nTerminated.", err=True, fg="yellow")
            ctx.exit(TERMINATED)
        except KeyboardInterrupt as interrupt:
            click.secho(f"\n{str(interrupt) or 'Interrupted.'}", err=True, fg="yellow")
            ctx.exit(INTERRUPTED)
        except Exception as error:
            ctx.exit(report(error, ctx))


def report(error: Exception, ctx: click.Context) -> int:
    """Say on stderr what went wrong (with --json, on stdout as an object); return the exit code."""
    options = settings(ctx)
    last_error.remember(error, ctx.invoked_subcommand or "")
    if options.debug:
        trace = "".join(traceback.format_exception(error))
        click.echo(visible_text(trace), err=True, nl=False)
    if isinstance(error, KannaError):
        lines = {"found": error.found, "expected": error.expected, "todo": error.todo}
        code = error.exit_code
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        lines = {
            "found": f"{where}{error.strerror or error}",
            "expected": "",
            "todo": _os_advice(error),
        }
        code = 1
    elif isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("kanna"):
        lines = {
            "found": f"the Python package {error.name!r} is not installed",
            "expected": "",
            "todo": f"{extras.command_for(error.name or '')}; "
            "`kanna doctor` shows what else is missing",
        }
        code = 3
    else:
        lines = {
            "found": f"kanna failed unexpectedly: {type(error).__name__}: {error}",
            "expected": "",
            "todo": (
                "this is a mistake in kanna: report it with what `kanna bug-report` writes; "
                "--debug shows the traceback"
            ),
        }
        code = 1
    if options.json:
        click.echo(_as_json(lines, code))
    lines = {key: one_line(text) for key, text in lines.items()}
    click.secho("Error: ", err=True, fg="red", bold=True, nl=False)
    click.secho(lines["found"], err=True, fg="red")
    for label, key in (("Expected", "expected"), ("What to do", "todo")):
        if lines[key]:
            click.secho(f"{label}: ", err=True, bold=True, nl=False)
            click.echo(lines[key], err=True)
    return code


def _show_as_text(error: click.ClickException) -> None:
    """Let click show what it quotes of the command line as text."""
    text = visible_text(error.format_message())
    error.format_message = lambda: text


def _as_json(lines: dict[str, str], code: int) -> str:
    return json.dumps(
        {"error": {k: v for k, v in lines.items() if v} | {"exit_code": code}}, indent=2
    )


def _os_advice(error: OSError) -> str:
    import errno

    return {
        errno.ENOSPC: "free some disk space, or write to another disk",
        errno.EACCES: "check the permissions, or choose another folder",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.ENOENT: "check the path",
    }.get(error.errno or 0, "")


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "auto_envvar_prefix": "KANNA",
    },
    epilog="SRC, MODEL and FILE are a path, a hub id (org/name, org/name@revision, "
    "org/name:file), an address on huggingface.co, builtin:NAME, or ollama:NAME. "
    "Exit codes: 0 done, 1 failed or refused, 2 usage, 3 not checkable or not "
    "available here, 130 interrupted, 143 terminated.",
)
@click.version_option(__version__, prog_name="kanna", message="%(prog)s %(version)s")
@common_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Make a language model fit the device, and prove that it still is the same model."""
    # Libraries must not talk over our output.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if folders.settings_files() and isinstance(ctx.command, click.Group):
        ctx.default_map = config.defaults(ctx.command, ctx)


if __name__ == "__main__":
    sys.exit(cli())
