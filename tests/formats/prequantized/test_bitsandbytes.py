"""Checkpoints of bitsandbytes, packed and unpacked by the library or as it documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.prequantized import bits_of, rewrite, to_bf16, write

from kanna import convert
from kanna.errors import FormatError, UnsupportedError
from kanna.formats import gguf
from kanna.sources import open_source

torch = pytest.importorskip("torch")
NAME = "model.layers.1.mlp.down_proj.weight"
SETTINGS = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_skip_modules": ["lm_head"],
}
STATE = "weight.quant_state.bitsandbytes__nf4"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hf")
    tiny_models.make("smollm", place)
    return place


def state_of(x: Any, **changes: Any) -> Any:
    state = {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": list(x.shape),
        "nested_blocksize": 256,
        "nested_dtype": "float32",
        "nested_offset": 0.04,
    }
    return torch.tensor(list(json.dumps(state | changes).encode()), dtype=torch.uint8)


def numbers(x: Any, block: int) -> tuple[dict[str, Any], Any]:
    """Parts of a matrix drawn at random, and its values by the published formula."""
    random = np.random.default_rng(x.shape[0])
    table = np.sort(random.uniform(-1, 1, 16)).astype(np.float32)
    sizes = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
    table[[0, -1]] = sizes[[0, -1]] = -1, 1
    count = x.numel()
    codes = random.integers(0, 16, count + count % 2).astype(np.uint8)
    of_blocks = random.integers(0, 256, -(-count // block)).astype(np.uint8)
    scales = random.uniform(0.01, 0.02, -(-len(of_blocks) // 256)).astype(np.float32)
    largest = sizes[of_blocks] * np.repeat(scales, 256)[: len(of_blocks)] + np.float32(0.04)
    values = table[codes[:count]] * np.repeat(largest, block)[:count]
    parts = {
        "weight": codes[::2] << 4 | codes[1::2],
        "weight.absmax": of_blocks,
        "weight.quant_map": table,
        "weight.nested_absmax": scales,
        "weight.nested_quant_map": sizes,
    }
    made = {name: torch.from_numpy(part) for name, part in parts.items()}
    made["weight"] = made["weight"].reshape(-1, 1)
    return made | {STATE: state_of(x, blocksize=block)}, values.reshape(tuple(x.shape))


@pytest.mark.parametrize("block", [64, 48, 4096])
def test_blocks_run_on_from_row_to_row(plain: Path, tmp_path: Path, block: int) -> None:
    """Of 48 values, blocks end within rows of 256 and 512."""
    wanted: list[Any] = []

    def make(x: Any) -> dict[str, Any]:
        parts, values = numbers(x, block)
        wanted.append(values)
        return parts

    names = write(plain, tmp_path / "made", SETTINGS, make)
    source = open_source(tmp_path / "made")
    assert "quantization_config" not in source.config
    assert set(names) <= set(source.tensors) and len(source.tensors) == 29
    for key, values in zip(names, wanted, strict=True):
        tensor = source.tensors[key]
        assert tensor.shape == values.shape and tensor.dtype == "bf16"
        for start, stop in ((0, len(values)), (5, 18), (77, 78)):
            assert np.array_equal(bits_of(tensor.rows(start, stop)), bits_of(values[start:stop]))
    convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f32")
    made = gguf.read(tmp_path / "model.gguf").tensors["blk.1.ffn_down.weight"]
    assert np.array_equal(made.rows(0, 256), source.tensors[NAME].rows(0, 256))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_values_are_those_of_the_library(
    plain: Path, tmp_path: Path, quant_type: str, nested: bool, kind: str
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    wanted: list[Any] = []

    def make(x: Any) -> dict[str, Any]:
        codes, state = functional.quantize_4bit(
            x.to(getattr(torch, kind)), compress_statistics=nested, quant_type=quant_type
        )
        wanted.append(functional.dequantize_4bit(codes, state).float().numpy())
        parts = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
        return {"weight": codes} | parts

    settings = SETTINGS | {"bnb_4bit_quant_type": quant_type}
    names = write(plain, tmp_path / "made", settings, make)
    source = open_source(tmp_path / "made")
    rounded: Callable[[Any], Any] = {
        "float32": lambda x: x,
        "bfloat16": to_bf16,
        "float16": lambda x: x.astype(np.float16).astype(np.float32),
    }[kind]
    for key, values in zip(names, wanted, strict=True):
        ours = rounded(source.tensors[key].rows(0, len(values)))
        assert np.array_equal(ours, values), key


def eight(x: Any) -> dict[str, Any]:
    scales = x.abs().amax(1)
    codes = (x / scales[:, None] * 127).round().to(torch.int8)
    return {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}


def test_rows_of_whole_numbers(plain: Path, tmp_path: Path) -> None:
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    names = write(plain, tmp_path / "made", settings, eight)
    source = open_source(tmp_path / "made")
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "made" / "model.safetensors")
    for key in names:
        scales = stored[key.removesuffix("weight") + "SCB"]
        wanted = stored[key].float() * scales[:, None] * 7.874015718698502e-3
        assert np.array_equal(source.tensors[key].rows(0, len(wanted)), wanted.numpy()), key


def lost(end: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        del tensors[NAME.removesuffix("weight") + end]

    return change


def put(end: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        name = NAME.removesuffix("weight") + end
        tensors[name] = make(tensors[name]).contiguous()

    return change


def as_state(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return put(STATE, lambda _: state_of(torch.empty(256, 512), **changes))


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], type[Exception], str]] = {
    "no sizes": (lost("weight.absmax"), FormatError, "has nothing"),
    "no table": (lost("weight.quant_map"), FormatError, "has nothing"),
    "no settings": (lost(STATE), FormatError, "not all of its parts"),
    "no scales of sizes": (lost("weight.nested_absmax"), FormatError, "has nothing"),
    "no table of sizes": (lost("weight.nested_quant_map"), FormatError, "has nothing"),
    "no codes": (lost("weight"), FormatError, "not all of its parts"),
    "fewer sizes": (put("weight.absmax", lambda x: x[1:]), FormatError, "expected|shape"),
    "fewer codes": (put("weight", lambda x: x[1:]), FormatError, "bytes of u8"),
    "sizes of floats": (put("weight.absmax", lambda x: x.float()), FormatError, "holds f32"),
    "nan": (put("weight.nested_absmax", lambda x: x * float("nan")), FormatError, "such as nan"),
    "negative": (put("weight.nested_absmax", lambda x: -x), FormatError, "such as -"),
    "a table of zeros": (put("weight.quant_map", lambda x: x * 0), FormatError, "no table"),
    "a table of nan": (put("weight.quant_map", lambda x: x / 0), FormatError, "no table"),
    "no JSON": (put(STATE, lambda x: x[:9]), FormatError, "JSON"),
    "no text": (put(STATE, lambda x: x | 128), FormatError, "no text"),
    "another type": (as_state(quant_type="nf2"), UnsupportedError, "nf2"),
    "no shape": (as_state(shape=None), FormatError, "shape"),
    "another shape": (as_state(shape=[256, 256]), FormatError, "bytes of u8"),
    "a flat shape": (as_state(shape=[256 * 512]), FormatError, "bytes of u8"),
    "blocks of none": (as_state(blocksize=0), FormatError, "blocksize"),
    "an endless offset": (as_state(nested_offset=1e999), FormatError, "nested_offset"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_parts_that_do_not_fit_are_refused(plain: Path, tmp_path: Path, case: str) -> None:
    change, error, says = DAMAGE[case]
    write(plain, tmp_path / "made", SETTINGS, lambda x: numbers(x, 64)[0])
    rewrite(tmp_path / "made", change)
    with pytest.raises(error, match=says) as raised:
        convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f16")
    assert NAME in str(raised.value) or error is UnsupportedError
    assert [p.name for p in tmp_path.iterdir()] == ["made"], "nothing is written"


EIGHT: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no scales": (lost("SCB"), "no SCB"),
    "fewer scales": (put("SCB", lambda x: x[1:]), "SCB of shape"),
    "negative": (put("SCB", lambda x: -x), "such as -"),
    "in floats": (put("weight", lambda x: x.float()), "holds f32"),
}


@pytest.mark.parametrize("case", EIGHT)
def test_rows_without_their_scales_are_refused(plain: Path, tmp_path: Path, case: str) -> None:
    change, says = EIGHT[case]
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    write(plain, tmp_path / "made", settings, eight)
    rewrite(tmp_path / "made", change)
    with pytest.raises(FormatError, match=says):
        open_source(tmp_path / "made")
