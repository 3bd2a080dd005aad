"""Which adapters answer a request: the scales that are set for all, or those that it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from kanna.serving.engines._http_server import BadRequestError, json_response
from kanna.serving.engines._jobs import AdapterScales


class AdapterSwitch:
    """The adapters of a process, all of them switched on as they were trained at first.

    Its routes are llama.cpp's: GET and POST of `/lora-adapters`, where an adapter has the place
    that it has in the configuration for its id.

    Args:
        paths: The adapters.
        program: What runs the model, for messages.
    """

    def __init__(self, paths: Sequence[str], program: str) -> None:
        self._paths, self._program = paths, program
        self._scales = [1.0] * len(paths)

    def of(self, body: dict[str, Any]) -> AdapterScales:
        """Those of a request; what it does not name in its `lora` is off for it.

        Raises:
            BadRequestError: It names one that is not loaded.
        """
        given = body.get("lora")
        if given is None:
            return _switched_on(self._scales)
        if not self._paths and given:
            raise BadRequestError(
                f"this model runs in {self._program}, which does not support 'lora' without "
                "adapters that it was started with"
            )
        return _switched_on(self._named(given))

    def _named(self, given: list[dict[str, Any]]) -> list[float]:
        scales = [0.0] * len(self._paths)
        for one in given:
            if not 0 <= one["id"] < len(scales):
                raise BadRequestError(f"invalid lora adapter {one['id']}: {len(scales)} are loaded")
            scales[one["id"]] = float(one["scale"])
        return scales

    async def listed(self, _: dict[str, Any], __: web.Request) -> web.StreamResponse:
        """The adapters, with their scales."""
        pairs = enumerate(zip(self._paths, self._scales, strict=True))
        return json_response([{"id": n, "path": p, "scale": s} for n, (p, s) in pairs])

    async def switch(self, body: Any, _: web.Request) -> web.StreamResponse:
        """Set the scales of requests that bring none; what is not named is off."""
        self._scales = self._named(body)
        return json_response({"success": True})


def _switched_on(scales: Sequence[float]) -> AdapterScales:
    return tuple((n, scale) for n, scale in enumerate(scales) if scale)
