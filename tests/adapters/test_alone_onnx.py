"""`kanna convert --adapter --format onnx`: onnxruntime-genai computes what PEFT computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, tiny_adapters, tiny_models
from helpers.tiny_adapters import RECIPES
from safetensors.numpy import load_file, save_file

import kanna
from kanna import encodings
from kanna.errors import FormatError, OutputError, UnsupportedError, UsageError
from kanna.plan import Plan, RuleModel
from kanna.serving.engines.onnx_decoder import OnnxDecoder

needs.package("peft")
genai = pytest.importorskip("onnxruntime_genai")
IDS = list(range(5, 40))
EXACT = Plan(
    name="exact",
    rules=[RuleModel(pattern=".", encoding="nbits4g32", accuracy=0, method="nearest")],
)
"""4 bits, and arithmetic in float32: what is compared is the adapter, not rounded inputs."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone-onnx")


@pytest.fixture(autouse=True)
def _distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder takes a matrix for the head when both have as many rows."""
    small = {"intermediate_size": 640, "vocab_size": 544, "num_hidden_layers": 2}
    monkeypatch.setattr(tiny_models, "SMALL", tiny_models.SMALL | small)


def adapted(home: Path, name: str, **more: Any) -> tuple[Path, Path, Any]:
    """Base, adapter and PEFT's model of a recipe."""
    recipe = RECIPES[name]
    source = tiny_adapters.base(recipe.family, home / recipe.family)
    folder = home / f"{name}{''.join(more)}-adapter"
    return source, folder, tiny_adapters.make(source, folder, **(recipe.config | more))


def of_peft(model: Any, *, active: bool) -> np.ndarray:
    import contextlib

    import torch

    with torch.no_grad(), contextlib.nullcontext() if active else model.disable_adapter():
        return model(torch.tensor([IDS])).logits[0].numpy()


def of_genai(folder: Path, adapter: Path | None) -> np.ndarray:
    """Logits of onnxruntime-genai; without an adapter when there is none."""
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=64)
    generator = genai.Generator(model, params)
    if adapter is not None:
        adapters = genai.Adapters(model)
        adapters.load(str(adapter), "tuned")
        generator.set_active_adapter(adapters, "tuned")
    generator.append_tokens(np.array(IDS, np.int32))
    return np.array(generator.get_output("logits"))[0]


def divergence(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Mean KL divergence, in nats."""
    import torch

    p, q = (torch.log_softmax(torch.tensor(x).double(), -1) for x in (reference, candidate))
    return float((p.exp() * (p - q)).sum(-1).mean())


def round_base(model: Any) -> None:
    """Put the values that 4 bits hold in the place of the base's."""
    import torch

    encoding = encodings.get("nbits4g32")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" not in name and weight.ndim == 2:
                x = np.ascontiguousarray(weight.numpy())
                data = encoding.encode(x, method="nearest")
                weight.copy_(torch.tensor(encoding.decode(data, x.shape[1])))


def held_to_peft(folder: Path, adapter: Path, model: Any) -> None:
    base, tuned = of_peft(model, active=False), of_peft(model, active=True)
    assert divergence(base, tuned) > 1e-3
    assert divergence(base, of_genai(folder, None)) < 1e-5
    assert divergence(tuned, of_genai(folder, adapter)) < 1e-5


def test_a_base_of_4_bits_takes_adapters_of_any_rank(home: Path) -> None:
    """Ranks by pattern, rsLoRA, one part of a node that multiplies by q, k and v at once."""
    source, adapter, model = adapted(home, "rank-pattern")
    out = home / "int4"
    result = kanna.convert(source, out, adapter=adapter, format="onnx", plan=EXACT, threads=1)
    written = sum(p.stat().st_size for p in out.iterdir())
    assert result.file_bytes == written and "--adapter" in result.command
    round_base(model)
    held_to_peft(out, out / "adapter.onnx_adapter", model)

    source, other, model = adapted(home, "rank-pattern", lora_alpha=40, r=3)
    alone = home / "other.onnx_adapter"
    kanna.convert(source, alone, adapter=other, threads=1)  # the suffix names the format
    round_base(model)
    held_to_peft(out, alone, model)
    with pytest.raises(OutputError, match="exists"):
        kanna.convert(source, alone, adapter=other, format="onnx")
    held_to_genai(out, [out / "adapter.onnx_adapter", alone])


def held_to_genai(folder: Path, files: list[Path]) -> None:
    """What `serve` computes, each request with an adapter of its own in one batch."""
    decoder = OnnxDecoder(folder, context=64, rows=4, threads=1, adapters=files)
    switched: list[tuple[tuple[int, float], ...]] = [((0, 1.0),), (), ((1, 1.0),)]
    wanted = [of_genai(folder, files[0]), of_genai(folder, None), of_genai(folder, files[1])]
    for adapters, logits in zip(switched, wanted, strict=True):
        row = decoder.begin(adapters)
        assert divergence(logits[-4:-1], decoder.read(row, IDS[:-1], 3)) < 1e-6
    assert divergence(np.array([w[-1] for w in wanted]), decoder.step([IDS[-1]] * 3)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "alpha-pattern", "fused"])
def test_a_base_in_float32(home: Path, name: str) -> None:
    source, adapter, model = adapted(home, name)
    out = home / name
    kanna.convert(source, out, adapter=adapter, preset="onnx:fp32", threads=1)
    held_to_peft(out, out / "adapter.onnx_adapter", model)


@pytest.mark.parametrize("name", ["dora", "tied-head", "embedding"])
def test_what_the_graph_has_no_place_for_is_refused(home: Path, name: str) -> None:
    source, adapter, _ = adapted(home, name)
    with pytest.raises(UnsupportedError, match="kanna merge"):
        kanna.convert(source, home / "refused", adapter=adapter, format="onnx")
    assert not (home / "refused").exists()


def test_options_that_are_of_no_use_are_refused(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "rslora")
    for out, options, reason in (
        ("x", {"preset": "onnx:fp16"}, "takes no adapter"),
        ("x", {"preset": "onnx:q4"}, "no preset"),
        ("x", {"imatrix": "m.gguf"}, "--imatrix is of no use"),
        ("x", {"verify": True}, "--verify is of no use"),
        ("x.onnx_adapter", {"preset": "onnx:int4"}, "no base is written"),
    ):
        with pytest.raises(UsageError, match=reason):
            kanna.convert(source, tmp_path / out, adapter=adapter, format="onnx", **options)
    with pytest.raises(OutputError, match="the source itself"):
        kanna.convert(source, source, adapter=adapter, format="onnx", overwrite=True)
    weights = adapter / "adapter_model.safetensors"
    values = load_file(weights)
    values[next(iter(values))][0, 0] = np.nan
    save_file(values, weights)
    with pytest.raises(FormatError, match="NaN"):
        kanna.convert(source, tmp_path / "x.onnx_adapter", adapter=adapter, format="onnx")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_the_bytes_of_both(home: Path) -> None:
    source, adapter, _ = adapted(home, "rslora")
    base = kanna.convert(source, format="onnx", dry_run=True)
    both = kanna.convert(source, format="onnx", adapter=adapter, dry_run=True)
    alone = kanna.convert(source, "x.onnx_adapter", format="onnx", adapter=adapter, dry_run=True)
    assert both.file_bytes == base.file_bytes + alone.file_bytes
    assert both.preset == base.preset and len(both.tensors) > len(base.tensors)
