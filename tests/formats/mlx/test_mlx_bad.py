"""MLX folders that are damaged or lie.

Refused before anything is written, saying what is wrong, never a traceback.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from kanna import convert, runtimes
from kanna.cli.main import cli
from kanna.errors import KannaError
from kanna.sources import open_source

pytest.importorskip("torch")
BASE = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def whole(llama: Path) -> Path:
    """A folder of two shards, 4 bits in groups of 64."""
    folder = llama.parent / "mlx"
    convert(llama, folder, preset="mlx:q4", split_max_size=700_000)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "mlx"))


def says(folder: Path, **settings: Any) -> None:
    """Change what config.json says of all matrices."""
    config = json.loads((folder / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        config[key] |= settings
    (folder / "config.json").write_text(json.dumps(config))


def change(folder: Path, name: str, new: Callable[[Any], Any]) -> None:
    """Put another tensor in the place of one."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            made = new(tensors.pop(name))
            save_file(
                tensors | ({} if made is None else {name: np.ascontiguousarray(made)}),
                path,
                {"format": "mlx"},
            )
            return
    raise AssertionError(f"no tensor {name}")


def cut(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-4096])


def lose(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[-1].unlink()


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown mode": (lambda f: says(f, mode="nf7"), "mode 'nf7'"),
    "mode that is no word": (lambda f: says(f, mode={"name": "affine"}), "is stored in mode"),
    "mode of another width": (
        lambda f: says(f, mode="mxfp4"),
        "4 bits in groups of 32 in mode mxfp4",
    ),
    "bits MLX has not": (lambda f: says(f, bits=7), "7 bits"),
    "bits in words": (lambda f: says(f, bits="4"), "'4' bits"),
    "wrong width": (lambda f: says(f, bits=8), "8 bits in groups of 64, as config.json says"),
    "wrong group": (
        lambda f: says(f, group_size=32),
        "4 bits in groups of 32, as config.json says",
    ),
    "group MLX has not": (lambda f: says(f, group_size=48), "groups of 48"),
    "rows no group divides": (
        lambda f: change(f, f"{BASE}.weight", lambda w: w[:, :-4]),
        "a multiple of 64, as config.json says",
    ),
    "scales too few": (
        lambda f: change(f, f"{BASE}.scales", lambda s: s[:, :-1]),
        f"{BASE}.scales has shape",
    ),
    "scales of other rows": (
        lambda f: change(f, f"{BASE}.scales", lambda s: s[:-1]),
        f"{BASE}.scales has shape",
    ),
    "biases of another type": (
        lambda f: change(f, f"{BASE}.biases", lambda b: b.astype(np.float16)),
        f"{BASE}.biases has shape",
    ),
    "codes in bytes": (
        lambda f: change(f, f"{BASE}.weight", lambda w: w.view(np.uint8)),
        "weight in 32-bit words",
    ),
    "truncated": (cut, "truncated"),
    "missing shard": (lose, "shards are missing: model-"),
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_with_what_is_wrong(name: str, folder: Path, tmp_path: Path) -> None:
    damage, said = BAD[name]
    damage(folder)
    with pytest.raises(KannaError) as error:
        open_source(folder)
    assert said in str(error.value)
    done = CliRunner().invoke(cli, ["convert", str(folder), "-o", str(tmp_path / "model.gguf")])
    assert done.exit_code == 1 and "failed unexpectedly" not in done.output and said in done.output
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("part", ["biases", "scales"])
def test_a_part_that_is_lost_is_named(part: str, folder: Path) -> None:
    change(folder, f"{BASE}.{part}", lambda _: None)
    for path in folder.glob("*.index.json"):
        index = json.loads(path.read_text())
        del index["weight_map"][f"{BASE}.{part}"]
        path.write_text(json.dumps(index))
    done = CliRunner().invoke(cli, ["inspect", str(folder)])
    assert BASE in done.output and "failed unexpectedly" not in done.output


@pytest.mark.parametrize("name", BAD)
def test_mlx_lm_is_not_asked_for_the_impossible(name: str, folder: Path) -> None:
    """It loads some of these, and fails at the first token."""
    pytest.importorskip("mlx_lm")
    damage, said = BAD[name]
    damage(folder)
    with pytest.raises(KannaError) as error:
        runtimes.get("mlx").open(folder, context=64)
    assert said in str(error.value)


@pytest.mark.parametrize("verb", ["verify", "evaluate", "bench", "generate"])
def test_every_verb_says_it_in_a_sentence(verb: str, folder: Path, llama: Path) -> None:
    pytest.importorskip("mlx_lm")
    cut(folder)
    words = {
        "verify": [str(llama), str(folder)],
        "evaluate": [str(folder), "--reference", str(llama), "--windows", "1"],
        "bench": [str(folder), "--repeat", "1"],
        "generate": [str(folder), "Once", "--max-tokens", "2"],
    }[verb]
    done = CliRunner().invoke(cli, [verb, *words])
    assert done.exit_code == 1, done.output
    assert "failed unexpectedly" not in done.output and "Traceback" not in done.output
    assert "mlx" in done.output or "truncated" in done.output
