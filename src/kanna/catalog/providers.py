"""Components of the kind `providers`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna.catalog.base import Component, Kind
from kanna.hardware import providers

_KIND = "providers"


def _find() -> Iterator[Component]:
    for name in providers.names():
        profile = providers.get(name)
        yield Component(
            kind=_KIND,
            name=name,
            summary=profile.title,
            where="kanna.hardware.providers:get",
            facts={
                "in onnxruntime": profile.provider,
                "comes with": profile.package,
                "operators known": f"{len(profile.operators.types)}, {profile.operators.basis}",
                "wants fixed shapes": profile.static_shapes.value,
                "checked": profile.checked,
            },
        )


KIND = Kind(
    summary="Execution providers: what computes an ONNX folder in onnxruntime",
    about="Named by `--provider` of `convert`, `optimize`, `verify` and `bench`.",
    find=_find,
)
