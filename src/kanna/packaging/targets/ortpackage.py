"""A model package of onnxruntime: a variant per execution provider."""

from __future__ import annotations

import json
from pathlib import Path

from kanna._util.processes import ask
from kanna.errors import MissingError
from kanna.packaging import variants
from kanna.packaging.service import Service
from kanna.packaging.targets.base import Target


def files(service: Service) -> dict[str, str]:
    """Returns the manifest, and what describes each variant."""
    return service.artefact.texts


def usage(_: Service) -> list[str]:
    """Returns the shell lines that open it."""
    return [
        "python3 -c 'import onnxruntime as ort; "
        'print(ort.ModelPackageContext(".").get_variant_names("model"))\''
    ]


def loaded(folder: Path) -> list[str]:
    """Have stock onnxruntime load each variant whose provider is here.

    Returns:
        A note on each variant.

    Raises:
        FormatError: It refuses one of them.
    """
    described = folder / "models" / variants.COMPONENT / "component.json"
    notes: list[str] = []
    for name, entry in json.loads(described.read_text(encoding="utf-8"))["variants"].items():
        task = {"path": str(folder.absolute()), "variant": name}
        try:
            done = ask("kanna.packaging.variant_worker", task, f"loading {name} of {folder.name}")
        except MissingError as error:
            notes.append(f"{name} was not loaded: {error.found}")
            continue
        notes.append(f"{name}: onnxruntime loaded {', '.join(done['graphs'])} on {entry['ep']}")
    return notes


TARGET = Target(
    title="a model package",
    summary="a model package of onnxruntime, with a variant per execution provider (`--variant`)",
    files=files,
    usage=usage,
    only=("onnx",),
    installs=False,
    serves=False,
    arranges=variants.arranged,
    loads=loaded,
)
