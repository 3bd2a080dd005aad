"""Checkpoints of 4-bit floats, decoded as their libraries do and carried over bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.prequantized import bits_of, rewrite, to_bf16, write

from kanna import convert, encodings, runtimes
from kanna.encodings import grid_detection, transcoding
from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.evaluation.reference import reference_folder
from kanna.formats import gguf, prequantized
from kanna.formats.safetensors.read import read_file
from kanna.formats.stored import HeaderTensor
from kanna.formats.stream import encode_rows
from kanna.model import Tensor
from kanna.plan.types import TensorPlan
from kanna.sources import open_source

torch = pytest.importorskip("torch")
NAME = "model.layers.1.mlp.down_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hf")
    tiny_models.make("smollm", place)
    return place


def experts(seed: int = 0, *, exponents: tuple[int, int] = (100, 140)) -> dict[str, Any]:
    """Three matrices of 10 x 96 as gpt-oss has them."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (3, 10, 3, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(*exponents, (3, 10, 3), generator=random, dtype=torch.uint8)
    return {f"{EXPERTS}_blocks": blocks, f"{EXPERTS}_scales": scales}


def opened(folder: Path, tensors: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors.torch import save_file

    save_file(tensors, folder / "x.safetensors")
    config = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["x"]}}
    return prequantized.unpacked(read_file(folder / "x.safetensors"), config, "mxfp4")


def theirs(tensors: dict[str, Any], kind: Any) -> Any:
    """What transformers makes of it, rows as they are stored: [experts * outputs, inputs]."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    made = convert_moe_packed_tensors(
        tensors[f"{EXPERTS}_blocks"], tensors[f"{EXPERTS}_scales"], dtype=kind
    )
    return made.transpose(1, 2).reshape(-1, 96).float().numpy()


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_experts_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    tensors = experts() | {"bias": torch.ones(3, 10, dtype=torch.bfloat16)}
    made = opened(tmp_path, tensors)
    assert list(made) == ["bias", EXPERTS] and made[EXPERTS].shape == (3, 10, 96)
    wanted = theirs(tensors, getattr(torch, kind))
    for start, stop in ((0, 30), (7, 23), (9, 10)):
        ours = made[EXPERTS].rows(start, stop)
        assert np.array_equal(bits_of(ours), bits_of(wanted[start:stop]))


@pytest.mark.parametrize("exponents", [(0, 4), (100, 140), (250, 255)])
def test_blocks_go_to_gguf_bit_for_bit(tmp_path: Path, exponents: tuple[int, int]) -> None:
    tensors = experts(1, exponents=exponents)
    made = opened(tmp_path, tensors)[EXPERTS]
    plan = TensorPlan(name=EXPERTS, tensor=made, encoding=encodings.get("mxfp4"), method="search")
    data = encode_rows(plan, 4, 27)
    blocks = tensors[f"{EXPERTS}_blocks"].numpy().reshape(30, 3, 16)[4:27]
    codes = np.stack([blocks & 15, blocks >> 4], axis=3).reshape(23, 3, 32)
    scales = tensors[f"{EXPERTS}_scales"].numpy().reshape(30, 3, 1)[4:27]
    wanted = np.concatenate([scales, codes[..., :16] | codes[..., 16:] << 4], axis=2)
    assert np.array_equal(data, wanted.reshape(23, -1))
    ggml = encodings.get("mxfp4").decode(data, 96)
    assert np.array_equal(ggml, made.rows(4, 27))  # ggml's zeros have no sign
    assert np.array_equal(transcoding.transcode("mxfp4", "mxfp4g32", data), made.raw(4, 27))
    grid = grid_detection.detect(made)
    assert grid is not None and (grid.encoding, grid.exact) == ("mxfp4", True)


def test_groups_of_sixteen_go_to_gguf_as_they_are() -> None:
    x = np.random.default_rng(5).standard_normal((6, 128)).astype(np.float32)
    rows = encodings.get("nvfp4g16").encode(x)
    there = transcoding.transcode("nvfp4g16", "nvfp4", rows)
    assert there is not None
    assert np.array_equal(
        encodings.get("nvfp4").decode(there, 128), encodings.get("nvfp4g16").decode(rows, 128)
    )
    assert np.array_equal(transcoding.transcode("nvfp4", "nvfp4g16", there), rows)
    rows[0, 8] = 0x85  # a scale below zero, which ggml has not
    assert transcoding.transcode("nvfp4g16", "nvfp4", rows) is None


COMPRESSED = {
    "mxfp4": ("mxfp4-pack-quantized", {"strategy": "group", "group_size": 32}),
    "nvfp4": ("nvfp4-pack-quantized", {"strategy": "tensor_group", "group_size": 16}),
}


def compressing(name: str) -> tuple[dict[str, Any], Any, Any]:
    """Settings, packing and unpacking, by compressed-tensors itself."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    form, more = COMPRESSED[name]
    weights = {"num_bits": 4, "type": "float", "symmetric": True, **more}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    compressor = BaseCompressor.get_value_from_registry(form)
    group = more["group_size"]

    def make(x: Any) -> dict[str, Any]:
        top = x.unflatten(1, (-1, group)).abs().amax(2)
        if name == "nvfp4":
            factor = (448 * 6 / x.abs().max()).reshape(1)
            scale = (factor * top / 6).to(torch.float8_e4m3fn).float()
            state = {"weight": x, "weight_scale": scale, "weight_global_scale": factor}
        else:
            state = {"weight": x, "weight_scale": 2.0 ** torch.ceil(torch.log2(top / 6))}
        return compressor.compress(state, scheme) | {"input_global_scale": torch.ones(1)}

    settings = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    return (
        settings,
        make,
        lambda parts: compressor.decompress(parts, scheme)["weight"].float().numpy(),
    )


def parts_of(folder: Path, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    base = name.removesuffix("weight")
    stored = load_file(folder / "model.safetensors")
    return {k.removeprefix(base): v for k, v in stored.items() if k.startswith(base)}


@pytest.mark.parametrize("name", COMPRESSED)
def test_values_are_those_of_compressed_tensors(plain: Path, tmp_path: Path, name: str) -> None:
    settings, make, unpack = compressing(name)
    names = write(plain, tmp_path / "made", settings, make)
    source = open_source(tmp_path / "made")
    for key in names:
        parts = parts_of(tmp_path / "made", key)
        ours = source.tensors[key].rows(0, source.tensors[key].shape[0])
        # It gives them in bfloat16.
        assert np.array_equal(to_bf16(ours), unpack(parts)), key
        assert np.array_equal(source.tensors[key].rows(3, 11), ours[3:11]), key
    convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f32")
    made = gguf.read(tmp_path / "model.gguf").tensors["blk.1.ffn_down.weight"]
    assert np.array_equal(made.rows(0, 256), source.tensors[NAME].rows(0, 256))


def test_a_checkpoint_of_mxfp4_becomes_a_gguf_and_a_folder_of_mlx(
    plain: Path, tmp_path: Path
) -> None:
    settings, make, _ = compressing("mxfp4")
    write(plain, tmp_path / "made", settings, make)
    before = open_source(tmp_path / "made").tensors[NAME].rows(0, 256)
    convert(tmp_path / "made", tmp_path / "model.gguf", encoding="mxfp4")
    made = gguf.read(tmp_path / "model.gguf").tensors["blk.1.ffn_down.weight"]
    assert made.dtype == "mxfp4" and np.array_equal(made.rows(0, 256), before)
    convert(tmp_path / "model.gguf", tmp_path / "mlx", preset="mlx:exact")
    there = open_source(tmp_path / "mlx").tensors[NAME]
    assert there.dtype == "mxfp4g32" and np.array_equal(there.rows(0, 256), before)


def test_settings_of_words_and_of_floats_are_told_apart(plain: Path, tmp_path: Path) -> None:
    first, one, unpack_one = compressing("mxfp4")
    second, two, unpack_two = compressing("nvfp4")
    made: list[str] = []

    def make(x: Any) -> dict[str, Any]:
        made.append("")
        return one(x) if len(made) % 2 else two(x)

    groups = {
        "a": first["config_groups"]["group_0"] | {"format": first["format"]},
        "b": second["config_groups"]["group_0"] | {"format": second["format"]},
    }
    settings = first | {"config_groups": groups, "format": "mixed-precision"}
    names = write(plain, tmp_path / "made", settings, make)
    source = open_source(tmp_path / "made")
    for at, key in enumerate(names):
        wanted = (unpack_two if at % 2 else unpack_one)(parts_of(tmp_path / "made", key))
        assert np.array_equal(to_bf16(source.tensors[key].rows(0, len(wanted))), wanted), key


def modelopt(x: Any) -> dict[str, Any]:
    """A matrix as Model-Optimizer exports it: E2M1 codes, scales E4M3, one scale of all."""
    whole = x.abs().max() / (6 * 448)
    top = x.unflatten(1, (-1, 16)).abs().amax(2)
    scales = (top / 6 / whole).to(torch.float8_e4m3fn)
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    at = x.unflatten(1, (-1, 16)) / (scales.float() * whole)[..., None]
    codes = (at.abs()[..., None] - levels).abs().argmin(-1) | (at < 0) * 8
    codes = codes.flatten(1).to(torch.uint8)
    return {
        "weight": codes[:, ::2] | codes[:, 1::2] << 4,
        "weight_scale": scales,
        "weight_scale_2": whole,
        "input_scale": torch.tensor(0.25),
    }


MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}


def test_values_of_model_optimizer(plain: Path, tmp_path: Path) -> None:
    """By the formula that its documentation gives: code * (scale of the group * scale of all)."""
    names = write(plain, tmp_path / "made", MODELOPT, modelopt)
    source = open_source(tmp_path / "made")
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for key in names:
        parts = parts_of(tmp_path / "made", key)
        codes = torch.stack([parts["weight"] & 15, parts["weight"] >> 4], dim=2).flatten(1)
        scales = parts["weight_scale"].float() * parts["weight_scale_2"]
        wanted = levels[codes.int()] * scales.repeat_interleave(16, 1)
        ours = source.tensors[key].rows(0, len(wanted))
        assert np.array_equal(ours, wanted.numpy()), key


def test_settings_of_an_older_model_optimizer_lie_beside(plain: Path, tmp_path: Path) -> None:
    write(plain, tmp_path / "made", None, modelopt)
    settings = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "made" / "hf_quant_config.json").write_text(json.dumps(settings))
    assert open_source(tmp_path / "made").tensors[NAME].shape == (256, 512)
    settings["quantization"] = {"quant_algo": "W4A8_AWQ"}
    (tmp_path / "made" / "hf_quant_config.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedError, match="W4A8_AWQ"):
        open_source(tmp_path / "made")


def lost(end: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        del tensors[NAME + end]

    return change


def put(end: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[NAME + end] = make(tensors[NAME + end]).contiguous()

    return change


def nan_first(x: Any) -> Any:
    bytes_ = x.view(torch.uint8)
    bytes_.reshape(-1)[0] = 0x7F
    return bytes_.view(x.dtype)


def zero_first(x: Any) -> Any:
    x.view(torch.uint8).reshape(-1)[0] = 0
    return x


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no scales": (lost("_scale"), "has no scales"),
    "no scale of all": (lost("_scale_2"), "has no scales"),
    "nan": (put("_scale", nan_first), "such as nan"),
    "zero": (put("_scale", zero_first), "such as 0"),
    "scale of all is zero": (put("_scale_2", lambda x: x * 0), "such as 0"),
    "scale of all is negative": (put("_scale_2", lambda x: -x), "such as -"),
    "two scales of all": (put("_scale_2", lambda x: x.repeat(2)), "shape"),
    "too few": (put("_scale", lambda x: x[:, 1:]), "shape"),
    "in floats": (put("_scale", lambda x: x.float()), "holds f32"),
    "odd rows": (put("", lambda x: x[:, 1:]), "shape"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_parts_that_do_not_fit_are_refused(plain: Path, tmp_path: Path, case: str) -> None:
    change, says = DAMAGE[case]
    write(plain, tmp_path / "made", MODELOPT, modelopt)
    rewrite(tmp_path / "made", change)
    with pytest.raises(FormatError, match=says) as raised:
        convert(tmp_path / "made", tmp_path / "model.gguf", encoding="f16")
    assert NAME in raised.value.found
    assert [p.name for p in tmp_path.iterdir()] == ["made"], "nothing is written"


def test_layers_whose_inputs_are_scaled_are_refused(plain: Path, tmp_path: Path) -> None:
    def scaled(x: Any) -> dict[str, Any]:
        return modelopt(x) | {"pre_quant_scale": torch.ones(x.shape[1])}

    write(plain, tmp_path / "made", MODELOPT, scaled)
    with pytest.raises(UnsupportedError, match="pre_quant_scale"):
        open_source(tmp_path / "made")


BLOCKS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no scales": (lambda t: t.pop(f"{EXPERTS}_scales"), "and not .*_scales"),
    "no blocks": (lambda t: t.pop(f"{EXPERTS}_blocks"), "and not .*_blocks"),
    "both": (lambda t: t.update({EXPERTS: torch.ones(3, 10, 96)}), "beside"),
    "nan": (lambda t: t[f"{EXPERTS}_scales"].reshape(-1)[5:6].fill_(255), "such as nan"),
    "fewer scales": (
        lambda t: t.update({f"{EXPERTS}_scales": t[f"{EXPERTS}_scales"][:2].clone()}),
        "shape",
    ),
    "short blocks": (
        lambda t: t.update({f"{EXPERTS}_blocks": t[f"{EXPERTS}_blocks"][..., :8].clone()}),
        "shape",
    ),
    "scales of floats": (
        lambda t: t.update({f"{EXPERTS}_scales": t[f"{EXPERTS}_scales"].float()}),
        "holds f32",
    ),
    "signed": (
        lambda t: t.update({f"{EXPERTS}_blocks": t[f"{EXPERTS}_blocks"].to(torch.int8)}),
        "holds i8",
    ),
    "none": (lambda t: (t.clear(), t.update({"a": torch.ones(2, 2)})), "no tensor is"),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    change, says = BLOCKS[case]
    tensors = experts()
    change(tensors)
    with pytest.raises(FormatError, match=says):
        opened(tmp_path, tensors)


def test_blocks_without_settings_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(experts(), tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match="no quantization_config"):
        prequantized.refuse_unnamed(read_file(tmp_path / "x.safetensors"))


def test_headers_alone_are_enough(tmp_path: Path) -> None:
    """As for a repository of the hub, of which no weight was fetched."""
    tensors = {
        name: HeaderTensor(name, tuple(x.shape), "u8", x.numel()) for name, x in experts().items()
    }
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    made = prequantized.unpacked(tensors, config, "mxfp4")[EXPERTS]
    assert made.shape == (3, 10, 96) and made.dtype == "mxfp4g32"
    with pytest.raises(SourceError, match="were not fetched"):
        made.rows(0, 1)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"quant_method": "fp8"}, False),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, True),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, False),
        ({"quant_method": "odd"}, False),
    ],
)
def test_where_headers_are_not_enough(settings: dict[str, Any], needed: bool) -> None:
    assert prequantized.shapes_need_values({"quantization_config": settings}) is needed


def test_the_reference_of_a_packed_source_is_decoded(plain: Path, tmp_path: Path) -> None:
    write(plain, tmp_path / "made", MODELOPT, modelopt)
    source = open_source(tmp_path / "made")
    assert source.packed and not open_source(plain).packed
    folder = reference_folder(source)
    there = open_source(folder).tensors[NAME]
    assert folder != tmp_path / "made" and there.dtype == "f32"
    assert np.array_equal(there.rows(0, 256), source.tensors[NAME].rows(0, 256))


def test_a_packed_source_becomes_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 384)
    (tmp_path / "plain").mkdir()
    tiny_models.make("llama", tmp_path / "plain")
    write(tmp_path / "plain", tmp_path / "made", MODELOPT, modelopt)
    convert(tmp_path / "made", tmp_path / "out", preset="onnx:fp32", threads=1)
    ids = list(range(20, 60))
    with (
        runtimes.get("onnx").open(tmp_path / "out") as made,
        runtimes.get("torch").open(reference_folder(tmp_path / "made")) as wanted,
    ):
        assert np.abs(made.logits(ids) - wanted.logits(ids)).max() < 1e-3
