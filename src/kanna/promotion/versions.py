"""Versions of one model in a registry of MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from kanna import __version__, oci
from kanna.checks import Check
from kanna.errors import SourceError, UsageError
from kanna.tracking import lineage, mlflow, servers
from kanna.tracking.session import FINISHED

T = TypeVar("T")
CANDIDATE_SINCE = "kanna.candidate"
"""Tag of a version that was candidate: since when."""
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_LONGEST = 4900


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRequest:
    """What is promoted.

    Attributes:
        alias: What it will be called.
        artefact: The model.
        sha256: Of it.
        source: Where it lies for whoever reads the registry; None: with the server.
        checks: What it was held to.
    """

    alias: str
    artefact: Path
    sha256: str
    source: str | None
    checks: Sequence[Check]


def source_of(given: str | Path, path: Path) -> str:
    """Where a model lies, as a registry should name it.

    Args:
        given: The reference that the user gave.
        path: Where it is on this machine.
    """
    text = str(given)
    if text.startswith(oci.SCHEME):
        return text
    return path.absolute().as_uri() if Path(text).exists() else f"hf://{text}"


class ModelVersions:
    """The versions of a model.

    Args:
        server: Address of the registry.
        name: Of the model.
    """

    def __init__(self, server: str, name: str) -> None:
        if not name.strip() or "/" in name or ":" in name:
            raise UsageError(f"--name {name!r}", expected="a name without / and :")
        self._server, self._name = server, name
        self._client: Any = servers.connect(server)

    def candidacy(self, sha256: str) -> Check:
        """Whether a version of these very bytes is or was candidate.

        Args:
            sha256: Of the artefact.
        """
        version = self._of(sha256)
        since = version.tags.get(CANDIDATE_SINCE) if version is not None else None
        detail = (
            f"version {version.version} since {since}"
            if version is not None and since
            else "no version of this very model was: kanna promote --to candidate"
        )
        return Check(name="candidate", ok=bool(since), detail=detail)

    def promote(self, request: VersionRequest, gate: Path) -> str:
        """Register what is new, and give it its name; returns the version.

        Args:
            request: What is promoted.
            gate: Its gate report, which goes along.
        """
        version = self._of(request.sha256) or self._register(request, gate)
        number = str(version.version)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        tags = {
            f"kanna.{request.alias}": now,
            "kanna.checks": json.dumps([check.to_dict() for check in request.checks])[:_LONGEST],
        }
        for key, value in tags.items():
            self._ask(
                lambda k=key, v=value: self._client.set_model_version_tag(self._name, number, k, v)
            )
        self._ask(
            lambda: self._client.set_registered_model_alias(self._name, request.alias, number)
        )
        return number

    def _of(self, sha256: str) -> Any:
        """The version of these bytes; None where there is none."""
        name = self._name.replace("'", "\\'")
        every = self._ask(lambda: self._client.search_model_versions(f"name='{name}'"))
        same = [one for one in every if one.tags.get(lineage.ARTEFACT) == sha256]
        return max(same, key=lambda one: int(one.version), default=None)

    def _register(self, request: VersionRequest, gate: Path) -> Any:
        """A new version: its run holds the gate report, and the weights where they are sent."""
        run = mlflow.begin(self._server, None, f"promote {self._name}")
        tags = {
            name: str(value)
            for name, value in lineage.of_artefact(request.artefact).items()
            if value is not None
        }

        def make() -> Any:
            run.tags({"kanna.version": __version__, **tags})
            run.file(gate, "")
            source = request.source
            if source is None:
                run.file(request.artefact, "model")
                root = self._client.get_run(run.id).info.artifact_uri
                source = f"{root}/model"
            run.end(FINISHED)
            self._make_model()
            return self._client.create_model_version(
                self._name, source, run_id=run.id, tags=tags, await_creation_for=0
            )

        return self._ask(make)

    def _make_model(self) -> None:
        try:
            self._client.get_registered_model(self._name)
        except Exception as error:  # its stores raise MlflowException, its drivers their own
            if getattr(error, "error_code", "") != _ABSENT:
                raise
            self._client.create_registered_model(self._name)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except SourceError:
            raise
        except Exception as error:  # whatever its library raises
            raise servers.explained(error, self._server) from error
