"""Plans: llama.cpp's mixes, tensor by tensor, and plan files that say where they are wrong."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from helpers import llama_cpp_mixes

import kanna
from kanna import families, plan
from kanna.errors import PlanError
from kanna.plan import gguf
from kanna.sources import open_source


@pytest.fixture(scope="session", params=llama_cpp_mixes.MODELS)
def shaped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("plans") / "m.gguf"
    return request.param, llama_cpp_mixes.make(path, **llama_cpp_mixes.MODELS[request.param])


@pytest.mark.parametrize("imatrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("preset", llama_cpp_mixes.presets())
def test_presets_are_llama_cpps(preset: str, imatrix: bool, shaped: tuple[str, Path]) -> None:
    """As llama.cpp answered once, and as it answers now where its native build is here."""
    shape, path = shaped
    model = families.load_model(open_source(path))
    if llama_cpp_mixes.without_answer(preset, model):
        pytest.skip("llama.cpp fails here: it has no fallback for Q1_0")
    weights = llama_cpp_mixes.importance(model) if imatrix else None
    resolved = plan.resolve(model, preset=preset, weights=weights)
    ours = {e.name: e.encoding.name for e in resolved.entries}
    if importlib.util.find_spec("llama_cpp") is not None:
        assert llama_cpp_mixes.llama_cpp_types(path, gguf.get(preset).file_type, weights) == ours
    recorded = json.loads(llama_cpp_mixes.RECORDED.read_text(encoding="utf-8"))
    way = "imatrix" if imatrix else "plain"
    assert llama_cpp_mixes.digest(ours) == recorded[f"{shape}, {preset}, {way}"]


def test_plan_file_first_match_wins(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(
        json.dumps(
            {
                "preset": "Q4_K_M",
                "rules": [
                    {"pattern": r"blk\.0\.ffn_down", "encoding": "q8_0"},
                    {"pattern": "ffn_down", "encoding": "Q6_K", "method": "nearest"},
                ],
            }
        )
    )
    result = kanna.convert(tiny_gguf, tmp_path / "o.gguf", plan=path)
    got = {t["name"]: (t["encoding"], t["method"]) for t in result.tensors}
    assert got["blk.0.ffn_down.weight"] == ("q8_0", "search")
    assert got["blk.1.ffn_down.weight"] == ("q6_k", "nearest")
    assert got["blk.0.ffn_up.weight"][0] == "q4_k"
    plan.load(path).save(tmp_path / "again.json")
    assert plan.load(tmp_path / "again.json") == plan.load(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ('{"preset": "Q9"}', "no preset named 'Q9'"),
        ('{"rules": [{"pattern": "(", "encoding": "q8_0"}]}', "regular expression"),
        ('{"rules": [{"pattern": "a", "encoding": "q9"}]}', "q9"),
        ('{"rules": [{"pattern": "a", "encoding": "q8_0", "method": "magic"}]}', "magic"),
        ('{"rule": []}', "rule"),
        ('{"rules": [{"pattern": "no such tensor", "encoding": "q8_0"}]}', "names no tensor"),
    ],
)
def test_wrong_plans_say_where(text: str, says: str, tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=re.escape(says)):
        kanna.convert(tiny_gguf, tmp_path / "o.gguf", plan=path)
    assert not (tmp_path / "o.gguf").exists()


def test_unknown_preset_names_the_nearest(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"Q4_K_M"):
        kanna.convert(tiny_gguf, tmp_path / "o.gguf", preset="Q4_KM")


def test_every_preset_is_written_and_loads(tiny_gguf: Path, tmp_path: Path) -> None:
    from kanna.formats.gguf import read

    for name in gguf.names():
        result = kanna.convert(tiny_gguf, tmp_path / f"{name}.gguf", preset=name)
        file = read(result.paths[0])
        assert {n: t.dtype for n, t in file.tensors.items()} == {
            t["name"]: t["encoding"] for t in result.tensors
        }
        assert file.value("general.file_type") == gguf.get(name).file_type
