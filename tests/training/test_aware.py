"""`kanna adapt --for PLAN`: what the model computes with, and which of two adapters is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters

import kanna
from kanna import encodings
from kanna._util.progress import Silent
from kanna.adapters import open_adapter
from kanna.cli.main import cli
from kanna.errors import MissingError, PlanError, UsageError
from kanna.runtimes.base import Availability
from kanna.sources import open_source
from kanna.training import aware, planned_values
from kanna.training.planned_values import PlannedValues, StoredTypes
from kanna.verification import retention

needs.package("trl")


def fast(**more: Any) -> dict[str, Any]:
    settings = {"threads": 1, "rank": 4, "learning_rate": 5e-3, "steps": 10, "batch": 4}
    return {**settings, "samples": 0, "verify": False, **more}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aware")
    tiny_adapters.base("llama-tied", folder / "source")
    tiny_adapters.words_to_say(folder / "data.jsonl")
    return folder


def test_the_model_computes_with_what_is_stored_and_learns_through_it(home: Path) -> None:
    """Logits are those of encoded matrices, gradients those with regard to their values."""
    import torch

    types = StoredTypes.of(open_source(home / "source"), "Q4_K_M")
    assert set(types.encodings.values()) >= {"q4_k", "q6_k"}
    model = tiny_adapters.make(
        home / "source", home / "some", target_modules=["q_proj", "down_proj"], r=2
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    planned = PlannedValues(types=types, threads=1)
    planned.attach(model)
    ids = torch.arange(3, 30)[None]
    got = model(ids).logits
    got.square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert gradients and all("lora_" in name for name in gradients)
    planned.detach()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name

    base = model.unload()
    layers = dict(base.named_modules())
    changes = _changes(before, 6 / 2)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            kind = types.encodings.get(name)
            if kind is not None:
                x = (parameter + changes.get(name, 0)).numpy()
                encoding = encodings.get(kind)
                stored = encoding.decode(encoding.encode(np.ascontiguousarray(x)), x.shape[1])
                parameter.copy_(torch.from_numpy(stored))
    weight = layers["model.layers.1.mlp.down_proj"].weight
    weight.requires_grad_()
    wanted = base(ids).logits
    assert torch.allclose(got, wanted, atol=1e-4)
    wanted.square().mean().backward()
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.default.weight"
    left = before[key.format("B")]
    straight = 3 * left.T @ weight.grad
    mine = gradients[key.format("A")]
    assert torch.allclose(mine, straight, rtol=1e-3, atol=1e-4 * float(straight.abs().max()))


def _changes(state: dict[str, Any], scale: float) -> dict[str, Any]:
    """Scale · B · A by the name of the weight that it changes."""
    made: dict[str, Any] = {}
    for name, left in state.items():
        if "lora_B" in name:
            right = state[name.replace("lora_B", "lora_A")]
            plain = name.removeprefix("base_model.model.").split(".lora_B")[0]
            made[f"{plain}.weight"] = (left @ right) * scale
    return made


@pytest.fixture(scope="module")
def trained(home: Path) -> Any:
    needs.llama_cpp()
    return kanna.adapt(
        home / "source", home / "data.jsonl", home / "out", for_plan="Q2_K", **fast()
    )


def test_both_adapters_are_measured_and_the_better_one_is_kept(home: Path, trained: Any) -> None:
    outcome = trained.aware
    losses = {name: outcome[name]["loss"] for name in ("plain", "aware")}
    assert outcome["plan"] == "Q2_K" and outcome["every"] == planned_values.EVERY
    assert outcome["kept"] == min(losses, key=lambda name: losses[name])
    assert 1 <= outcome["steps"] <= trained.steps // 2
    [note] = [n for n in trained.notes if "converted to Q2_K" in n]
    assert all(f"{loss:.4f}" in note for loss in losses.values())
    page = (home / "out" / "report.html").read_text()
    assert "As Q2_K stores it" in page and f"{losses['aware']:.4f}" in page
    assert json.loads((home / "out" / "report.json").read_text())["aware"] == outcome
    assert not [p.name for p in home.iterdir() if "unfinished" in p.name]

    kanna.merge(home / "source", home / "out", home / "kept.gguf", preset="Q2_K", threads=1)
    base = open_source(home / "source")
    held = retention.held_out(open_adapter(home / "out"), None, base)
    case = retention.RetentionCase(
        base=base, tuned=base, artefacts=[home / "kept.gguf"], examples=held, threads=1
    )
    [kept] = retention.measure(case, 0.9, Silent())
    assert kept.artefact_loss == pytest.approx(losses[outcome["kept"]], rel=1e-3)


@pytest.mark.slow
def test_the_plain_adapter_stays_where_the_other_is_no_better(
    home: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = aware.AwarePhase._measure  # pyright: ignore[reportPrivateUsage]

    def worse(phase: Any, *given: Any) -> Any:
        plain, other = measure(phase, *given)
        return [plain, replace(other, artefact_loss=plain.artefact_loss)]

    monkeypatch.setattr(aware.AwarePhase, "_measure", worse)
    done = kanna.adapt(
        home / "source", home / "data.jsonl", home / "no-better", for_plan="Q2_K", **fast()
    )
    assert done.aware["kept"] == "plain"
    kanna.adapt(home / "source", home / "data.jsonl", home / "plain", **fast())
    one, two = (home / n / "adapter_model.safetensors" for n in ("no-better", "plain"))
    assert one.read_bytes() == two.read_bytes()


def test_a_plan_file_is_taken_and_what_does_not_go_together_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(home / "source")
    plan = tmp_path / "plan.json"
    plan.write_text('{"preset": "Q8_0", "rules": [{"pattern": "ffn_down", "encoding": "q4_0"}]}')
    types = StoredTypes.of(source, str(plan))
    assert types.plan == plan and types.encodings["model.layers.0.mlp.down_proj.weight"] == "q4_0"
    assert types.encodings["model.layers.0.self_attn.q_proj.weight"] == "q8_0"
    for given, error in (("mlx:q4", UsageError), ("Q4_K_X", PlanError)):
        with pytest.raises(error):
            StoredTypes.of(source, given)
    asked = ["adapt", str(home / "source"), "--data", str(home / "data.jsonl"), "-o", "no"]
    for more in (["--method", "dora"], ["--base-bits", "4"], ["--objective", "dpo"]):
        run = CliRunner().invoke(cli, [*asked, "--for", "Q4_K_M", *more])
        assert run.exit_code == 2 and "--for with" in run.stderr

    class Absent:
        @staticmethod
        def available() -> Any:
            return Availability(ok=False, how_to_install="pip install it")

    monkeypatch.setattr(aware, "LLAMA", Absent)
    with pytest.raises(MissingError, match="pip install it"):
        kanna.adapt(home / "source", home / "data.jsonl", tmp_path / "no", for_plan="Q4_K_M")
