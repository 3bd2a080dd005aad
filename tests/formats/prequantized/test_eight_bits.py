"""Checkpoints of 8-bit floats, decoded as transformers and compressed-tensors decode them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.prequantized import bits_of, rewrite, to_bf16, write

from kanna import convert
from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.families import load_model
from kanna.formats import gguf
from kanna.sources import open_source

torch = pytest.importorskip("torch")
E4M3 = torch.float8_e4m3fn
NAME = "model.layers.1.mlp.down_proj.weight"
"""A matrix of 256 x 512."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hf")
    tiny_models.make("smollm", place)
    return place


def grid(x: Any, rows: int, columns: int) -> Any:
    """Largest magnitude of every block, the last ones cut."""
    return torch.stack(
        [
            torch.stack([b.abs().max() for b in part.split(columns, dim=1)])
            for part in x.split(rows, dim=0)
        ]
    )


def spread(scales: Any, rows: int, columns: int, like: Any) -> Any:
    wide = scales.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return wide[: like.shape[0], : like.shape[1]]


def blocks(rows: int, columns: int, *, kind: Any = None) -> Callable[[Any], dict[str, Any]]:
    def make(x: Any) -> dict[str, Any]:
        scales = (grid(x, rows, columns) / 448).to(kind or torch.float32)
        codes = (x / spread(scales, rows, columns, x)).clamp(-448, 448).to(E4M3)
        return {"weight": codes, "weight_scale_inv": scales}

    return make


def whole(name: str, kind: Any = E4M3, shape: tuple[int, ...] = ()) -> Callable[[Any], Any]:
    def make(x: Any) -> dict[str, Any]:
        scale = (x.abs().max() / torch.finfo(kind).max).to(torch.bfloat16)
        parts = {"weight": (x / scale.float()).to(kind), name: scale.reshape(shape)}
        return parts | {"input_scale": torch.tensor(0.5)}

    return make


def by_row(x: Any) -> dict[str, Any]:
    scales = x.abs().amax(1, keepdim=True) / 448
    return {"weight": (x / scales).to(E4M3), "weight_scale": scales}


def powers(x: Any) -> dict[str, Any]:
    exponents = torch.ceil(torch.log2(grid(x, 128, 128) / 448)).to(torch.int32)
    scale = spread(2.0 ** exponents.float(), 128, 128, x)
    stored = (exponents + 127).to(torch.uint8).view(torch.float8_e8m0fnu)
    return {"weight": (x / scale).to(E4M3), "weight_scale_inv": stored}


def theirs(parts: dict[str, Any]) -> Any:
    """What transformers makes of whole blocks, rows and matrices, in float32."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    scales = next(v for k, v in parts.items() if k.startswith("weight_scale"))
    scales = scales if scales.ndim == 2 else scales.reshape(1, 1)
    return Fp8Dequantize(None)._dequantize_one(parts["weight"], scales, torch.float32).numpy()


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
WHOLE: dict[str, tuple[dict[str, Any], Callable[[Any], dict[str, Any]]]] = {
    "blocks": (FP8 | {"weight_block_size": [128, 128], "fmt": "e4m3"}, blocks(128, 128)),
    "blocks-bf16": (
        FP8 | {"weight_block_size": [64, 32]},
        blocks(64, 32, kind=torch.bfloat16),
    ),
    "matrix": (
        FP8 | {"activation_scheme": "static", "weight_block_size": None},
        whole("weight_scale_inv"),
    ),
    "matrix-e5m2": (FP8, whole("weight_scale", torch.float8_e5m2, (1,))),
    "rows": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, by_row),
    "powers": (FP8 | {"weight_block_size": [128, 128], "scale_fmt": "ue8m0"}, powers),
}


@pytest.mark.parametrize("name", WHOLE)
def test_values_are_those_of_transformers(plain: Path, tmp_path: Path, name: str) -> None:
    settings, make = WHOLE[name]
    names = write(plain, tmp_path / "made", settings, make)
    source = open_source(tmp_path / "made")
    assert len(names) > 10 and "quantization_config" not in source.config
    assert not [n for n in source.tensors if "scale" in n]
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "made" / "model.safetensors")
    for key in names:
        base = key.removesuffix("weight")
        parts = {k.removeprefix(base): v for k, v in stored.items() if k.startswith(base)}
        parts.pop("input_scale", None)
        wanted, tensor = theirs(parts), source.tensors[key]
        assert tensor.shape == wanted.shape
        assert np.array_equal(bits_of(tensor.rows(0, len(wanted))), bits_of(wanted)), key
        assert np.array_equal(bits_of(tensor.rows(61, 127)), bits_of(wanted[61:127])), key
    convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f32")
    made = gguf.read(tmp_path / "model.gguf").tensors["blk.1.ffn_down.weight"]
    whole_tensor = source.tensors[NAME].rows(0, 256)
    assert np.array_equal(made.rows(0, 256), whole_tensor)


@pytest.mark.parametrize(("rows", "columns"), [(128, 96), (100, 128), (300, 1000)])
def test_blocks_that_are_cut_at_the_edges(
    plain: Path, tmp_path: Path, rows: int, columns: int
) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    make = blocks(rows, columns)
    write(plain, tmp_path / "made", FP8 | {"weight_block_size": [rows, columns]}, make)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "made" / "model.safetensors")
    args = QuantizationArgs(
        num_bits=8, type="float", strategy="block", block_structure=[rows, columns]
    )
    wanted = dequantize(
        stored[NAME].float(), stored[f"{NAME}_scale_inv"], args=args, dtype=torch.float32
    ).numpy()
    tensor = open_source(tmp_path / "made").tensors[NAME]
    assert np.array_equal(bits_of(tensor.rows(0, 256)), bits_of(wanted))
    assert np.array_equal(bits_of(tensor.rows(97, 203)), bits_of(wanted[97:203]))


@pytest.mark.parametrize("scales", ["blocks", "matrices", "one"])
def test_stacks_of_matrices(tmp_path: Path, scales: str) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    from kanna.formats.prequantized import unpacked
    from kanna.formats.safetensors.read import read_file

    torch.manual_seed(1)
    shape = {"blocks": (3, 3, 2), "matrices": (3, 1, 1), "one": (1, 1, 1)}[scales]
    codes, numbers = torch.randn(3, 96, 64).to(E4M3), torch.rand(shape) + 0.5
    from safetensors.torch import save_file

    key = "layers.0.mlp.experts.gate_up_proj"
    stored = numbers if scales == "blocks" else numbers.reshape(-1) if scales == "one" else numbers
    save_file({key: codes, f"{key}_scale_inv": stored}, tmp_path / "x.safetensors")
    settings = FP8 | {"weight_block_size": [32, 32] if scales == "blocks" else None}
    made = unpacked(read_file(tmp_path / "x.safetensors"), {"quantization_config": settings}, "fp8")
    wanted = (
        Fp8Dequantize(None)
        ._dequantize_one(codes, numbers.expand(3, *shape[1:]).contiguous(), torch.float32)
        .numpy()
        .reshape(-1, 64)
    )
    assert list(made) == [key] and made[key].shape == (3, 96, 64)
    for start, stop in ((0, 288), (90, 110), (95, 193), (192, 193)):
        assert np.array_equal(bits_of(made[key].rows(start, stop)), bits_of(wanted[start:stop]))


def compressed(weights: dict[str, Any], form: str = "float-quantized") -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


FLOAT = {"num_bits": 8, "type": "float", "symmetric": True}
INT = {"num_bits": 8, "type": "int", "symmetric": True}


def compressing(weights: dict[str, Any], form: str) -> tuple[dict[str, Any], Any, Any]:
    """Settings, packing and unpacking, by the library itself."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    compressor = BaseCompressor.get_value_from_registry(form)

    def make(x: Any) -> dict[str, Any]:
        if weights["strategy"] == "block":
            top = grid(x, *weights["block_structure"])
            low = -top
        elif weights["strategy"] == "group":
            parts = x.unflatten(1, (-1, weights["group_size"]))
            low, top = parts.amin(2), parts.amax(2)
        elif weights["strategy"] == "channel":
            low, top = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        else:
            low, top = x.min().reshape(1), x.max().reshape(1)
        scale, zero = calculate_qparams(low, top, scheme.weights)
        state = {"weight": x, "weight_scale": scale.bfloat16(), "weight_zero_point": zero}
        return compressor.compress(state, scheme)

    return (
        compressed(weights, form),
        make,
        lambda parts: compressor.decompress(parts, scheme)["weight"].float().numpy(),
    )


COMPRESSED: dict[str, tuple[dict[str, Any], str]] = {
    "matrix": (FLOAT | {"strategy": "tensor"}, "float-quantized"),
    "rows": (FLOAT | {"strategy": "channel"}, "float-quantized"),
    "blocks": (FLOAT | {"strategy": "block", "block_structure": [100, 96]}, "float-quantized"),
    "groups": (FLOAT | {"strategy": "group", "group_size": 64}, "naive-quantized"),
    "whole-rows": (INT | {"strategy": "channel"}, "int-quantized"),
    "whole-zeros": (INT | {"strategy": "channel", "symmetric": False}, "int-quantized"),
    "whole-groups": (INT | {"strategy": "group", "group_size": 32}, "naive-quantized"),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_values_are_those_of_compressed_tensors(plain: Path, tmp_path: Path, name: str) -> None:
    settings, make, unpack = compressing(*COMPRESSED[name])
    names = write(plain, tmp_path / "made", settings, make)
    source = open_source(tmp_path / "made")
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "made" / "model.safetensors")
    for key in names:
        base = key.removesuffix("weight")
        parts = {k.removeprefix(base): v for k, v in stored.items() if k.startswith(base)}
        ours = source.tensors[key].rows(0, source.tensors[key].shape[0])
        # It computes in the type of the scales, bfloat16.
        assert np.array_equal(to_bf16(ours), unpack(parts)), key
    assert load_model(source).notes


def test_groups_of_settings_are_told_apart_by_their_parts(plain: Path, tmp_path: Path) -> None:
    first, one, unpack_one = compressing(*COMPRESSED["blocks"])
    second, two, unpack_two = compressing(*COMPRESSED["whole-zeros"])
    made: list[str] = []

    def make(x: Any) -> dict[str, Any]:
        made.append("")
        return one(x) if len(made) % 2 else two(x)

    groups = {
        "a": first["config_groups"]["group_0"] | {"format": "float-quantized"},
        "b": second["config_groups"]["group_0"] | {"format": "int-quantized"},
    }
    settings = first | {"config_groups": groups, "format": "mixed-precision"}
    names = write(plain, tmp_path / "made", settings, make)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "made" / "model.safetensors")
    source = open_source(tmp_path / "made")
    for at, key in enumerate(names):
        base = key.removesuffix("weight")
        parts = {k.removeprefix(base): v for k, v in stored.items() if k.startswith(base)}
        wanted = (unpack_two if at % 2 else unpack_one)(parts)
        assert np.array_equal(to_bf16(source.tensors[key].rows(0, len(wanted))), wanted), key


def test_blocks_of_powers_of_two_are_carried_to_mlx(plain: Path, tmp_path: Path) -> None:
    names = write(plain, tmp_path / "made", *WHOLE["powers"])
    convert(tmp_path / "made", tmp_path / "mlx", preset="mlx:exact")
    before, after = (open_source(tmp_path / f).tensors for f in ("made", "mlx"))
    for key in names:
        rows = before[key].shape[0]
        assert after[key].dtype == "mxfp8g32"
        assert np.array_equal(after[key].rows(0, rows), before[key].rows(0, rows)), key


def test_a_scheme_of_activations_is_mentioned(plain: Path, tmp_path: Path) -> None:
    write(plain, tmp_path / "made", *WHOLE["matrix"])
    notes = load_model(open_source(tmp_path / "made")).notes
    assert any("already quantized (fp8)" in n for n in notes)
    assert any("activation_scheme static" in n for n in notes)


def lost(tensors: dict[str, Any]) -> None:
    del tensors[f"{NAME}_scale_inv"]


def twice(tensors: dict[str, Any]) -> None:
    tensors[f"{NAME}_scale"] = tensors[f"{NAME}_scale_inv"].clone()


def in_floats(tensors: dict[str, Any]) -> None:
    tensors[NAME] = tensors[NAME].float().bfloat16()


def scales(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(tensors: dict[str, Any]) -> None:
        key = f"{NAME}_scale_inv"
        tensors[key] = change(tensors[key]).contiguous()

    return apply


def first(value: float) -> Callable[[Any], Any]:
    def change(x: Any) -> Any:
        x.reshape(-1)[0] = value
        return x

    return change


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no scales": (lost, "has no scales"),
    "two kinds of scales": (twice, "two kinds of scales"),
    "scales of floats": (in_floats, "which holds bf16"),
    "too few": (scales(lambda x: x[:1]), r"shape \[1, 4\]"),
    "the other way": (scales(lambda x: x.T), r"shape \[4, 2\]"),
    "one": (scales(lambda x: x.reshape(-1)[0]), r"shape \[\]"),
    "whole numbers": (scales(lambda x: x.to(torch.int32)), "holds i32"),
    "bytes": (scales(lambda x: x.to(torch.uint8)), "holds u8"),
    "zero": (scales(first(0)), "such as 0"),
    "negative": (scales(first(-1)), "such as -1"),
    "nan": (scales(first(float("nan"))), "such as nan"),
    "infinite": (scales(first(float("inf"))), "such as inf"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_scales_that_do_not_fit_are_refused(plain: Path, tmp_path: Path, case: str) -> None:
    change, says = DAMAGE[case]
    write(plain, tmp_path / "made", *WHOLE["blocks"])
    rewrite(tmp_path / "made", change)
    with pytest.raises(FormatError, match=says) as raised:
        convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f16")
    assert NAME in raised.value.found and raised.value.todo
    assert [p.name for p in tmp_path.iterdir()] == ["made"], "nothing is written"


SETTINGS: dict[str, tuple[dict[str, Any] | None, type[SourceError], str]] = {
    "none": (None, FormatError, "no quantization_config"),
    "one side": (FP8 | {"weight_block_size": [128]}, FormatError, "weight_block_size"),
    "no side": (FP8 | {"weight_block_size": [0, 128]}, FormatError, "weight_block_size"),
    "other blocks": (FP8 | {"weight_block_size": [64, 64]}, FormatError, "shape"),
    "no blocks": (FP8 | {"weight_block_size": None}, FormatError, "shape"),
    "unknown scheme": (FP8 | {"activation_scheme": "odd"}, UnsupportedError, "odd"),
    "experts of 4 bits": (FP8 | {"expert_dtype": "fp4"}, UnsupportedError, "fp4"),
    "unknown method": (FP8 | {"quant_method": "odd"}, UnsupportedError, "odd"),
    "other layout": (FP8 | {"quant_method": "fbgemm_fp8"}, FormatError, "shape"),
    "rotated": (
        compressed(FLOAT) | {"transform_config": {"config_groups": {"a": {}}}},
        UnsupportedError,
        "transform_config",
    ),
    "sparse": (
        compressed(FLOAT) | {"sparsity_config": {"format": "sparse-24-bitmask"}},
        UnsupportedError,
        "sparsity_config",
    ),
    "no groups": (compressed(FLOAT) | {"config_groups": {}}, FormatError, "config_groups"),
    "odd structure": (
        compressed(FLOAT | {"strategy": "block", "block_structure": "1x2x3"}),
        FormatError,
        "block_structure",
    ),
    "text for a structure": (
        compressed(FLOAT | {"strategy": "block", "block_structure": "axb"}),
        FormatError,
        "block_structure",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_do_not_fit_are_refused(plain: Path, tmp_path: Path, case: str) -> None:
    settings, error, says = SETTINGS[case]
    write(plain, tmp_path / "made", settings, WHOLE["blocks"][1])
    with pytest.raises(error, match=says):
        convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f16")
    assert [p.name for p in tmp_path.iterdir()] == ["made"], "nothing is written"


def test_a_method_without_packed_tensors_is_refused(plain: Path, tmp_path: Path) -> None:
    write(plain, tmp_path / "made", FP8, lambda x: {"weight": x.bfloat16()})
    with pytest.raises(FormatError, match="packed by fp8, and no tensor is"):
        open_source(tmp_path / "made")
