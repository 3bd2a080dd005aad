"""Answers that are cut: the network's fault, never the model's."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from kanna.fleet.connection import FleetConnection, FleetServer, UnreachableError

WHOLE = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-6/7\r\nContent-Length: 2\r\n\r\n{}"


def answered(answer: bytes, folder: Path) -> FleetConnection:
    """A connection to who sends these bytes and goes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def once() -> None:
        with listener, listener.accept()[0] as line:
            line.recv(65_536)
            line.sendall(answer)

    threading.Thread(target=once, daemon=True).start()
    key = folder / "key"
    key.write_text("kanna-a-b")
    port = listener.getsockname()[1]
    return FleetConnection(FleetServer(url=f"http://127.0.0.1:{port}", key_file=key))


@pytest.mark.parametrize("bytes_left", range(len(WHOLE)))
def test_an_answer_that_is_cut_anywhere_is_none(bytes_left: int, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        answered(WHOLE[:bytes_left], tmp_path).ask("GET", "/")


def test_a_whole_answer_is_taken(tmp_path: Path) -> None:
    assert answered(WHOLE, tmp_path).ask("GET", "/") == {}
