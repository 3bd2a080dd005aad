"""A real PostgreSQL of this machine, in a folder, on a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from helpers import needs

_FAST = ("fsync=off", "listen_addresses=", "shared_buffers=16MB", "max_connections=40")


class Cluster:
    """A running server; each `database` of it is new.

    Args:
        programs: Folder of its programs.
        folder: Of its files, and of its socket.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self.folder, self._made = programs, folder, 0
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None

    def run(self, program: str, *words: str) -> None:
        """Run one of its programs, as its user."""
        done = subprocess.run(
            [self._programs / program, *words],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = " ".join(
            f"-c {one}" for one in (*_FAST, f"unix_socket_directories={self.folder}")
        )
        files, log = f"{self.folder}/data", f"{self.folder}/log"
        self.run("pg_ctl", "start", "-w", "-D", files, "-l", log, "-o", options)

    def stop(self, how: str = "fast") -> None:
        """End it; `immediate` is as if the machine had ended."""
        self.run("pg_ctl", "stop", "-w", "-D", f"{self.folder}/data", "-m", how)

    def database(self) -> str:
        """The address of a new database."""
        self._made += 1
        self.run("createdb", "-h", str(self.folder), "-U", "fleet", f"fleet{self._made}")
        return f"postgresql://fleet@/fleet{self._made}?host={self.folder}"


@contextmanager
def running() -> Generator[Cluster]:
    """A cluster for as long as the block takes."""
    needs.package("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not found:
        needs.absent("needs PostgreSQL", install="postgresql")
    # The path of a socket has 107 characters at most: no folder of pytest.
    folder = Path(tempfile.mkdtemp(prefix="kpg", dir="/tmp"))  # noqa: S108
    cluster = Cluster(found[-1], folder)
    try:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        cluster.run("initdb", "-D", f"{folder}/data", "-U", "fleet", "--no-sync", "-A", "trust")
        cluster.start()
        yield cluster
        cluster.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
