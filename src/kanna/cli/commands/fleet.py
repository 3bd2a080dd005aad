"""`kanna fleet …`: devices, and rollouts of models that quality stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal
    from kanna.fleet import FleetServer

F = TypeVar("F", bound=Callable[..., Any])


@click.group("fleet")
@options.common_options
def fleet_group() -> None:
    """Bring models to many devices, ring by ring, and stop at the first that is worse.

    `serve` runs where all devices reach it; `kanna agent` runs on each.
    """


def _at_server(function: F) -> F:
    """Options that say where the fleet is, and who asks."""
    for option in (
        click.option(
            "--insecure-http",
            is_flag=True,
            help="Send the key in plain HTTP to other machines than this one, too.",
        ),
        click.option(
            "--ca-file",
            type=options.FILE,
            help="Certificates for HTTPS, in PEM. [default: the system's]",
        ),
        click.option(
            "--key-file",
            type=options.FILE,
            help="Key of an operator. [default: $KANNA_FLEET_KEY]",
        ),
        click.option(
            "--server",
            default="http://127.0.0.1:8750",
            show_default=True,
            metavar="URL",
            help="Address of the server.",
        ),
    ):
        function = option(function)
    return function


def _server(choices: dict[str, Any]) -> FleetServer:
    """Where the fleet is, taken out of the options."""
    from kanna.fleet import FleetServer

    names = ("key_file", "ca_file", "insecure_http")
    return FleetServer(url=choices.pop("server"), **{name: choices.pop(name) for name in names})


@command("serve", handles_signals=True, when_interrupted="Stopped.")
@click.option("--state", type=options.FILE, required=True, help="Folder of devices and models.")
@click.option(
    "--database",
    metavar="URL",
    help="postgresql://USER@HOST/NAME, which several servers may share. [default: a file in "
    "--state]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8750,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "--poll",
    type=options.Number(0.05, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds between two questions of a device.",
)
@click.option("--tls-cert", type=options.FILE, help="Certificate chain in PEM.")
@click.option("--tls-key", type=options.FILE, help="Its key in PEM.")
@click.option(
    "--insecure-http",
    is_flag=True,
    help="Plain HTTP on other addresses than loopback, as behind a proxy that ends TLS.",
)
def serve_command(terminal: Terminal, state: Path, **choices: Any) -> None:
    """Serve a fleet until Ctrl-C: devices ask it what they should have.

    At its first start it makes a key for operators and one for those who only look, as files in
    --state.
    """
    from kanna.fleet import FleetListener, serve

    names = ("host", "port", "tls_cert", "tls_key", "insecure_http")
    listener = FleetListener(**{name: choices.pop(name) for name in names})

    def started(address: str, keys: list[Path]) -> None:
        for path in keys:
            terminal.note(f"Made the key {path}")
        terminal.done(f"Serving the fleet at {address}")

    serve(state, listener=listener, started=started, **choices)


@command("add-device")
@click.argument("name")
@click.option("--target", default="", metavar="NAME", help="What it is, as raspberry-pi-5.")
@click.option("--ring", type=click.IntRange(1, 20), help="The ring it is always in, from 1.")
@click.option("--days", type=options.POSITIVE, help="Days until its key expires. [default: never]")
@_at_server
def add_device_command(terminal: Terminal, name: str, **choices: Any) -> None:
    """Add a device and print its key, which is shown this once."""
    from kanna.fleet import add_device

    terminal.result(add_device(name, server=_server(choices), **choices), _draw_key)


@command("renew-key")
@click.argument("name")
@click.option("--days", type=options.POSITIVE, help="Days until it expires. [default: never]")
@_at_server
def renew_key_command(terminal: Terminal, name: str, **choices: Any) -> None:
    """Give a device another key; its old one is refused from now on."""
    from kanna.fleet import renew_key

    terminal.result(renew_key(name, server=_server(choices), **choices), _draw_key)


@command("remove-device")
@click.argument("name")
@_at_server
def remove_device_command(terminal: Terminal, name: str, **choices: Any) -> None:
    """Forget a device and its key."""
    from kanna.fleet import remove_device

    terminal.result(remove_device(name, server=_server(choices)), _draw_key)


def _draw_key(screen: Console, data: dict[str, Any]) -> None:
    screen.print(data["key"] or f"Removed {data['id']}", markup=False, soft_wrap=True)


@command("devices")
@_at_server
def devices_command(terminal: Terminal, **choices: Any) -> None:
    """List devices, with what each has and should have."""
    from kanna.fleet import devices

    terminal.result(devices(server=_server(choices)), _draw_devices)


def _draw_devices(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import table

    rows = table("device", "target", "has", "should have", "last", "")
    for one in data["devices"]:
        short = [(one[name] or "–")[:12] for name in ("reported", "wanted")]
        rows.add_row(one["id"], one["target"], *short, one["outcome"], one["detail"])
    screen.print(rows)


@command("publish", when_interrupted="Interrupted. The same command goes on where it stopped.")
@click.argument("artefact", metavar="MODEL", type=options.FILE)
@click.option("--name", help="For people. [default: that of the file]")
@click.option("--sign-key", type=options.FILE, help="Private key (PEM) to sign it with.")
@_at_server
def publish_command(terminal: Terminal, artefact: Path, **choices: Any) -> None:
    """Send a model with its self-test to the server, where it can be rolled out."""
    from kanna.fleet import publish

    server = _server(choices)
    result = publish(artefact, server=server, progress=terminal.progress(), **choices)
    terminal.result(result, lambda screen, data: screen.print(data["digest"], soft_wrap=True))


@command("rollout")
@click.argument("artefact", required=False, default="", metavar="[DIGEST]")
@click.option(
    "--ring",
    multiple=True,
    metavar="RING",
    help="PERCENT%[:passes=SHARE%][:failures=N][:soak=TIME][:silent=TIME]; repeatable. "
    "[default: 1%:soak=10m, 10%:soak=10m, 100%]",
)
@click.option("--target", default="", metavar="NAME", help="Devices of one target alone.")
@_at_server
def rollout_command(terminal: Terminal, artefact: str, **choices: Any) -> None:
    """Begin to bring what was published, the latest if no digest is named, to devices.

    A ring is a share of the devices. The next one opens when enough of it passed their self-test,
    for long enough; one failure more than it may have stops the rollout, and devices go back.
    """
    from kanna.fleet import rollout

    server = _server(choices)
    choices["ring"] = choices["ring"] or ()
    terminal.result(rollout(artefact, server=server, **choices), _draw_rollout)


@command("manifests")
@click.argument("artefact", required=False, default="", metavar="[DIGEST]")
@click.option(
    "--for",
    "orchestrator",
    required=True,
    metavar="NAME",
    help="flightctl, mender, azure-iot-operations, greengrass, kubeedge or kubernetes.",
)
@click.option("-o", "--out", type=options.FILE, required=True, help="A new folder.")
@click.option("--image", default="", metavar="REF", help="OCI reference of the model.")
@click.option(
    "--source",
    default="",
    metavar="URL",
    help="Where files are fetched from: a git repository, or s3://BUCKET/FOLDER.",
)
@click.option(
    "--group",
    default="",
    metavar="GROUP",
    help="Which devices: a label KEY=VALUE, a group of Mender, the ARN of a thing group.",
)
@click.option(
    "--ring",
    multiple=True,
    metavar="RING",
    help="As of rollout; repeatable. [default: 1%:soak=10m, 10%:soak=10m, 100%]",
)
@_at_server
def manifests_command(terminal: Terminal, artefact: str, **choices: Any) -> None:
    """Write the rollout of what was published as files for another orchestrator.

    The self-test goes along: where it fails, the orchestrator stops.
    """
    from kanna.fleet import manifests

    server = _server(choices)
    choices["ring"] = choices["ring"] or ()
    terminal.result(manifests(artefact, server=server, **choices), _draw_manifests)


def _draw_manifests(screen: Console, data: dict[str, Any]) -> None:
    for line in data["usage"]:
        screen.print(line, markup=False, soft_wrap=True, highlight=False)
    for remark in data["remarks"]:
        screen.print(f"note: {remark}", markup=False, soft_wrap=True, highlight=False)


@command("pause")
@click.argument("number", type=click.IntRange(1))
@_at_server
def pause_command(terminal: Terminal, number: int, **choices: Any) -> None:
    """Offer a rollout to no further device until it is resumed."""
    from kanna.fleet import pause

    terminal.result(pause(number, server=_server(choices)), _draw_rollout)


@command("resume")
@click.argument("number", type=click.IntRange(1))
@_at_server
def resume_command(terminal: Terminal, number: int, **choices: Any) -> None:
    """Go on with a rollout that was paused."""
    from kanna.fleet import resume

    terminal.result(resume(number, server=_server(choices)), _draw_rollout)


@command("rollback")
@click.argument("number", type=click.IntRange(1))
@_at_server
def rollback_command(terminal: Terminal, number: int, **choices: Any) -> None:
    """End a rollout; its devices go back to what they had before."""
    from kanna.fleet import rollback

    terminal.result(rollback(number, server=_server(choices)), _draw_rollout)


@command("status")
@_at_server
def status_command(terminal: Terminal, **choices: Any) -> None:
    """Show devices, rollouts, and what happened last.

    Exit code 1: the latest rollout was stopped.
    """
    from kanna.fleet import status

    result = status(server=_server(choices))
    terminal.result(result, _draw_status)
    click.get_current_context().exit(0 if result.ok else 1)


def _draw_rollout(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import table

    why = f": {data['reason']}" if data["reason"] else ""
    screen.print(
        f"rollout {data['id']} of {data['model'][:12]} is {data['state']}{why}", markup=False
    )
    rows = table("ring>", "devices>", "passed>", "failed>", "wanted>", "")
    for number, ring in enumerate(data["rings"], 1):
        counts = ring["statuses"]
        failed = counts.get("failed", 0) + counts.get("refused", 0)
        passes = f"{ring['passes'] * 100:g} %"
        state = "open" if ring["open"] else ""
        cells = (number, ring["devices"], counts.get("passed", 0), failed, passes)
        rows.add_row(*map(str, cells), state)
    screen.print(rows)


def _draw_status(screen: Console, data: dict[str, Any]) -> None:
    screen.print(
        f"{data['devices']} devices, {data['seen']} seen lately, "
        f"{data['current']} have what they should"
    )
    for one in data["rollouts"][:3]:
        _draw_rollout(screen, one)
    for event in data["events"][:10]:
        device = event["device"] or ""
        screen.print(f"{event['kind']} {device} {event['detail']}", markup=False, soft_wrap=True)


for _one in (
    serve_command,
    add_device_command,
    renew_key_command,
    remove_device_command,
    devices_command,
    publish_command,
    rollout_command,
    manifests_command,
    pause_command,
    resume_command,
    rollback_command,
    status_command,
):
    fleet_group.add_command(_one)
COMMAND = fleet_group
