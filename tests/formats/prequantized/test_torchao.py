"""Checkpoints of torchao, by the library where it is installed, else by what it documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.prequantized import rewrite, to_bf16, write

from kanna import convert
from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.sources import open_source

torch = pytest.importorskip("torch")
BASE = "model.layers.1.mlp.down_proj."


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hf")
    tiny_models.make("smollm", place)
    return place


def settings(*kinds: str) -> dict[str, Any]:
    """As transformers writes them: one for all, or one for each of some modules."""
    each = [{"_type": kind, "_version": 2, "_data": {"group_size": None}} for kind in kinds]
    if len(each) == 1:
        return {"quant_method": "torchao", "quant_type": {"default": each[0]}}
    several = {
        "_type": "FqnToConfig",
        "_data": {"fqn_to_config": dict(zip("ab", each, strict=True))},
    }
    return {"quant_method": "torchao", "quant_type": {"default": several}}


def grouped(group: int) -> Callable[[Any], dict[str, Any]]:
    def make(x: Any) -> dict[str, Any]:
        parts = x.unflatten(1, (-1, group))
        scales = (parts.amax(2) - parts.amin(2)) / 15
        zeros = (-8 - parts.amin(2) / scales).round().clamp(-8, 7)
        codes = (parts / scales[..., None] + zeros[..., None]).round().clamp(-8, 7)
        return {
            "_weight_qdata": codes.flatten(1).to(torch.int8),
            "_weight_scale": scales.bfloat16(),
            "_weight_zero_point": zeros.to(torch.int8),
        }

    return make


def floats(x: Any) -> dict[str, Any]:
    scales = x.abs().amax(1, keepdim=True) / 448
    return {"_weight_qdata": (x / scales).to(torch.float8_e4m3fn), "_weight_scale": scales}


@pytest.mark.parametrize("group", [32, 128, 256])
def test_groups_of_whole_numbers(plain: Path, tmp_path: Path, group: int) -> None:
    names = write(plain, tmp_path / "made", settings("IntxWeightOnlyConfig"), grouped(group))
    from safetensors.torch import load_file

    stored, source = (
        load_file(tmp_path / "made" / "model.safetensors"),
        open_source(tmp_path / "made"),
    )
    assert len(source.tensors) == 29 and "quantization_config" not in source.config
    for key in names:
        base = key.removesuffix("weight")
        codes, scales, zeros = (
            stored[f"{base}_weight_{part}"].float() for part in ("qdata", "scale", "zero_point")
        )
        wanted = (codes.unflatten(1, (-1, group)) - zeros[..., None]) * scales[..., None]
        ours = source.tensors[key].rows(0, len(codes))
        assert np.array_equal(ours, wanted.flatten(1).numpy()), key
        assert np.array_equal(source.tensors[key].rows(9, 21), ours[9:21])
    convert(tmp_path / "made", tmp_path / "model.gguf", encoding="q8_0")


def test_rows_of_floats_in_settings_of_each(plain: Path, tmp_path: Path) -> None:
    kinds = ("Float8WeightOnlyConfig", "Int8WeightOnlyConfig")
    names = write(plain, tmp_path / "made", settings(*kinds), floats)
    from safetensors.torch import load_file

    stored, source = (
        load_file(tmp_path / "made" / "model.safetensors"),
        open_source(tmp_path / "made"),
    )
    for key in names:
        base = key.removesuffix("weight")
        wanted = stored[f"{base}_weight_qdata"].float() * stored[f"{base}_weight_scale"]
        assert np.array_equal(source.tensors[key].rows(0, len(wanted)), wanted.numpy()), key


@pytest.mark.parametrize(
    "name", ["int8", "int8-inputs", "float8", "int4", "int4-inputs", "float8-one"]
)
def test_values_are_those_of_the_library(plain: Path, tmp_path: Path, name: str) -> None:
    ao = pytest.importorskip("torchao.quantization")
    from torchao.core.config import config_to_dict
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    in_groups = ao.PerGroup(32)
    config = {
        "int8": lambda: ao.Int8WeightOnlyConfig(),
        "int8-inputs": lambda: ao.Int8DynamicActivationInt8WeightConfig(),
        "float8": lambda: ao.Float8WeightOnlyConfig(),
        "float8-one": lambda: ao.Float8WeightOnlyConfig(granularity=ao.PerTensor()),
        "int4": lambda: ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=in_groups),
        "int4-inputs": lambda: ao.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=in_groups
        ),
    }[name]()
    wanted: list[Any] = []

    def make(x: Any) -> dict[str, Any]:
        layer = torch.nn.Linear(x.shape[1], x.shape[0], bias=False).bfloat16()
        layer.weight.data.copy_(x)
        model = torch.nn.ModuleDict({"a": layer})
        ao.quantize_(model, config)
        wanted.append(model["a"].weight.dequantize().float().numpy())
        flat, _ = flatten_tensor_state_dict(model.state_dict())
        return {name.removeprefix("a."): part for name, part in flat.items()}

    about = {"quant_method": "torchao", "quant_type": {"default": config_to_dict(config)}}
    names = write(plain, tmp_path / "made", about, make)
    source = open_source(tmp_path / "made")
    for key, values in zip(names, wanted, strict=True):
        # It gives them in bfloat16.
        assert np.array_equal(to_bf16(source.tensors[key].rows(0, len(values))), values), key


def drop(end: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        del tensors[BASE + end]

    return change


def put(end: str, make: Callable[[Any], Any], of: str = "") -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[BASE + end] = make(tensors[BASE + (of or end)]).contiguous()

    return change


SCALE, ZERO, CODES = "_weight_scale", "_weight_zero_point", "_weight_qdata"
DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], type[SourceError], str]] = {
    "no scales": (drop(SCALE), FormatError, "has no scales"),
    "no codes": (drop(CODES), FormatError, "and not"),
    "fewer scales": (put(SCALE, lambda x: x[1:]), FormatError, "shape"),
    "other groups": (put(SCALE, lambda x: x[:, 1:]), FormatError, "shape"),
    "nan": (put(SCALE, lambda x: x * float("nan")), FormatError, "such as nan"),
    "zero": (put(SCALE, lambda x: x * 0), FormatError, "such as 0"),
    "negative": (put(SCALE, lambda x: -x), FormatError, "such as -"),
    "fewer zeros": (put(ZERO, lambda x: x[1:]), FormatError, "zero_point"),
    "zeros of floats": (put(ZERO, lambda x: x.bfloat16()), FormatError, "holds bf16"),
    "words": (put(CODES, lambda x: x.to(torch.int32)), FormatError, "holds i32"),
    "four axes": (put(CODES, lambda x: x.reshape(16, 16, 16, 32)), FormatError, "shape"),
    "scaled inputs": (
        put("_weight_act_pre_scale", lambda x: x.clone(), SCALE),
        UnsupportedError,
        "act_pre_scale",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_parts_that_do_not_fit_are_refused(plain: Path, tmp_path: Path, case: str) -> None:
    change, error, says = DAMAGE[case]
    write(plain, tmp_path / "made", settings("IntxWeightOnlyConfig"), grouped(32))
    rewrite(tmp_path / "made", change)
    with pytest.raises(error, match=says):
        convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f16")
    assert [p.name for p in tmp_path.iterdir()] == ["made"], "nothing is written"


@pytest.mark.parametrize(
    ("about", "error", "says"),
    [
        (settings("Int4WeightOnlyConfig"), UnsupportedError, "Int4WeightOnlyConfig"),
        (settings("Int8WeightOnlyConfig", "OddConfig"), UnsupportedError, "OddConfig"),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, UnsupportedError, "none"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, FormatError, "quant_type"),
        ({"quant_method": "torchao"}, FormatError, "quant_type"),
    ],
)
def test_other_layouts_are_refused(
    plain: Path, tmp_path: Path, about: dict[str, Any], error: type[SourceError], says: str
) -> None:
    write(plain, tmp_path / "made", about, grouped(32))
    with pytest.raises(error, match=says) as raised:
        open_source(tmp_path / "made")
    assert raised.value.todo
