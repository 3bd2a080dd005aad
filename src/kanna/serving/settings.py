"""What the gateway is told when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from kanna.serving.guard.store import Store


def state_folder(given: Path | str | None = None) -> Path:
    """Folder of keys and usage: as given, else $KANNA_STATE, else ~/.local/state/kanna.

    Made, for its owner only.
    """
    given = given or os.environ.get("KANNA_STATE")
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = Path(given) if given else base / "kanna"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def open_store(given: Path | str | None = None) -> Store:
    """Keys and usage of a state folder."""
    return Store(state_folder(given) / "keys.sqlite")


@dataclass(slots=True, kw_only=True)
class ModelSpec:
    """One model to serve. `name` stands in requests and answers; aliases are other names for it."""

    name: str
    path: Path
    aliases: list[str] = field(default_factory=list[str])
    draft: Path | None = None
    adapters: list[Path] = field(default_factory=list[Path])


@dataclass(slots=True, kw_only=True)
class Limits:
    """What one request and all of them together may take. Sizes in bytes, times in seconds.

    Attributes:
        max_tokens: 0: what the context holds; also what a request gets that names none.
        queue: Requests that may wait per model; more get 503.
        header_time: How long the head of a request may take to arrive, and then its body.
        request_time: How long an answer may take, whole or streamed.
        idle_time: How long a stream may stand still, at the engine or at its reader.
        stall_time: How long a client may leave what was sent to it unread before its connection is
            closed.
        connections: Most of them at a time; more are answered 503.
    """

    body: int = 8 << 20
    max_tokens: int = 0
    queue: int = 64
    queue_time: float = 60.0
    request_time: float = 600.0
    idle_time: float = 120.0
    stall_time: float = 30.0
    connections: int = 2048
    header_time: float = 10.0
    load_time: float = 300.0


@dataclass(slots=True, kw_only=True)
class Settings:
    """Everything `kanna serve` can be told.

    Attributes:
        memory: Bytes all engines together may take; None: 80 % of what is free at the start.
        context: Tokens per slot.
        slots: Requests an engine computes together.
        idle: Unload a model unused for that many seconds; 0: only when room is needed.
        open_to_all: Other addresses than loopback without keys.
        origins: Of web pages elsewhere that may ask, such as https://chat.example; `*`: all.
        keys: Ask for keys on loopback too.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    state: Path | None = None
    audit: Path | None = None
    memory: int | None = None
    context: int = 4096
    slots: int = 8
    threads: int | None = None
    gpu_layers: int | None = None
    llama_server: str | None = None
    idle: float = 0.0
    keys: bool = False
    origins: tuple[str, ...] = ()
    open_to_all: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def loopback(self) -> bool:
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")

    @property
    def keys_needed(self) -> bool:
        return self.keys or not (self.loopback or self.open_to_all)
