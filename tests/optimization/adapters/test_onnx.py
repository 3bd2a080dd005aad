"""Optimize for onnxruntime.

A real tiny model from calibration to the proof beside a plain preset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kanna.errors import PlanError
from kanna.optimization.adapters.onnx import ONNXAdapter
from kanna.optimization.constraints import Constraints
from kanna.optimization.request import OptimizeRequest
from kanna.plan import load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime_genai")

from helpers import optimizing  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with optimizing.folder_home(tmp_path_factory.mktemp("optimize")) as home:
        yield home


def invoke(home: Path, *words: str) -> Any:
    return optimizing.invoke(home, "--format", "onnx", *words, text="text.txt")


def test_the_folder_keeps_its_budget_and_beats_the_preset(home: Path) -> None:
    run = invoke(home, "--like", "int4", "--rule", "ffn_down=nbits8g32", "--provider", "openvino")
    assert run.exit_code == 0, run.stderr + run.output
    found = json.loads(run.stdout)
    artefact = Path(found["artefact"])
    size = sum(p.stat().st_size for p in artefact.iterdir())
    assert size == found["file_bytes"] <= found["budget"]
    genai = json.loads((artefact / "genai_config.json").read_text())["model"]["decoder"]
    assert "OpenVINO" in genai["session_options"]["provider_options"][0]
    assert found["rival"] == "onnx:int4" and found["kl_mean"] <= found["rival_kl"]
    rules = load(found["plan"]).rules
    assert {r.encoding for r in rules if "ffn_down" in r.pattern} == {"nbits8g32"}
    assert (
        len(
            {
                r.encoding
                for r in rules
                if "blk\\.0\\.attn_" in r.pattern and "output" not in r.pattern
            }
        )
        == 1
    )
    probed = json.loads((home / "out" / "probe-onnx.json").read_text())
    assert set(probed["kinds"]) == {
        "token_embd",
        "output",
        "attn_qkv",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    }
    optimizing.reported(found, "onnx", home / "out")


def test_budgets_and_wishes_that_cannot_be_are_refused_early(home: Path) -> None:
    for words, said in (
        (["--memory", "1GB"], "--memory has no use for onnx"),
        (["--like", "Q4_K_M"], "--like Q4_K_M"),
        (["--like", "int4", "--rule", "ffn_down=q6_k"], "ffn_down=q6_k"),
        (["--like", "int4", "--exclude", "nbits4g48"], "no groups of 48"),
    ):
        run = invoke(home, *words)
        assert run.exit_code != 0 and said in run.stderr


def test_a_budget_below_the_smallest_folder_names_the_range(home: Path) -> None:
    run = invoke(home, "--size", "10kB")
    assert run.exit_code == 1 and "below the smallest" in run.stderr


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_of_its_own_buys_no_time(tied: bool) -> None:
    """Bytes for rows that are looked up do not allow slower products.

    There, 8 bits go to the embedding.
    """
    from kanna.conversion.nbits_sizes import EMBEDDING
    from kanna.optimization.adapters.onnx_time import share_within_time
    from kanna.plan.allocate import Choice, Option

    other = "blk.0.ffn_up.weight"
    choices = [
        Choice(
            name=name,
            options=[
                Option(encoding="nbits4g32", nbytes=625, cost=gain),
                Option(encoding="nbits8g32", nbytes=1125, cost=0.0),
            ],
        )
        for name, gain in ((EMBEDDING, 1.0), (other, 2.0))
    ]
    found = share_within_time(choices, 1760, {EMBEDDING: 1000, other: 1000}, tied)
    assert found[other if tied else EMBEDDING].encoding == "nbits8g32"
    assert found[EMBEDDING if tied else other].encoding == "nbits4g32"


def test_an_execution_provider_leaves_the_encodings_that_it_multiplies() -> None:
    adapter = object.__new__(ONNXAdapter)

    def asked(provider: str) -> Constraints:
        return adapter.constraints(
            OptimizeRequest(source="model", out=Path("out"), format="onnx", provider=provider)
        )

    allowed = asked("webgpu").allow()
    left = {name for name in adapter.candidates() if allowed("blk.0.ffn_up.weight", name)}
    assert {"nbits4g32", "f32"} <= left and not any("nbits8" in n or "nbits2" in n for n in left)
    for provider, instead in (("qnn", "--static 64x1024"), ("xnnpack", "--preset onnx:fp32")):
        with pytest.raises(PlanError, match=instead):
            asked(provider)
