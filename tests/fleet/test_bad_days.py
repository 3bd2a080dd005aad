"""Clocks that are wrong and disks that are full, on the devices and on the server."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import fleets, needs
from helpers.fleets import HereFleet, ServerProcess

from kanna import fleet
from kanna.fleet.device.polling import agent
from kanna.fleet.device.versions import DeviceFolder

GOOD, BETTER = b"good 1" * 50_000, b"good 2" * 50_000
YEAR = 365 * 86_400


def rolled_out(here: HereFleet, content: bytes) -> str:
    """Publish, roll out, and let the device follow."""
    digest = here.publish(content)
    number = here.rollout()
    assert here.agent("pi").outcome == "passed" and here.content("pi") == content
    here.until(number, "done")
    return digest


@pytest.mark.parametrize("away", [-5 * YEAR, 5 * YEAR])
def test_a_clock_that_jumps_and_comes_back_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: int
) -> None:
    """Of the server and of who publishes: numbers grow all the same."""
    with fleets.here(tmp_path) as here:
        here.add("pi")
        rolled_out(here, GOOD)
        now = time.time
        with pytest.MonkeyPatch.context() as patch:
            for place in ("store", "controller", "service", "access", "operations"):
                patch.setattr(f"kanna.fleet.{place}.time.time", lambda: now() + away)
            rolled_out(here, BETTER)
        assert abs(time.time() - now()) < 60
        rolled_out(here, b"good 3")
        published = fleet.status(server=here.server).status["artefacts"]
        sequences = [one["sequence"] for one in published]
        assert sequences == sorted(sequences, reverse=True) and len({*sequences}) == 3


def test_a_device_whose_clock_is_wrong_keeps_what_it_has(tmp_path: Path) -> None:
    """For it no certificate of the server holds; nothing else depends on the time."""
    faketime = needs.program("faketime", install="faketime")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    about = ["-nodes", "-days", "2", "-subj", "/CN=f", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    # What a clock that is five years ahead makes of a certificate: it ended long ago.
    subprocess.run(
        [faketime, "2020-01-01 00:00:00", *make, *about, *files], check=True, capture_output=True
    )
    tls = ("--port", "0", "--tls-cert", str(cert), "--tls-key", str(key))
    server = ServerProcess(tmp_path / "state", *tls)
    try:
        home = tmp_path / "pi"
        folder = DeviceFolder(home)
        (home / "versions" / ("a" * 64)).mkdir()
        folder.swap("a" * 64)
        device_key = tmp_path / "pi.key"
        device_key.write_text((tmp_path / "state" / "operator.key").read_text())
        result = agent(
            home, server=server.url, key_file=device_key, ca_file=cert, self_test="true", once=True
        )
        assert result.outcome == "unreachable" and "does not hold" in result.detail
        assert result.current == "a" * 64
    finally:
        server.stop()


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Generator[Path]:
    """A file system of so many kilobytes, which is gone again at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a file system of its own")
    folder.mkdir(parents=True)
    size = f"size={kilobytes}k"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_in_the_middle_leaves_a_working_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fleets.here(tmp_path) as here, small_disk(here.home("pi"), 500):
        here.add("pi")
        monkeypatch.setattr(DeviceFolder, "free", lambda _: 1 << 40)  # none is left, it turns out
        rolled_out(here, GOOD)
        here.publish(BETTER)
        number = here.rollout()
        result = here.agent("pi")
        assert result.outcome == "unable" and "takes no more" in result.detail
        assert here.content("pi") == GOOD
        here.until(number, "running")
        assert not [*(here.home("pi") / "parts").iterdir()], "what came goes again"
        fleet.rollback(number, server=here.server)
        assert here.agent("pi") and here.content("pi") == GOOD


def test_a_server_whose_disk_is_full_acknowledges_nothing_that_it_does_not_keep(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "disk", 4000) as disk,
        fleets.here(tmp_path / "here", place=disk / "f.sqlite") as here,
    ):
        here.add("pi")
        here.publish(GOOD)
        number = here.rollout()
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as opened, pytest.raises(OSError, match="No space"):
            while True:
                opened.write(b"x" * 4096)
        for _ in range(50):  # until what SQLite has of the disk already is used up
            result = here.agent("pi")
            device = here.store.device("pi")
            assert device is not None
            if result.outcome == "unreachable":
                break
            assert device.outcome == "passed", "it was acknowledged"
        else:
            raise AssertionError("the disk was never full")
        filler.unlink()
        here.agent("pi")
        assert here.content("pi") == GOOD
        here.until(number, "done")
        device = here.store.device("pi")
        assert device is not None and device.outcome == "passed" and device.reported
