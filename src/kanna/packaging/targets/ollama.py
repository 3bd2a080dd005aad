"""Ollama: a Modelfile with the model's own chat template, translated where it is one that only wraps turns."""

from __future__ import annotations

from kanna.packaging.artefact import Artefact
from kanna.packaging.service import Service
from kanna.packaging.targets.base import Target
from kanna.packaging.turns import Turns, turns_of


def files(service: Service) -> dict[str, str]:
    artefact, told = service.artefact, service.resources
    lines = [
        f"# {_line(artefact.name)}, sha256:{artefact.digest}",
        f"FROM ./{artefact.place}",
        f"PARAMETER num_ctx {told.context}",
        f"PARAMETER num_thread {told.cpus}",
    ]
    turns = turns_of(artefact.chat_template, eos=_eos(artefact)) if artefact.chat_template else None
    if turns:
        lines += _chat(turns)
    elif artefact.chat_template:
        lines.append(
            "# The chat template does more than wrap turns: TEMPLATE is left to what Ollama finds."
        )
    else:
        lines.append("# The model has no chat template: it continues text.")
    if artefact.licence:
        lines.append(f"LICENSE {_block(artefact.licence)}")
    return {"Modelfile": "\n".join(lines) + "\n"}


def _chat(turns: Turns) -> list[str]:
    found = [f"TEMPLATE {_block(turns.go())}"]
    if turns.default:
        found.append(f"SYSTEM {_block(turns.default)}")
    if turns.stop:
        found.append(f"PARAMETER stop {_block(turns.stop)}")
    return found


def _eos(artefact: Artefact) -> str:
    tokens, number = (
        artefact.model.meta("tokenizer.ggml.tokens"),
        artefact.model.meta("tokenizer.ggml.eos_token_id"),
    )
    return str(tokens[int(number)]) if tokens is not None and number is not None else ""


def _block(text: str) -> str:
    """A value between triple quotes, which cannot hold them."""
    return '"""' + text.replace('"""', "'''") + '"""'


def _line(text: str) -> str:
    return " ".join(text.split())


def usage(service: Service) -> list[str]:
    return [
        f"ollama create {service.artefact.slug} --file Modelfile",
        f"ollama run {service.artefact.slug}",
    ]


TARGET = Target(about="an Ollama model", files=files, usage=usage, kinds=("gguf",))
