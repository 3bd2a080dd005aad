"""No telemetry: no library that kanna loads asks the network for anything, or writes elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import engine_artefacts, needs, tiny_encoder, watching

import kanna
from kanna._util import telemetry

NEEDED = ("torch", "transformers", "onnxruntime", "onnxruntime_genai", "mlx_lm", "openvino")
for _package in NEEDED:
    pytest.importorskip(_package)

TESTS = Path(__file__).parents[1]
SOURCE = Path(kanna.__file__).parents[1]
REPORTS = [*telemetry.SWITCHES, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CI"]
"""Variables a user may not have set: the switches must be kanna's own."""


CLOCK = Path("/var/lib/libuuid/clock.txt")
"""Of the system, where it has one: when libuuid last made a name (onnx asks for one)."""


def _environment(folder: Path) -> dict[str, str]:
    """Of a user who set nothing, with a home of their own and kanna's caches where they are."""
    places = {"HOME": folder / "home", "TMPDIR": folder / "tmp"}
    for place in places.values():
        place.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in REPORTS and not k.startswith("XDG_")}
    return (
        kept
        | {name: str(place) for name, place in places.items()}
        | {
            "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, TESTS))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "KANNA_CACHE": str(folder / "cache"),
        }
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, watching.Watched]:
    """Every library and every process of kanna, once, by a user who set nothing."""
    needs.program("strace", install="strace")
    folder = tmp_path_factory.mktemp("watched")
    for name in ("decoder", "encoder"):
        (folder / name).mkdir()
    engine_artefacts.source(folder / "decoder")
    tiny_encoder.make(folder / "encoder")
    command = [sys.executable, "-m", "helpers.every_library", str(folder)]
    seen = watching.run(command, folder, _environment(folder))
    assert seen.code == 0, seen.output[-3000:]
    return folder, seen


def test_no_library_asks_the_network(session: tuple[Path, watching.Watched]) -> None:
    assert session[1].asked == []


def test_nothing_is_written_elsewhere(session: tuple[Path, watching.Watched]) -> None:
    folder, seen = session
    elsewhere = {p for p in seen.written if p.is_absolute() and not p.is_relative_to(folder)}
    assert elsewhere <= {CLOCK}
    home = [p.relative_to(folder / "home") for p in (folder / "home").rglob("*") if p.is_file()]
    assert not home


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.create_connection(('192.0.2.1', 443), 1)",
        "import socket; socket.getaddrinfo('telemetry.example', 443)",
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.sendto(b'x', ('192.0.2.1', 53))",
        "import socket; s = socket.socket(socket.AF_INET6); s.settimeout(1);"
        "s.connect(('2001:db8::1', 443))",
        "import subprocess, sys; subprocess.run([sys.executable, '-c',"
        "'import socket; socket.gethostbyname(\"telemetry.example\")'])",
    ],
    ids=["connect", "lookup", "datagram", "ipv6", "child"],
)
def test_what_calls_home_is_seen(program: str, tmp_path: Path) -> None:
    seen = watching.run([sys.executable, "-c", program], tmp_path, dict(os.environ))
    assert seen.asked


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_library_alone_is_seen(library: str, tmp_path: Path) -> None:
    """Without the switch it writes a device id; where it no longer does, the switch may go."""
    environment = _environment(tmp_path)
    program = f"import {library}, tempfile; open(tempfile.gettempdir() + '/mine', 'w')"
    for switch, quiet in (("", False), ("import kanna\n", True)):
        seen = watching.run([sys.executable, "-c", switch + program], tmp_path, environment)
        assert tmp_path / "tmp" / "mine" in seen.written, seen.output
        at_home = [p for p in seen.written if p.is_relative_to(tmp_path / "home")]
        assert bool(at_home) is not quiet, at_home


def test_every_switch_is_set_whatever_it_was() -> None:
    program = "import os, kanna; print(*(os.environ[n] for n in kanna._util.telemetry.SWITCHES))"
    environment = os.environ | dict.fromkeys(telemetry.SWITCHES, "")
    environment |= {"PYTHONPATH": str(SOURCE), "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == list(telemetry.SWITCHES.values())
