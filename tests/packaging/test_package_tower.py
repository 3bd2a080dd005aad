"""A package of a model that sees: its tower is shipped, listed, counted and served."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import gateway_process as gateway
from helpers import tiny_vision
from helpers.making import gguf_file
from helpers.packing import command_of, mlx_folder, run

import kanna
from kanna.errors import FormatError, GateError, NotFoundError, UsageError
from kanna.packaging import bom, check, package
from kanna.packaging.checksums import FILE

SEEING = ("compose", "docker", "kubernetes", "systemd")
TOWER = {
    "clip.projector_type": "gemma3",
    "clip.vision.image_size": 56,
    "clip.vision.patch_size": 14,
    "clip.vision.embedding_length": 32,
    "clip.vision.projection_dim": 64,
}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tower") / "mmproj of tiny.gguf"
    return gguf_file(
        path, {"mm.input_projection.weight": np.ones((32, 64), np.float16)}, TOWER, "clip"
    )


def test_every_target_that_serves_takes_a_tower(
    packable: Path, tower: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seeing"
    result = package(packable, out, to=SEEING, context=256, mmproj=tower)
    place = "models/mmproj-of-tiny.gguf"
    assert (out / place).read_bytes() == tower.read_bytes() and place in result.files
    plain = package(packable, tmp_path / "plain", to=["systemd"], context=256)
    more = {k: result.resources[k] - plain.resources[k] for k in ("weight_bytes", "buffer_bytes")}
    assert more == {"weight_bytes": tower.stat().st_size, "buffer_bytes": 16 * 32 * 4 * 16}
    assert result.sha256 != plain.sha256, "an image of both has a tag of its own"

    words = command_of(out)
    assert words[words.index("--mmproj") + 1] == f"/srv/kanna/{place}"
    [pod] = [d for d in _documents(out / "kubernetes") if d["kind"] == "Deployment"]
    told = pod["spec"]["template"]["spec"]["containers"][0]["args"]
    composed = next(iter(yaml.safe_load((out / "compose.yaml").read_text())["services"].values()))
    units = "".join(p.read_text() for p in (out / "systemd").iterdir())
    assert told[: len(words)] == words == composed["command"] and f"/{place}" in units

    bill = json.loads((out / bom.FILE).read_text())["metadata"]["component"]
    assert place in {c["name"] for c in bill["components"]}
    assert {"format": "image"} in bill["modelCard"]["modelParameters"]["inputs"]
    assert place in (out / FILE).read_text() and place in (out / "README.md").read_text()
    check(out)
    (out / place).write_bytes(b"another")
    with pytest.raises(GateError, match="mmproj-of-tiny"):
        check(out)


def _documents(folder: Path) -> list[Any]:
    return [d for p in folder.iterdir() for d in yaml.safe_load_all(p.read_text())]


def test_a_tower_that_does_not_belong_is_refused(
    packable: Path, tower: Path, tmp_path: Path
) -> None:
    wide = gguf_file(
        tmp_path / "wide.gguf",
        {"a": np.ones(4, np.float32)},
        TOWER | {"clip.vision.projection_dim": 96},
        "clip",
    )
    folder = mlx_folder(tmp_path / "tiny-mlx")
    for error, words, model, to, given in (
        (FormatError, "rows of 96 values", packable, "docker", wide),
        (FormatError, "no vision tower", packable, "docker", packable),
        (FormatError, "writes no text", tower, "docker", tower),
        (NotFoundError, "absent.gguf", packable, "docker", tmp_path / "absent.gguf"),
        (UsageError, "takes no vision tower", packable, "docker,ollama", tower),
        (UsageError, "takes no vision tower", folder, "docker", tower),
    ):
        with pytest.raises(error, match=words):
            package(model, tmp_path / "out", to=to, mmproj=given)
        assert not (tmp_path / "out").exists()
    wrong = run("package", tmp_path, "--check", "--mmproj", tower)
    assert wrong.exit_code == 2 and "--mmproj" in wrong.output


@pytest.mark.slow
def test_a_package_answers_about_a_picture(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As its image starts it, and with its self-test."""
    made = tiny_vision.pair("gemma3", tmp_path_factory)
    out = tmp_path / "seeing"
    package(made / "text.gguf", out, to=["docker"], mmproj=made / "mmproj.gguf", selftest=True)
    assert kanna.selftest(out).status == "passed"
    words = [w.replace("/srv/kanna", str(out)) for w in command_of(out)]
    served = gateway.start(
        Path(words[1]), tmp_path / "state", "--mmproj", words[words.index("--mmproj") + 1]
    )
    try:
        cat = base64.b64encode((made / "cat.png").read_bytes()).decode()
        content: Any = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{cat}"}},
            {"type": "text", "text": "What is this?"},
        ]
        answer = served.client().chat.completions.create(
            model="small", messages=[{"role": "user", "content": content}], max_tokens=4
        )
        assert answer.usage is not None and answer.usage.completion_tokens > 0
    finally:
        gateway.stop(served)
    (out / "models" / "mmproj.gguf").write_bytes((made / "mmproj.gguf").read_bytes()[:-1] + b"x")
    assert kanna.selftest(out).status == "failed"
