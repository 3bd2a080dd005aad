"""ModelPack by the names that it had at CNAI, before CNCF took it.

RamaLama looks for these alone: ramalama/transports/oci/spec.py of github.com/containers/ramalama.
"""

from __future__ import annotations

from kanna.registry.layouts import modelpack
from kanna.registry.layouts.base import RegistryLayout, named_files
from kanna.registry.manifests import Descriptor, ManifestDocument


def _earlier(media_type: str) -> str:
    return media_type.replace("vnd.cncf.model.", "vnd.cnai.model.")


_MODEL, _CONFIG = _earlier(modelpack.MODEL), _earlier(modelpack.CONFIG)
_WEIGHTS = frozenset({_earlier(modelpack.WEIGHT)})
_ALLOWED = _WEIGHTS | {_earlier(modelpack.WEIGHT_CONFIG), _earlier(modelpack.DOCUMENT)}


def _media_type(place: str) -> str:
    return _earlier(modelpack.media_type_of(place))


def _files(manifest: ManifestDocument, what: str) -> dict[str, Descriptor]:
    return named_files(manifest, what, _ALLOWED, _WEIGHTS)


LAYOUT = RegistryLayout(
    summary="ModelPack by its earlier names, which RamaLama reads",
    readers=("RamaLama",),
    artifact_type=_MODEL,
    config_type=_CONFIG,
    config=modelpack.config_of,
    media_type=_media_type,
    kinds=frozenset({_MODEL, _CONFIG}),
    files=_files,
    weights=_WEIGHTS,
    companions=frozenset({_earlier(modelpack.WEIGHT_CONFIG)}),
)
