"""Models as Docker Model Runner packages them, and as Docker Hub has them below `ai/`.

https://github.com/docker/model-spec (spec.md, config.md) has the media types; of the program,
github.com/docker/model-runner, pkg/distribution/types/config.go. Layers need not name their files:
parts of a GGUF are in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from kanna._util.units import format_size
from kanna.errors import UnsupportedError
from kanna.registry.layouts.base import (
    LayoutSubject,
    RegistryLayout,
    check_type,
    check_weights,
    name_of,
)
from kanna.registry.manifests import Descriptor, ManifestDocument, check_place

CONFIG = "application/vnd.docker.ai.model.config.v0.1+json"
NESTED_CONFIG = "application/vnd.docker.ai.model.config.v0.2+json"
"""Of models whose layers all name their files."""
GGUF = "application/vnd.docker.ai.gguf.v3"
SAFETENSORS = "application/vnd.docker.ai.safetensors"
LICENCE = "application/vnd.docker.ai.license"
TEMPLATE = "application/vnd.docker.ai.chat.template.jinja"
FILE = "application/vnd.docker.ai.model.file"
_TOWERS = ("application/vnd.docker.ai.mmproj", f"{GGUF}.mmproj")
"""The program's name for it, and the specification's."""
_WEIGHTS = frozenset({GGUF, SAFETENSORS})
_NAMES = {
    GGUF: "model.gguf",
    SAFETENSORS: "model.safetensors",
    LICENCE: "LICENSE",
    TEMPLATE: "chat_template.jinja",
    **dict.fromkeys(_TOWERS, "mmproj.gguf"),
}
"""What a file is called that its layer does not name."""
_ALLOWED = frozenset({*_NAMES, FILE})


def _media_type(place: str) -> str:
    name = PurePosixPath(place).name.lower()
    if name.endswith(".gguf"):
        return _TOWERS[0] if name.startswith("mmproj") else GGUF
    if name.endswith(".jinja"):
        return TEMPLATE
    return LICENCE if name.startswith(("license", "licence")) else FILE


def _config(subject: LayoutSubject, layers: Sequence[Descriptor]) -> Mapping[str, Any]:
    """As the program reads it: `rootfs`; as the specification has it, too: `files`, `gguf`."""
    config: dict[str, Any] = {
        "format": subject.format,
        "format_version": "3",
        "architecture": subject.family,
        "size": format_size(subject.num_bytes),
    }
    described = {"architecture": subject.family}
    if subject.parameters:
        config["parameters"] = described["parameter_count"] = _count(subject.parameters)
    if subject.plan:
        config["quantization"] = described["quantization"] = subject.plan
    return {
        "config": config | {subject.format: described},
        "descriptor": {},
        "rootfs": {"type": "rootfs", "diff_ids": [layer.digest for layer in layers]},
        "files": [{"diffID": layer.digest, "type": layer.media_type} for layer in layers],
    }


def _count(parameters: int) -> str:
    """A number of weights in the specification's style: `134.52 M`."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.2f} {letter}"
    return str(parameters)


def _files(manifest: ManifestDocument, what: str) -> dict[str, Descriptor]:
    files: dict[str, Descriptor] = {}
    for layer, place in _placed(manifest, what):
        check_place(place, files, what)
        files[place] = layer
    check_weights(files, what, _WEIGHTS)
    return files


def _placed(manifest: ManifestDocument, what: str) -> Iterator[tuple[Descriptor, str]]:
    """Every layer with the path of its file."""
    nameless: dict[str, list[Descriptor]] = {}
    for layer in manifest.children:
        check_type(layer, what, _ALLOWED)
        if name_of(layer):
            yield layer, name_of(layer)
        elif layer.media_type in _NAMES:
            nameless.setdefault(_NAMES[layer.media_type], []).append(layer)
        else:
            raise UnsupportedError(
                f"{what} has a layer of {layer.media_type} without a name", expected="its filepath"
            )
    for name, layers in nameless.items():
        for at, layer in enumerate(layers):
            yield layer, _one_of(name, at, len(layers))


def _one_of(name: str, at: int, count: int) -> str:
    """The name of one of several files of a kind; parts of weights as llama.cpp names them."""
    path = PurePosixPath(name)
    if count == 1:
        return name
    if path.stem == "model":
        return f"model-{at + 1:05d}-of-{count:05d}{path.suffix}"
    return f"{path.stem}-{at + 1}{path.suffix}" if at else name


LAYOUT = RegistryLayout(
    summary="Docker Model Runner's: a GGUF, as below `ai/` on Docker Hub",
    readers=("docker model pull",),
    artifact_type=None,
    config_type=CONFIG,
    config=_config,
    media_type=_media_type,
    kinds=frozenset({CONFIG, NESTED_CONFIG}),
    files=_files,
    weights=_WEIGHTS,
    companions=frozenset({FILE}),
    formats=frozenset({"gguf"}),
)
