"""What is fuzzed of the files that kanna itself writes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from helpers import picture_files
from helpers.profiles import known

from fuzz import mutation
from fuzz.target import Target, json_file
from kanna import encodings, provenance
from kanna.calibration import imatrix, statistics
from kanna.families.views import Computed
from kanna.fleet import manifest as fleet_manifest
from kanna.fleet.device.versions import DeviceFolder
from kanna.formats import gguf, pictures
from kanna.hardware import encoding_speed_file
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.providers import reading as provider_reading
from kanna.hardware.targets import reading
from kanna.model import ValueType, array, string, u32
from kanna.packaging import artefact
from kanna.plan.types import TensorPlan
from kanna.sources import adapter


def own_files(folder: Path) -> dict[str, Target]:
    place = folder / "own"
    place.mkdir()
    dat = (
        struct.pack("<i", 1)
        + struct.pack("<i", 3)
        + b"a.b"
        + struct.pack("<ii4f", 2, 4, 1, 2, 3, 4)
    )
    dat += struct.pack("<ii", 7, 3) + b"txt"
    matrix, sums = place / "i.gguf", np.ones((1, 4), np.float32)

    f32 = encodings.get("f32")
    entries = [
        TensorPlan(name=n, tensor=Computed(n, sums), encoding=f32, method="nearest")
        for n in ("a.in_sum2", "a.counts")
    ]
    metadata = {
        "general.type": string("imatrix"),
        "imatrix.datasets": array(["a"], ValueType.STR),
        "imatrix.chunk_count": u32(1),
    }
    gguf.write(matrix, metadata=metadata, tensors=entries)
    whole = matrix.read_bytes()
    site = {"file": "a.safetensors", "tensors": ["t"], "columns": 4, "block": 4, "shrink": 0.5}
    index = {
        "version": statistics.VERSION,
        "tokens": 8,
        "window": 4,
        "text": {"name": "a"},
        "sites": {"s": site},
    }
    own = {"kanna.version": "1", "kanna.source.sha256": "{}", "kanna.plan.encodings": "{}"}
    dat_path = place / "i.dat"

    def damaged(good: bytes) -> Callable[[Random], bytes]:
        return lambda random: mutation.damaged_bytes(good, random, len(good))

    def described() -> object:
        return artefact.provenance_of(
            {k: string(v) for k, v in provenance.of_folder(place).items()}
        )

    cat = picture_files.png(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    return {
        "imatrix-dat": Target(
            path=dat_path, damage=damaged(dat), read=lambda: imatrix.read(dat_path), good=dat
        ),
        "imatrix-gguf": Target(
            path=matrix, damage=damaged(whole), read=lambda: imatrix.read(matrix), good=whole
        ),
        "statistics": json_file(place / "index.json", lambda: statistics.read(place), good=index),
        "kanna.json": json_file(place / provenance.FILE, described, good=own),
        "picture": Target(
            path=place / "cat.png",
            damage=damaged(cat),
            read=lambda: pictures.opened(place / "cat.png"),
            good=cat,
        ),
        "adapter_config.json": json_file(
            place / adapter.CONFIG,
            lambda: adapter.base_of(place / adapter.CONFIG),
            good={"base_model_name_or_path": "a/b", "r": 4},
        ),
        "fleet-manifest.json": json_file(
            place / "fleet-manifest.json",
            lambda: fleet_manifest.read((place / "fleet-manifest.json").read_bytes(), "manifest"),
            good={
                "format": fleet_manifest.FORMAT,
                "name": "a",
                "sequence": 1,
                "artefact": "a/m.gguf",
                "files": [
                    {"path": path, "sha256": "a" * 64, "size": 1}
                    for path in ("a/m.gguf", "selftest.json")
                ],
            },
        ),
        "agent.json": json_file(
            place / "agent.json",
            lambda: DeviceFolder(place).memory(),
            good={
                "highest": 3,
                "number": 2,
                "wanted": "a" * 64,
                "outcome": "passed",
                "reported": 1,
            },
        ),
        "device.yaml": json_file(
            place / "device.yaml", lambda: reading.read(place / "device.yaml"), good=_device()
        ),
        "provider.yaml": json_file(
            place / "provider.yaml",
            lambda: provider_reading.read(place / "provider.yaml"),
            good=_provider(),
        ),
        "speeds.json": json_file(
            place / "speeds.json",
            lambda: encoding_speed_file.read(place / "speeds.json"),
            good=EncodingSpeeds(
                machine="a board",
                token=200.0,
                generation={"q4_0": 300.0},
                spread={"q4_0": (290.0, 310.0)},
            ).to_dict(),
        ),
    }


def _device() -> dict[str, Any]:
    """A target profile; JSON is YAML."""
    cpu = {"operators": "CPU", "efficiency": known(0.5), "error": known(0.2)}
    return {
        "title": "Board",
        "memory": {"2gb": {"total": known("2GiB"), "available": known("1GiB")}},
        "bandwidth": known("10GB"),
        "cores": known(4),
        "context": known(2048),
        "backends": {"cpu": cpu | {"memory": known("1GB"), "gigaflops": known(9)}},
    }


def _provider() -> dict[str, Any]:
    """A profile of an execution provider; JSON is YAML."""
    return {
        "title": "Board",
        "provider": "BoardExecutionProvider",
        "genai": "board",
        "device": "npu",
        "package": "sdk",
        "plugin": {"module": "board", "paths": {"path": "get"}},
        "options": {"a": "b"},
        "checked": "2026-11-30",
        "opset": known(21),
        "static_shapes": known(True),
        "layout": known("any"),
        "bits": known([4]),
        "block_sizes": known([32]),
        "operators": {"basis": "measured", "source": "a desk", "names": {"MatMul": ["float"]}},
    }
