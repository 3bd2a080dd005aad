"""Each component that `kanna components` lists can be had by its name."""

from __future__ import annotations

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import kanna
from kanna import convert, encodings, executors, families, methods, runtimes, tasks
from kanna._util import plugins
from kanna.calibration import texts
from kanna.catalog import Component, components, kinds
from kanna.cli.main import cli
from kanna.errors import PlanError, SourceError, UsageError
from kanna.fleet import orchestrators
from kanna.formats import prequantized
from kanna.formats.onnx import encoder
from kanna.hardware import providers
from kanna.packaging import targets
from kanna.registry import layouts
from kanna.serving import engines
from kanna.sources import open_source

BY_KIND = {listing.kind: listing.components for listing in components().kinds}


def each(kind: str) -> Any:
    return pytest.mark.parametrize("one", BY_KIND[kind], ids=lambda c: c.name)


def test_every_kind_is_tried() -> None:
    tried = {
        n.removeprefix("test_").removesuffix("_by_name")
        for n in globals()
        if n.endswith("_by_name")
    }
    assert tried == set(kinds())


@each("sources")
def test_sources_by_name(one: Component, source: Path, tmp_path: Path) -> None:
    if one.name in plugins.names("kanna.formats.prequantized", "unpacked"):
        assert (
            prequantized.method_of({"quantization_config": {"quant_method": one.name}}) == one.name
        )
    elif one.name.startswith("builtin:"):
        with pytest.raises(SourceError) as error:
            open_source("builtin:none")
        assert one.name in error.value.expected
    elif one.name == "gguf":
        convert(source, tmp_path / "a.gguf", encoding="q8_0")
        assert open_source(tmp_path / "a.gguf").kind == "gguf"
    elif one.name == "mlx":
        convert(source, tmp_path / "a", preset="mlx:q8")
        assert any(
            t.dtype.startswith("affine8") for t in open_source(tmp_path / "a").tensors.values()
        )
    elif one.name == "safetensors":
        assert open_source(source).kind == "hf"
    else:
        assert {o.name for o in one.options} == {"revision", "offline", "weights"}


@each("tasks")
def test_tasks_by_name(one: Component) -> None:
    argument = one.facts["form"].partition(":")[2]
    assert tasks.get(one.name).argument == argument
    if not argument:
        assert tasks.choose(one.name, 1)[0].examples


@each("adapters")
def test_adapters_by_name(one: Component) -> None:
    assert plugins.load("kanna.adapters", one.name, "LAYOUT").weights.endswith(".safetensors")


@each("families")
def test_families_by_name(one: Component) -> None:
    if one.name == "encoder":
        assert all(encoder.is_encoder({"architectures": [a]}) for a in one.facts["architectures"])
        return
    family = families.get(one.name)
    for architecture in one.facts["architectures"]:
        config = {"architectures": [architecture]}
        # Of two families with the same class, the rest of the config says which.
        assert (families.family_of(config)[0] == one.name) == family.suits(config)
    assert {o.name for o in one.options} == {*family.defaults, *family.fixed}


@each("encodings")
def test_encodings_by_name(one: Component) -> None:
    for name in one.facts.get("names", [one.name]):
        encoding = encodings.get(name)
        assert encoding.name == name
        shown = components("encodings", name).kinds[0].components[0]
        assert shown.facts["values per block"] == encoding.block
        if encoding.encoder is None or (one.extra and one.missing):
            continue
        x = np.linspace(-1, 1, 2 * encoding.block, dtype=np.float32).reshape(1, -1)
        data = encoding.encode(x, weights=np.ones(x.shape[1], np.float32))
        codes = data.nbytes - encoding.row_scale * len(data)
        assert codes * 8 == pytest.approx(shown.facts["bits per weight"] * x.size, rel=1e-3)
        assert encoding.decode(data, x.shape[1]).shape == x.shape


@each("methods")
def test_methods_by_name(one: Component) -> None:
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, -1)
    method = methods.get(one.name)
    assert method.encode(encodings.get("q8_0"), x).shape == (1, 68)
    assert one.facts["needs statistics"] is method.needs_second_moment


@each("formats")
def test_formats_by_name(one: Component, source: Path) -> None:
    made = convert(source, format=one.name, dry_run=True)
    assert made.file_bytes > 0
    untaken = {"imatrix", "statistics", "plan", "split_max_size"} - {o.name for o in one.options}
    for name in untaken:
        with pytest.raises(
            UsageError, match=f"--{name.replace('_', '-')} has no use for {one.name}"
        ):
            convert(
                source,
                format=one.name,
                dry_run=True,
                **{name: 1 if name == "split_max_size" else "file"},
            )


@each("presets")
def test_presets_by_name(one: Component, source: Path, blocks: Path) -> None:
    made = convert(blocks if one.name == "mlx:exact" else source, preset=one.name, dry_run=True)
    assert made.preset.lower() in (one.name.lower(), one.name.partition(":")[2])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama that every format can hold."""
    tiny_models = pytest.importorskip("tiny_models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            tiny_models.SMALL, "intermediate_size", 640
        )  # as many rows as the vocabulary are refused
        folder = tmp_path_factory.mktemp("source") / "llama"
        tiny_models.make("llama", folder)
        return folder


@pytest.fixture(scope="module")
def blocks(source: Path) -> Path:
    """A source of quantized blocks."""
    path = source.parent / "blocks.gguf"
    convert(source, path, encoding="q4_0")
    return path


@each("runtimes")
def test_runtimes_by_name(one: Component) -> None:
    assert runtimes.get(one.name).available().ok is not bool(one.missing)


@each("engines")
def test_engines_by_name(one: Component) -> None:
    engine = engines.get(one.name)
    assert one.facts["roles"] == list(engine.roles)
    assert one.missing or not engine.missing()


@each("targets")
def test_targets_by_name(one: Component, packaged: Path) -> None:
    target = targets.get(one.name)
    told = (
        json.loads((packaged / "package.json").read_text())
        if (packaged / "package.json").exists()
        else None
    )
    assert target.summary and one.facts["runs"] == list(target.kinds)
    assert told is None or target.arranges is not None or one.name in told["targets"]


@each("providers")
def test_providers_by_name(one: Component) -> None:
    assert one.facts["in onnxruntime"] == providers.get(one.name).provider


@each("executors")
def test_executors_by_name(one: Component) -> None:
    assert {o.name for o in one.options} == {
        f.name for f in fields(executors.get(one.name).options)
    }
    assert all(o.about for o in one.options)


@each("layouts")
def test_layouts_by_name(one: Component) -> None:
    layout = layouts.get(one.name)
    assert one.facts["read by"] == ", ".join(layout.readers)
    result = CliRunner().invoke(cli, ["push", "--help"])
    assert one.name in result.output


@each("orchestrators")
def test_orchestrators_by_name(one: Component) -> None:
    assert one.facts["needs"] == ", ".join(orchestrators.get(one.name).needs) or "nothing"
    result = CliRunner().invoke(cli, ["fleet", "manifests", "--help"])
    assert one.name in result.output


@each("calibrators")
def test_calibrators_by_name(one: Component, tmp_path: Path) -> None:
    from kanna.calibration import self_generated
    from kanna.calibration.imatrix import read
    from kanna.formats.onnx import ranges
    from kanna.model import Model

    model = Model(name="", family="llama", tensors={}, metadata={})
    if one.name == "built-in":
        assert {d.domain for d in texts.documents(None, model)[0]} >= {
            "prose",
            "code",
            "chat",
            "languages",
        }
    elif one.name == "files":
        (tmp_path / "a.txt").write_text("some text")
        assert texts.documents([tmp_path / "a.txt"], model)[0][0].text == "some text"
    elif one.name == "imatrix":
        with pytest.raises(PlanError):
            read(tmp_path / "none.dat")
    elif one.name in ranges.CALIBRATORS:
        if one.name != "minmax":
            pytest.importorskip("onnxruntime")
        x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
        low, high = ranges.ranges([{"x": x}], one.name)["x"]
        assert x.min() <= low < 0 < high <= x.max()
    else:
        assert one.name == self_generated.SELF


@each("searches")
def test_searches_by_name(one: Component, tmp_path: Path) -> None:
    if one.facts.get("kind") == "step":
        assert one.where.startswith(("kanna.optimization.", "kanna.plan."))
        return
    with pytest.raises(UsageError) as error:
        kanna.optimize("none", tmp_path, effort="none")
    assert one.name in error.value.expected


@each("evaluators")
def test_evaluators_by_name(one: Component) -> None:
    module, _, name = one.where.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert one.facts.get("part of") == "the gate" or one.name in (
        "divergence",
        "speed",
        "speed-of-encoders",
        "energy",
    )


@each("graphs")
def test_graphs_by_name(one: Component) -> None:
    module, _, name = one.where.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@each("transforms")
def test_transforms_by_name(one: Component) -> None:
    module, _, name = one.where.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@each("verbs")
def test_verbs_by_name(one: Component) -> None:
    assert callable(getattr(kanna, one.name))
