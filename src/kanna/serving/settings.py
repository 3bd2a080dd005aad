"""What the gateway is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kanna._util import folders
from kanna.serving.guard.store import KeyStore


def state_folder(folder: Path | str | None = None) -> Path:
    """Folder of keys and usage, made for its owner only when it does not exist.

    Args:
        folder: None: $KANNA_STATE, else ~/.local/state/kanna.
    """
    path = Path(folder) if folder else folders.state_folder()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def open_store(folder: Path | str | None = None) -> KeyStore:
    """Keys and usage of a state folder."""
    return KeyStore(state_folder(folder) / "keys.sqlite")


@dataclass(slots=True, kw_only=True)
class ModelSpec:
    """One model to serve.

    Attributes:
        name: As it stands in requests and answers.
        path: The artefact.
        aliases: Other names for it.
        draft: A small model that guesses ahead.
        adapters: LoRA adapters.
        mmproj: The vision tower; None: it reads text alone.
    """

    name: str
    path: Path
    aliases: list[str] = field(default_factory=list[str])
    draft: Path | None = None
    adapters: list[Path] = field(default_factory=list[Path])
    mmproj: Path | None = None


@dataclass(slots=True, kw_only=True)
class GatewayLimits:
    """What one request and all of them together may take. Sizes in bytes, times in seconds.

    Attributes:
        body: Of one request.
        max_tokens: New tokens of one answer, also for requests that name no number; 0: what the
            context holds.
        queue: Requests that may wait per model; more get 503.
        queue_time: How long one may wait.
        request_time: How long an answer may take, whole or streamed.
        idle_time: How long a stream may stand still, at the engine or at its reader.
        stall_time: How long a client may leave what was sent to it unread before its connection is
            closed.
        connections: Most of them at a time; more are answered 503.
        header_time: How long the head of a request may take to arrive, and then its body.
        load_time: How long a model may take to load.
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
class GatewaySettings:
    """The options of `kanna serve`.

    Attributes:
        host: Where to listen.
        port: 0 takes a free one.
        audit: File of the audit log.
        memory: Bytes all engines together may take; None: 80 % of what is free at the start.
        context: Tokens per slot.
        slots: Requests an engine computes together.
        threads: Of each engine; None: its choice.
        gpu_layers: Layers to put on the GPU; None: the engine's choice.
        native_program: Runs artefacts in place of the Python package, for engines that have one.
        engine_memory: Bytes that one engine may take besides the mapped file of its weights; None:
            twice what its model is reckoned to need, and 2 GiB.
        idle: Unload a model unused for that many seconds; 0: only when its memory is needed.
        keys: Want keys on loopback, too.
        origins: Of web pages elsewhere that may use the gateway, such as https://chat.example;
            `*`: all.
        open_to_all: Want no keys on other addresses than loopback.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    audit: Path | None = None
    memory: int | None = None
    context: int = 4096
    slots: int = 8
    threads: int | None = None
    gpu_layers: int | None = None
    native_program: str | None = None
    engine_memory: int | None = None
    idle: float = 0.0
    keys: bool = False
    origins: tuple[str, ...] = ()
    open_to_all: bool = False
    limits: GatewayLimits = field(default_factory=GatewayLimits)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")

    @property
    def keys_needed(self) -> bool:
        """Whether every request needs a key."""
        return self.keys or not (self.loopback or self.open_to_all)
