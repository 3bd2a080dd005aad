"""The verbs `ps` and `swap`: look at a running gateway, and change what it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.serving import gateway_client
from kanna.serving.gateway_client import URL
from kanna.sources import locate

__all__ = ["GatewayStatus", "SwapResult", "ps", "swap"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class GatewayStatus(Result):
    """The models of a gateway, each as its `/status` has it."""

    models: Sequence[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {"models": list(self.models)}

    def headline(self) -> str:
        """Names and states."""
        return ", ".join(f"{model['name']} {model['state']}" for model in self.models)

    def tables(self) -> Sequence[ResultTable]:
        """A row per model."""
        rows = [
            (
                model["name"],
                model["engine"],
                model["state"],
                format_size(model.get("resident") or model["bytes"]),
                model.get("running"),
                model.get("waiting"),
            )
            for model in self.models
        ]
        columns = ("model", "engine", "state", "memory>", "running>", "waiting>")
        return [ResultTable(columns=columns, rows=rows)]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SwapResult(Result):
    """What is served under a name now."""

    name: str
    path: str
    engine: str

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {"name": self.name, "path": self.path, "engine": self.engine}

    def headline(self) -> str:
        """Name, file and engine."""
        return f"{self.name} is {self.path} now ({self.engine})"


def ps(*, url: str = URL, key: str | None = None) -> GatewayStatus:
    """Show the models of a running gateway: engines, memory, requests, restarts.

    Args:
        url: Where the gateway is.
        key: A key with the scope metrics, where the gateway asks for one; None: $KANNA_KEY.

    Raises:
        KannaError: The gateway is not there, or refuses.
    """
    return GatewayStatus(models=gateway_client.request(url, "/status", key, timeout=10))


def swap(name: str, path: str | Path, *, url: str = URL, key: str | None = None) -> SwapResult:
    """Put another file under the name of a served model, without dropping a request.

    Args:
        name: The name of the model.
        path: The file, which the gateway reads on its machine; any reference is looked up on this
            one.
        url: Where the gateway is.
        key: A key with the scope admin; None: $KANNA_KEY.

    Raises:
        KannaError: The gateway is not there, or refuses.
    """
    route = f"/admin/models/{quote(name, safe='')}/swap"
    body = {"path": str(locate(path).absolute())}
    answer = gateway_client.request(url, route, key, body, scope="admin")
    return SwapResult(name=answer["name"], path=answer["path"], engine=answer["engine"])
