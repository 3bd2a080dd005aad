"""Checkpoints of GPTQ, AWQ and compressed-tensors as sources.

Decoded exactly, carried over where the target can.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from safetensors.numpy import load_file, save_file

from kanna import convert
from kanna.errors import FormatError, UnsupportedError
from kanna.formats import gguf
from kanna.formats.prequantized.groups import spread_words
from kanna.sources import open_source

GROUP = 64
KEPT = ("embed", "norm", "lm_head")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("hf")
    tiny_models.make("smollm", place)
    return place


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [n, columns] along the first axis into words int32 [n * bits / 32, columns].

    One run of bits per column.
    """
    one = np.unpackbits(codes.astype(np.uint8)[..., None], axis=2, count=bits, bitorder="little")
    run = one.transpose(0, 2, 1).reshape(-1, codes.shape[1])
    return (
        np.ascontiguousarray(np.packbits(run.T, axis=1, bitorder="little")).view(np.int32).T.copy()
    )


def rounded(
    w: np.ndarray, bits: int, *, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [rows, columns], scales float16 and zeros [rows, groups]."""
    groups = w.reshape(len(w), -1, GROUP)
    top = (1 << bits) - 1
    if symmetric:
        scales = (np.abs(groups).max(2) / (top // 2)).astype(np.float16)
        zeros = np.full(scales.shape, 1 << (bits - 1))
    else:
        scales = ((groups.max(2) - groups.min(2)) / top).astype(np.float16)
        zeros = np.clip(np.rint(-groups.min(2) / scales.astype(np.float32)), 1, top).astype(int)
    codes = np.clip(
        np.rint(groups / scales.astype(np.float32)[..., None]) + zeros[..., None], 0, top
    )
    return codes.reshape(w.shape).astype(np.uint8), scales, zeros


def values(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    each = codes.reshape(len(codes), scales.shape[1], -1).astype(np.float32) - zeros[..., None]
    return (each * scales.astype(np.float32)[..., None]).reshape(codes.shape).astype(np.float32)


def write(plain: Path, folder: Path, settings: dict, make: Any) -> dict[str, np.ndarray]:
    """A checkpoint in `folder`.

    Make(weight) gives the parts by name and the values. Returns values by name.
    """
    folder.mkdir()
    wanted: dict[str, np.ndarray] = {}
    tensors: dict[str, np.ndarray] = {}
    for name, x in load_file(plain / "model.safetensors").items():
        if x.ndim == 2 and not any(k in name for k in KEPT):
            parts, wanted[name] = make(x.astype(np.float32))
            tensors |= {
                f"{name.removesuffix('.weight')}.{k}": np.ascontiguousarray(v)
                for k, v in parts.items()
            }
        else:
            tensors[name] = x.astype(np.float16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((plain / name).read_bytes())
    config = json.loads((plain / "config.json").read_text()) | {
        "quantization_config": settings,
        "dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return wanted


def gptq(bits: int, *, symmetric: bool, version: str, shuffle: bool = False) -> tuple[dict, Any]:
    less = 1 if version == "gptq" else 0

    def make(w: np.ndarray) -> tuple[dict, np.ndarray]:
        order = np.arange(w.shape[1]) // GROUP
        if shuffle:
            order = np.random.default_rng(1).permutation(order)
        sorted_ = np.argsort(order, kind="stable")
        codes, scales, zeros = rounded(w[:, sorted_], bits, symmetric=symmetric)
        there = values(codes, scales, zeros)
        back = np.argsort(sorted_, kind="stable")
        parts = {
            "qweight": pack(codes[:, back].T, bits),
            "qzeros": np.ascontiguousarray(pack((zeros - less) & ((1 << bits) - 1), bits).T),
            "scales": scales.T,
            "g_idx": order.astype(np.int32),
        }
        return parts, there[:, back]

    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": GROUP,
        "sym": symmetric,
        "desc_act": shuffle,
    }
    return settings | {"checkpoint_format": version}, make


def awq() -> tuple[dict, Any]:
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def eight(codes: np.ndarray) -> np.ndarray:
        found = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
        for at, column in enumerate(order):
            found |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * at)
        return found.view(np.int32)

    def make(w: np.ndarray) -> tuple[dict, np.ndarray]:
        codes, scales, zeros = rounded(w, 4, symmetric=False)
        parts = {"qweight": eight(codes.T), "qzeros": eight(zeros.T), "scales": scales.T}
        return parts, values(codes, scales, zeros)

    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "zero_point": True,
        "version": "gemm",
    }, make


def compressed(bits: int, *, symmetric: bool) -> tuple[dict, Any]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    def make(w: np.ndarray) -> tuple[dict, np.ndarray]:
        codes, scales, zeros = rounded(w, bits, symmetric=symmetric)
        middle = 1 << (bits - 1)
        signed = torch.tensor(codes.astype(np.int16) - middle).to(torch.int8)
        parts = {
            "weight_packed": pack_to_int32(signed, bits).numpy(),
            "weight_scale": scales,
            "weight_shape": np.array(w.shape, np.int64),
        }
        if not symmetric:
            away = torch.tensor(zeros - middle).to(torch.int8)
            parts["weight_zero_point"] = pack_to_int32(away, bits, packed_dim=0).numpy()
        return parts, values(codes, scales, zeros)

    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group",
        "group_size": GROUP,
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": groups,
    }, make


LAYOUTS = {
    "gptq": lambda: gptq(4, symmetric=True, version="gptq"),
    "gptq-asymmetric": lambda: gptq(4, symmetric=False, version="gptq"),
    "gptq-v2": lambda: gptq(4, symmetric=False, version="gptq_v2"),
    "gptq-order": lambda: gptq(4, symmetric=True, version="gptq", shuffle=True),
    "gptq-2": lambda: gptq(2, symmetric=False, version="gptq"),
    "gptq-3": lambda: gptq(3, symmetric=True, version="gptq"),
    "gptq-8": lambda: gptq(8, symmetric=True, version="gptq"),
    "awq": awq,
    "compressed": lambda: compressed(4, symmetric=True),
    "compressed-asymmetric": lambda: compressed(4, symmetric=False),
    "compressed-3": lambda: compressed(3, symmetric=True),
    "compressed-8": lambda: compressed(8, symmetric=True),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_decoded_exactly_whole_and_in_parts(
    plain: Path, tmp_path: Path, name: str
) -> None:
    wanted = write(plain, tmp_path / "made", *LAYOUTS[name]())
    source = open_source(tmp_path / "made")
    assert "quantization_config" not in source.config
    assert len(wanted) > 10
    for key, x in wanted.items():
        tensor = source.tensors[key]
        assert tensor.shape == x.shape
        assert np.array_equal(tensor.rows(0, len(x)), x), key
        assert np.array_equal(tensor.rows(5, 13), x[5:13]), key
    convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f32")
    made = gguf.read(tmp_path / "model.gguf").tensors["blk.1.ffn_down.weight"]
    assert np.array_equal(made.rows(0, 256), wanted["model.layers.1.mlp.down_proj.weight"])


@pytest.mark.parametrize(
    "name", ["gptq", "gptq-asymmetric", "gptq-8", "awq", "compressed", "compressed-asymmetric"]
)
def test_groups_are_carried_over_to_mlx(plain: Path, tmp_path: Path, name: str) -> None:
    wanted = write(plain, tmp_path / "made", *LAYOUTS[name]())
    found = convert(tmp_path / "made", tmp_path / "mlx", preset="mlx:exact")
    assert found.bits_per_weight < 13
    tensors = open_source(tmp_path / "mlx").tensors
    for key, x in wanted.items():
        assert tensors[key].dtype.startswith("affine") and np.array_equal(
            tensors[key].rows(0, len(x)), x
        ), key


def test_awq_is_read_as_mlx_lm_reads_it(plain: Path, tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    mlx_lm = pytest.importorskip("mlx_lm")
    write(plain, tmp_path / "made", *awq())
    model, _ = mlx_lm.utils.load_model(tmp_path / "made")
    layer = model.layers[1].mlp.down_proj
    parts = [layer[k] for k in ("weight", "scales", "biases")]
    theirs = np.array(
        mx.dequantize(*parts, group_size=GROUP, bits=4, stream=mx.cpu).astype(mx.float32)
    )
    ours = (
        open_source(tmp_path / "made")
        .tensors["model.layers.1.mlp.down_proj.weight"]
        .rows(0, len(theirs))
    )
    # It rounds the biases to half precision.
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(ours).max())


def test_three_bits_run_on_across_words() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (2, 64)).astype(np.uint8)
    words = pack(codes.T, 3).T
    assert words.shape == (2, 6)
    assert np.array_equal(spread_words(np.ascontiguousarray(words).view(np.uint32), 3, 64), codes)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"bits": 5}, UnsupportedError, "bits = 5"),
        ({"checkpoint_format": "marlin"}, UnsupportedError, "marlin"),
        ({"group_size": 0}, FormatError, "group_size = 0"),
        ({"group_size": 32}, FormatError, "shape"),
    ],
)
def test_what_is_not_so_packed_is_refused(
    plain: Path, tmp_path: Path, change: dict, error: type, said: str
) -> None:
    settings, make = LAYOUTS["gptq"]()
    write(plain, tmp_path / "made", settings | change, make)
    with pytest.raises(error, match=said):
        open_source(tmp_path / "made")


def test_a_group_that_is_not_there_is_refused(plain: Path, tmp_path: Path) -> None:
    settings, make = LAYOUTS["gptq"]()

    def broken(w: np.ndarray) -> tuple[dict, np.ndarray]:
        parts, x = make(w)
        return parts | {"g_idx": parts["g_idx"] + 1}, x

    write(plain, tmp_path / "made", settings, broken)
    with pytest.raises(FormatError, match="names group"):
        open_source(tmp_path / "made")


SCALES = {"gptq": "scales", "awq": "scales", "compressed": "weight_scale"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, "i32"])
@pytest.mark.parametrize("name", SCALES)
def test_scales_that_can_be_none_are_refused(
    plain: Path, tmp_path: Path, name: str, value: float | str
) -> None:
    settings, make = LAYOUTS[name]()

    def broken(w: np.ndarray) -> tuple[dict, np.ndarray]:
        parts, x = make(w)
        scales = np.array(parts[SCALES[name]])
        if isinstance(value, str):
            scales = scales.astype(np.int32)
        else:
            scales[3, 1] = value
        return parts | {SCALES[name]: scales}, x

    write(plain, tmp_path / "made", settings, broken)
    with pytest.raises(FormatError, match="holds i32" if value == "i32" else "can be none"):
        open_source(tmp_path / "made")
