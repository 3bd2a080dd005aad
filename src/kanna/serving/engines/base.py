"""What an engine is: it recognizes an artefact, says what memory it takes, and runs it.

An engine runs in a child process. The child listens on a loopback port, needs the internal key as
a bearer token on every request, and answers `/health`, `/v1/chat/completions`, `/v1/completions`,
`/tokenize`, `/detokenize` and `/apply-template` for one choice of one prompt, and `/slots` and
`/props` as llama.cpp's server does. The role `embed` answers `/v1/embeddings`, `rank` answers
`/v1/rerank`; `score` answers
`/score`: {"prompt": text or ids, "top": k} → {"tokens": [{"text", "logprob", "top": [[text,
logprob], …]}, …]}, one entry per token, the first without a log-probability.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanna.serving.engines.chat_check import ChatCheck

CONTEXT_EXCEEDED = "exceed_context_size_error"
"""Type of an engine's error for a prompt longer than its context, by llama.cpp's name for it."""
GENERATE, EMBED, RANK, SCORE = "generate", "embed", "rank", "score"
"""The roles that an engine process can have."""


@dataclass(slots=True, kw_only=True)
class EngineConfig:
    """What a child process reads from its standard input before it loads a model.

    Attributes:
        engine: Name of the engine.
        path: The artefact.
        name: Public name of the model, as it stands in answers.
        role: `generate`, `embed`, `rank` or `score`.
        key: Internal key, known to the gateway alone.
        context: Tokens per slot.
        slots: Requests computed together.
        threads: Threads to compute with; None: the engine's choice.
        gpu_layers: Layers to put on the GPU; None: the engine's choice.
        draft: A small model that guesses ahead, for engines that take one.
        adapters: LoRA adapters, for engines that take them.
        mmproj: A vision tower, for engines that take one.
        program: A native program that runs the artefact in place of the Python package.
        memory_limit: Bytes that the process may take besides the mapped file; None: any.
        chat_template: In place of the artefact's own, which takes more than a template may.
    """

    engine: str
    path: str
    name: str
    role: str = field(
        default=GENERATE, metadata={"about": "`generate`, `embed`, `rank` or `score`"}
    )
    key: str = ""
    context: int = field(default=4096, metadata={"about": "Tokens per slot"})
    slots: int = field(default=8, metadata={"about": "Requests computed together"})
    threads: int | None = field(
        default=None, metadata={"about": "Threads to compute with; None: the engine's choice"}
    )
    gpu_layers: int | None = field(
        default=None, metadata={"about": "Layers to put on the GPU; None: the engine's choice"}
    )
    draft: str | None = field(
        default=None,
        metadata={"about": "A small model that guesses ahead, for engines that take one"},
    )
    adapters: list[str] = field(
        default_factory=list[str], metadata={"about": "LoRA adapters, for engines that take them"}
    )
    mmproj: str | None = field(
        default=None, metadata={"about": "A vision tower, for engines that take one"}
    )
    program: str | None = field(
        default=None,
        metadata={"about": "A native program that runs the model in place of the Python package"},
    )
    memory_limit: int | None = field(
        default=None,
        metadata={"about": "Bytes that the process may take besides the mapped file; None: any"},
    )
    chat_template: str | None = field(
        default=None,
        metadata={"about": "In place of the model's own, which takes more than a template may"},
    )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EngineConfig:
        """The configuration that `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(slots=True, kw_only=True)
class EngineMemory:
    """Bytes a running engine takes: weights, key-value cache of all slots, working buffers."""

    weights: int
    cache: int
    buffers: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.cache + self.buffers


@dataclass(slots=True, kw_only=True, frozen=True)
class ProgramChoice:
    """Which program runs the artefacts of an engine.

    Attributes:
        program: Path of a native program; None: the Python package.
        reason: Why, in a sentence for people; empty when there was nothing to choose.
    """

    program: str | None = None
    reason: str = ""


ProgramChooser = Callable[[EngineConfig, Path, Callable[[str], None]], ProgramChoice]
"""Chooses a program for a model: its configuration, the state folder, a callback for remarks."""


def _generates(_: Path) -> str:
    return GENERATE


@dataclass(slots=True, kw_only=True, frozen=True)
class ServingEngine:
    """One kind of engine. Everything but `run` happens in the gateway and must not load a model.

    Attributes:
        name: The name of its file, which `EngineConfig.engine` holds.
        summary: What it is, in a line.
        artefact: What it runs, as it stands in messages: "a .gguf file".
        suffix: Ending of the artefact's file, which a model's name leaves out; empty for folders.
        extra: The extra that installs its runtime.
        modules: What `run` imports in any case: a child imports them before it knows its artefact.
        unneeded: Packages that those load where they are installed, and `run` has no use for.
        roles: What it can do.
        separate_roles: Those of `roles` that take a process of their own.
        role_of: What an artefact is for: the role of the process that every model has.
        forces_tool_calls: Whether `tool_choice: required` always gives calls; where it does not,
            the gateway holds the answer to a schema of calls.
        constraint_trial: Makes, in a process of its own and for an artefact, a function that
            compiles a constraint (its kind, `schema` or `grammar`, and its text) as the engine
            would, and says why it is refused, or ""; None where the engine compiles none.
        vocab_size: How many tokens an artefact has, where the engine takes biases for others at a
            cost; None where it leaves them out itself.
        probe: The route that answers only while the thread that computes moves.
        takes_adapters: Whether it loads LoRA adapters.
        check_adapter: Holds an adapter to an artefact, whose files it gets, before anything is
            loaded, and raises UsageError; None where the runtime alone does.
        takes_draft: Whether it loads a draft model.
        check_tower: Holds a vision tower to an artefact, whose files it gets, and raises
            FormatError; None where the engine reads no pictures.
        accepts: Whether an artefact is of its kind, from its name and headers.
        missing: The command that installs what is missing; empty when everything is here.
        memory: Bytes that a process of this configuration takes.
        run: In the child: load the model, call `announce_ready(port)`, serve until the process
            ends.
        choose_program: Chooses between the Python package and a native program, which
            `EngineConfig.program` names; None where there is no native program.
        chat_check: In the gateway, for a program that renders chat templates itself, without
            limits: what renders them before.
    """

    name: str
    summary: str = ""
    artefact: str
    suffix: str = ""
    extra: str
    modules: tuple[str, ...]
    unneeded: tuple[str, ...] = ()
    roles: tuple[str, ...]
    separate_roles: tuple[str, ...] = ()
    role_of: Callable[[Path], str] = _generates
    forces_tool_calls: bool = False
    constraint_trial: Callable[[str], Callable[[str, str], str]] | None = None
    vocab_size: Callable[[Path], int] | None = None
    probe: str = "/health"
    takes_adapters: bool = False
    check_adapter: Callable[[Path, Path], object] | None = None
    takes_draft: bool = False
    check_tower: Callable[[Path, Path], object] | None = None
    accepts: Callable[[Path], bool]
    missing: Callable[[], str]
    memory: Callable[[EngineConfig], EngineMemory]
    run: Callable[[EngineConfig], None]
    choose_program: ProgramChooser | None = None
    chat_check: Callable[[Path], ChatCheck] | None = None
