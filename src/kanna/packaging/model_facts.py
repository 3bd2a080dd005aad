"""model.json: what an app needs to know of a packaged model."""

from __future__ import annotations

from kanna.escaping import json_text
from kanna.packaging.service import Service

FILE = "model.json"


def file(service: Service) -> dict[str, str]:
    """Returns the file: name, kind, path, size, hash and needs of the model.

    Args:
        service: What is packaged.
    """
    artefact, resources = service.artefact, service.resources
    facts = {
        "name": artefact.name,
        "kind": artefact.kind,
        "path": artefact.place,
        "bytes": artefact.num_bytes,
        "sha256": artefact.digest,
        "context": resources.context,
        "memory_bytes": resources.memory_bytes,
        "chat": artefact.chat_template is not None,
        "licence": artefact.licence,
    }
    return {FILE: json_text(facts) + "\n"}
