from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.azureml_stub import AzureStub, serving, token

RECIPE = """
name: Two presets
variables:
  model: ./model/tiny.gguf
  presets: [Q8_0, Q4_0]
steps:
  small:
    verb: convert
    for: {preset: "${presets}"}
    with: {source: "${model}", preset: "${preset}"}
  about:
    verb: inspect
    with: {source: "${small}"}
outputs:
  files: ${small}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a repository, beside its model; the current folder is the repository."""
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository")
    folder = tmp_path / "repository" / "recipes"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "tiny.gguf").symlink_to(tiny_gguf)
    path = folder / "presets.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureStub]:
    """The stub, to which all that azure-core sends goes; credentials are a token that is none."""
    pytest.importorskip("azure.ai.ml")
    identity: Any = pytest.importorskip("azure.identity")
    from azure.ai.ml.operations._run_history_constants import RunHistoryConstants
    from azure.core.credentials import AccessToken
    from azure.core.exceptions import ServiceRequestError
    from azure.core.pipeline.transport import RequestsTransport

    def credentials() -> Any:
        def signed_in(*_: Any, **__: Any) -> Any:
            return AccessToken(*token())

        return SimpleNamespace(get_token=signed_in)

    monkeypatch.setattr(identity, "DefaultAzureCredential", credentials)
    for bound in ("MIN", "MAX"):
        monkeypatch.setattr(RunHistoryConstants, f"_WAIT_COMPLETION_POLLING_INTERVAL_{bound}", 0)
    send, made = RequestsTransport.send, AzureStub()
    with serving(made) as url:

        def redirected(self: Any, request: Any, **more: Any) -> Any:
            if not request.url.startswith("https://"):  # of a machine in Azure, which this is none
                raise ServiceRequestError("there is no such machine")
            if made.unreachable:
                raise ServiceRequestError("the network is away")
            request.url = f"{url}/{request.url.removeprefix('https://')}"
            return send(self, request, **more)

        monkeypatch.setattr(RequestsTransport, "send", redirected)
        yield made
    assert made.unknown == []
