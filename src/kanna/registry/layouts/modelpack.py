"""CNCF ModelPack: https://github.com/modelpack/model-spec, specs-go/v1.

Weights are layers as they are, neither archived nor compressed, so that a variant that shares a
file shares its layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from kanna.registry.layouts.base import LayoutSubject, RegistryLayout, named_files
from kanna.registry.manifests import Descriptor, ManifestDocument

MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT = "application/vnd.cncf.model.doc.v1.raw"
# Docker Model Runner's own, outside the list of the specification.
WEIGHTS = frozenset(
    {
        WEIGHT,
        "application/vnd.cncf.model.weight.v1.gguf",
        "application/vnd.cncf.model.weight.v1.safetensors",
    }
)
FILES = WEIGHTS | {WEIGHT_CONFIG, DOCUMENT}
"""Media types of layers that are files."""
_SIDE = {".json", ".jinja", ".model", ".txt", ".jsonl", ".yaml", ".vocab", ".tiktoken"}


def media_type_of(place: str) -> str:
    """The media type of a file of a model, by its name."""
    name = PurePosixPath(place).name
    if name.upper().startswith(("README", "LICENSE", "LICENCE", "NOTICE")):
        return DOCUMENT
    return WEIGHT_CONFIG if PurePosixPath(name).suffix.lower() in _SIDE else WEIGHT


def config_of(subject: LayoutSubject, layers: Sequence[Descriptor]) -> Mapping[str, Any]:
    """The configuration of a model, as ModelPack has it."""
    descriptor: dict[str, Any] = {"name": subject.name, "family": subject.family}
    if subject.licence:
        descriptor["licenses"] = [subject.licence]
    config: dict[str, Any] = {"architecture": "transformer", "format": subject.format}
    if subject.parameters:
        config["paramSize"] = f"{subject.parameters / 1e9:.3g}b"
    if subject.plan:
        config["quantization"] = subject.plan
    return {
        "descriptor": descriptor,
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        "config": config,
    }


def _files(manifest: ManifestDocument, what: str) -> dict[str, Descriptor]:
    return named_files(manifest, what, FILES, WEIGHTS)


LAYOUT = RegistryLayout(
    summary="CNCF ModelPack: files as they are, named by their layers",
    readers=("modctl", "oras", "Docker Model Runner"),
    artifact_type=MODEL,
    config_type=CONFIG,
    config=config_of,
    media_type=media_type_of,
    kinds=frozenset({MODEL, CONFIG}),
    files=_files,
    weights=WEIGHTS,
    companions=frozenset({WEIGHT_CONFIG}),
    variants=True,
)
