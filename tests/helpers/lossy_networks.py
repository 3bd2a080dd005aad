"""Networks that lose things: a proxy on loopback, and namespaces of Linux, which need root."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers import needs

BRIDGE, HERE = "kfleet0", "10.77.0.1"


class LossyProxy:
    """TCP between agents and a server, by chance late, cut in the middle, or without an answer.

    Args:
        port: Of the server, on loopback.
        seed: Other chances for another number.
    """

    def __init__(self, port: int, seed: int) -> None:
        self._server, self._rng = port, random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.cut = self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fate = self._rng.random()
            # A fifth is cut: at once, or within what would be a file.
            left = int(self._rng.random() ** 3 * 240_000) if fate < 0.2 else None
            if fate < 0.05:
                self.cut += 1
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server), timeout=10)
            except OSError:
                client.close()
                continue
            self.cut += left is not None
            self.passed += left is None
            pair = [(client, server, None), (server, client, left)]
            for source, target, most in pair:
                late = self._rng.random() * 0.02
                threading.Thread(
                    target=_pump, args=(source, target, most, late), daemon=True
                ).start()


def _pump(source: socket.socket, target: socket.socket, left: int | None, late: float) -> None:
    """Bytes one way, each part late, up to so many."""
    with suppress(OSError):
        source.settimeout(60)
        while data := source.recv(65_536):
            time.sleep(late)
            if left is not None and len(data) > left:
                target.sendall(data[:left])
                break
            target.sendall(data)
            left = None if left is None else left - len(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        target.close()


class Namespaces:
    """A namespace for each name, on a bridge to `HERE`; packets are lost both ways."""

    def __init__(self, names: Sequence[str], loss: float) -> None:
        self.names, self.loss = names, loss
        self.by_netem = self.outages = 0

    @staticmethod
    def place(name: str) -> Path:
        """The file of a device's namespace."""
        return Path("/run/netns") / f"kf-{name}"

    def make(self) -> None:
        """Make all of them."""
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{HERE}/16", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(self.names):
            space, link = f"kf-{name}", f"kf{number}"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", link, "master", BRIDGE, "up")
            lines = (
                f"addr add 10.77.{1 + number // 250}.{1 + number % 250}/16 dev eth0\n"
                "link set eth0 up\nlink set lo up\n"
            )
            subprocess.run(["ip", "-n", space, "-batch", "-"], input=lines, text=True, check=True)
            self._lose(space)

    def _lose(self, space: str) -> None:
        """By netem where the kernel has it, with delays; else by a rule of iptables."""
        inside = ["ip", "netns", "exec", space]
        netem = ["tc", "qdisc", "add", "dev", "eth0", "root", "netem"]
        how = ["delay", "20ms", "10ms", "loss", f"{self.loss:.0%}"]
        if not subprocess.run([*inside, *netem, *how], capture_output=True, check=False).returncode:
            self.by_netem += 1
        for chain in ("INPUT", "OUTPUT"):
            rule = ["-m", "statistic", "--mode", "random", "--probability", str(self.loss)]
            _run(*inside, "iptables", "-w", "-A", chain, "-p", "tcp", *rule, "-j", "DROP")

    def away(self, name: str, seconds: float) -> None:
        """Pull the plug of a device for a while."""
        link = f"kf{self.names.index(name)}"
        self.outages += 1
        _run("ip", "link", "set", link, "down")
        time.sleep(seconds)
        _run("ip", "link", "set", link, "up")

    def remove(self) -> None:
        """Remove what was made, and what a run that was killed left."""
        for path in Path("/run/netns").glob("kf-*"):
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


@contextmanager
def namespaces(names: Sequence[str], loss: float) -> Generator[Namespaces]:
    """Namespaces that are gone again at the end; without root the test is skipped."""
    for program, package in (("ip", "iproute2"), ("iptables", "iptables")):
        needs.program(program, install=package)
    if os.geteuid() != 0 or shutil.which("ip") is None:
        needs.absent("needs network namespaces", install="as root")
    made = Namespaces(names, loss)
    made.remove()
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
