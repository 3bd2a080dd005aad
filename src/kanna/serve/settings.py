"""What the gateway is told when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def state_folder() -> Path:
    """Folder of keys, usage and running gateways: $KANNA_STATE, else ~/.local/state/kanna. Made, for its owner only."""
    given = os.environ.get("KANNA_STATE")
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = Path(given) if given else base / "kanna"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


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
    """What one request, one connection and all of them together may take. Sizes in bytes, times in seconds.

    prompt_tokens: 0: what the context holds
    max_tokens:    0: what the context holds; also what a request gets that names none
    queue:         requests that may wait per model; more get 503
    stall:         how long a client may leave its answer unread
    header_time:   how long a request may take to arrive up to the end of its headers, and its body likewise
    """

    body: int = 8 << 20
    prompt_tokens: int = 0
    max_tokens: int = 0
    choices: int = 8
    prompts: int = 128
    queue: int = 64
    queue_time: float = 60.0
    request_time: float = 600.0
    stall: float = 60.0
    header_time: float = 10.0
    connections: int = 4096
    load_time: float = 300.0


@dataclass(slots=True, kw_only=True)
class Settings:
    """Everything `kanna serve` can be told.

    memory:       bytes all engines together may take; None: 80 % of what is free at the start
    context:      tokens per slot
    slots:        requests an engine computes together
    idle:         unload a model unused for that many seconds; 0: only when room is needed
    open_to_all:  other addresses than loopback without keys
    keys:         ask for keys on loopback too
    open_metrics: /metrics without a key
    log_prompts:  prompts in the audit log
    """

    host: str = "127.0.0.1"
    port: int = 8080
    database: Path | None = None
    audit: Path | None = None
    memory: int | None = None
    context: int = 4096
    slots: int = 8
    threads: int | None = None
    gpu_layers: int | None = None
    llama_server: str | None = None
    idle: float = 0.0
    keys: bool = False
    open_to_all: bool = False
    open_metrics: bool = False
    log_prompts: bool = False
    cors: list[str] = field(default_factory=list[str])
    special_tokens: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    otel: str | None = None
    canary: CanarySpec | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def loopback(self) -> bool:
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")

    @property
    def keys_needed(self) -> bool:
        return self.keys or not (self.loopback or self.open_to_all)


@dataclass(slots=True, kw_only=True)
class CanarySpec:
    """A second artefact that gets a share of one model's traffic.

    share:     of requests that it answers, 0 … 1
    agreement: least share of equal next tokens; below it the canary is taken back
    latency:   most its median time to first token may be, as a multiple of the model's own
    errors:    most of its answers that may fail, 0 … 1
    probes:    comparisons before it is judged
    """

    model: str
    path: Path
    share: float = 0.05
    agreement: float = 0.9
    latency: float = 1.5
    errors: float = 0.02
    probes: int = 20
