"""Between two models of one source only changed tensors travel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from helpers import registries
from safetensors.numpy import load_file, save_file

import kanna
from kanna import oci
from kanna.formats.gguf.read import tensor_places
from kanna.registry import manifests, piece_lists, reuse

ROWS, COLUMNS, TENSORS = 256, 256, 24
EACH = ROWS * COLUMNS * 2
CHANGED = (3, 4, 17)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a tuned one, whose name is longer and three of whose tensors differ."""
    folder = tmp_path_factory.mktemp("models")
    return (
        written(folder / "base.gguf", "base", ()),
        written(folder / "tuned.gguf", "base, tuned on something", CHANGED),
    )


def written(path: Path, name: str, changed: tuple[int, ...]) -> Path:
    """A GGUF with a vocabulary before tensors of random bytes."""
    writer = GGUFWriter(path, "made-up")
    writer.add_name(name)
    writer.add_token_list([f"word number {n * n * 7919}" for n in range(20_000)])
    for number in range(TENSORS):
        seed = number + 1000 if number in changed else number
        values = np.random.default_rng(seed).standard_normal((ROWS, COLUMNS))
        writer.add_tensor(f"blk.{number}.weight", values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_only_changed_tensors_travel(registry: str, models: tuple[Path, Path]) -> None:
    names = [f"oci://{registry}/team/delta:{path.stem}" for path in models]
    for name, path in zip(names, models, strict=True):
        kanna.push(name, path, unproved=True)
    lies = registries.Lies()
    with registries.between(registry, lies) as host:
        behind = [name.replace(registry, host) for name in names]
        first = kanna.pull(behind[0])
        assert first.fetched_bytes == models[0].stat().st_size and not lies.ranges
        second = kanna.pull(behind[1])
    changed = len(CHANGED) * EACH
    assert Path(second.path).read_bytes() == models[1].read_bytes()
    assert second.fetched_bytes is not None
    assert changed <= second.fetched_bytes <= changed + 130_000, "and some of the header"
    assert len(lies.ranges) <= 5, "one request for tensors that follow one another"
    assert "were fetched" in second.headline()


def test_a_pull_that_was_cut_short_goes_on_with_pieces(
    registry: str, models: tuple[Path, Path]
) -> None:
    names = [f"oci://{registry}/team/cut:{path.stem}" for path in models]
    for name, path in zip(names, models, strict=True):
        kanna.push(name, path, unproved=True)
    kanna.pull(names[0])
    data = models[1].read_bytes()
    partial = oci.folder() / "sha256" / f"{manifests.digest_of(data)[7:]}.part"
    partial.write_bytes(data[: len(data) // 2])
    second = kanna.pull(names[1])
    assert Path(second.path).read_bytes() == data
    assert second.fetched_bytes is not None and second.fetched_bytes < 2 * EACH


def test_a_list_of_another_file_does_no_harm(
    registry: str, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = models
    names = [f"oci://{registry}/team/lied:{path.stem}" for path in models]
    kanna.push(names[0], base, unproved=True)
    kanna.pull(names[0])

    def lying(files: dict[str, Path]) -> bytes:
        """Lists as long as the files, which say that they are the model that is here."""
        values = json.loads(reuse.list_path(next(iter(known))).read_text())
        values["sizes"][-1] += tuned.stat().st_size - base.stat().st_size
        return manifests.encoded({"format": reuse.FORMAT, "files": dict.fromkeys(files, values)})

    known = [p.stem for p in (oci.folder() / "pieces").glob("*.json")]
    monkeypatch.setattr(piece_lists, "lists_of", lying)
    kanna.push(names[1], tuned, unproved=True)
    second = kanna.pull(names[1])
    assert Path(second.path).read_bytes() == tuned.read_bytes()
    assert second.fetched_bytes == tuned.stat().st_size


def test_what_changed_here_is_not_used(registry: str, models: tuple[Path, Path]) -> None:
    names = [f"oci://{registry}/team/changed:{path.stem}" for path in models]
    for name, path in zip(names, models, strict=True):
        kanna.push(name, path, unproved=True)
    place = Path(kanna.pull(names[0]).path)
    with place.open("rb+") as file:
        file.seek(-10, 2)
        file.write(b"0123456789")
    second = kanna.pull(names[1])
    assert Path(second.path).read_bytes() == models[1].read_bytes()
    kanna.rm(names[1])
    assert len(list((oci.folder() / "pieces").glob("*.json"))) == 1


@pytest.mark.slow
def test_a_tuned_model_of_a_real_one(registry: str, tmp_path: Path) -> None:
    """Q4_K_M of SmolLM2-135M, and of a model with three tensors of it tuned."""
    kanna.convert("builtin:smollm2-135m", tmp_path / "base", format="safetensors")
    shutil.copytree(tmp_path / "base", tmp_path / "tuned")
    tuned = ("layers.3.self_attn.q_proj", "layers.9.mlp.down_proj", "layers.20.self_attn.v_proj")
    for path in (tmp_path / "tuned").glob("*.safetensors"):
        tensors = load_file(path)
        for name in tensors:
            if any(part in name for part in tuned):
                tensors[name] = tensors[name] * tensors[name].dtype.type(1.01)
        save_file(tensors, path)
    fetched, files = 0, list[Path]()
    for name in ("base", "tuned"):
        files.append(tmp_path / f"{name}.gguf")
        kanna.convert(tmp_path / name, files[-1], preset="Q4_K_M", threads=1)
        kanna.push(f"oci://{registry}/team/real:{name}", files[-1], unproved=True)
        fetched = kanna.pull(f"oci://{registry}/team/real:{name}").fetched_bytes or 0
    first, second = (path.read_bytes() for path in files)
    places = zip(*map(tensor_places, files), strict=True)
    differing = sum(b[1] - b[0] for a, b in places if first[slice(*a)] != second[slice(*b)])
    assert 0 < differing <= fetched <= 1.05 * differing + 100_000
