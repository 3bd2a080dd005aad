"""Ollama: a Modelfile with the model's own chat template, where that only wraps each turn."""

from __future__ import annotations

from kanna.escaping import visible, visible_text
from kanna.packaging.artefact import Artefact
from kanna.packaging.chat_turns import TurnMarkers, turn_markers
from kanna.packaging.service import Service
from kanna.packaging.targets.base import Target

_QUOTE, _LIKE_A_QUOTE = '"', "'"


def files(service: Service) -> dict[str, str]:
    """Returns the Modelfile."""
    artefact, resources = service.artefact, service.resources
    lines = [
        f"# {_line(artefact.name)}, sha256:{artefact.digest}",
        f"FROM ./{artefact.place}",
        f"PARAMETER num_ctx {resources.context}",
        f"PARAMETER num_thread {resources.cpus}",
    ]
    markers = (
        turn_markers(artefact.chat_template, eos=_eos(artefact)) if artefact.chat_template else None
    )
    if markers:
        lines += _chat(markers)
    elif artefact.chat_template:
        lines.append(
            "# The chat template does more than wrap turns: TEMPLATE is left to what Ollama finds."
        )
    else:
        lines.append("# The model has no chat template: it continues text.")
    if artefact.licence:
        lines.append(f"LICENSE {_block(visible_text(artefact.licence))}")
    return {"Modelfile": "\n".join(lines) + "\n"}


def _chat(markers: TurnMarkers) -> list[str]:
    lines = [f"TEMPLATE {_block(markers.go())}"]
    if markers.default:
        lines.append(f"SYSTEM {_block(markers.default)}")
    if markers.stop:
        lines.append(f"PARAMETER stop {_block(markers.stop)}")
    return lines


def _eos(artefact: Artefact) -> str:
    tokens, number = (
        artefact.model.meta("tokenizer.ggml.tokens"),
        artefact.model.meta("tokenizer.ggml.eos_token_id"),
    )
    return str(tokens[int(number)]) if tokens is not None and number is not None else ""


def _block(text: str) -> str:
    """A value between triple quotes, which cannot hold them nor end with a quote."""
    text = text.replace('"""', "'''")
    return f'"""{text[:-1] + _LIKE_A_QUOTE if text.endswith(_QUOTE) else text}"""'


def _line(text: str) -> str:
    return visible(" ".join(text.split()))


def usage(service: Service) -> list[str]:
    """Returns the shell lines that start the service."""
    return [
        f"ollama create {service.artefact.slug} --file Modelfile",
        f"ollama run {service.artefact.slug}",
    ]


TARGET = Target(
    title="an Ollama model",
    summary="Ollama: a Modelfile with the model's own chat template, translated where it only "
    "wraps each turn",
    files=files,
    usage=usage,
    only=("gguf",),
    installs=False,
)
