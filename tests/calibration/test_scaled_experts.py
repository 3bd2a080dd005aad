"""Experts whose inputs the router scales (Llama 4): what each reads, and what flows back to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.calibrating import TOKENS, windows_of

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import backward_pass, gradients, statistics
from kanna.formats import gguf

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")
EXPERTS, ROUTED = 6, (1, 3)
BOUND = 1e-5


class Listener:
    """What transformers' own experts read of the tokens that are theirs, and their gradients."""

    def __init__(self, whole: Any) -> None:
        self.inputs: dict[tuple[str, int], list[Any]] = {}
        self.gradients: dict[tuple[str, int], Any] = {}
        self.plain: dict[str, list[Any]] = {}
        for layer in ROUTED:
            block = whole.model.layers[layer].feed_forward
            block.experts.forward = self._forward(layer, block.experts)
            block.register_forward_pre_hook(self._reads(f"blk.{layer}.ffn_in"))

    def _reads(self, site: str) -> Any:
        def hook(_module: Any, inputs: Any) -> None:
            self.plain.setdefault(site, []).append(inputs[0][0].detach())

        return hook

    def _forward(self, layer: int, experts: Any) -> Any:
        def heard(part: str, expert: int, out: Any) -> Any:
            def add(gradient: Any) -> None:
                key = (f"blk.{layer}.{part}.weight", expert)
                self.gradients[key] = self.gradients.get(key, 0) + gradient.double().square().sum(0)

            if out.requires_grad:
                out.register_hook(add)
            return out

        def forward(scaled: Any) -> Any:
            given = []
            for expert, rows in enumerate(scaled.view(EXPERTS, -1, scaled.shape[-1])):
                own = rows.abs().sum(-1) > 0
                both = rows[own] @ experts.gate_up_proj[expert]
                gate, up = both.chunk(2, dim=-1)
                gate = heard("ffn_gate_exps", expert, gate)
                mid = heard("ffn_up_exps", expert, up) * torch.nn.functional.silu(gate)
                down = heard("ffn_down_exps", expert, mid @ experts.down_proj[expert])
                for site, values in (("ffn_exps_in", rows[own]), ("ffn_exps_mid", mid)):
                    key = (f"blk.{layer}.{site}", expert)
                    self.inputs.setdefault(key, []).append(values.detach())
                given.append(torch.zeros_like(rows).index_put((torch.where(own)[0],), down))
            return torch.cat(given)

        return forward


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small: Any) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama4") / "model"
    return folder, tiny_models.make("llama4", folder).requires_grad_(False)


def test_moments_are_of_what_the_router_scaled(
    model: tuple[Path, Any], text: Path, tmp_path: Path
) -> None:
    folder, whole = model
    result = kanna.calibrate(folder, tmp_path / "stats", calibration=[text], tokens=TOKENS)
    found = statistics.read(tmp_path / "stats")
    listener, windows = Listener(whole), windows_of(folder, text, TOKENS)
    with torch.no_grad():
        for ids in windows.ids[~windows.held]:
            whole(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    assert [layer["layer"] for layer in result.coverage] == list(ROUTED)
    imatrix = gguf.read(tmp_path / "stats" / "imatrix.gguf").tensors
    for layer in ROUTED:
        for kind in ("in", "mid"):
            site = f"blk.{layer}.ffn_exps_{kind}"
            counted = found.sites[site].experts
            assert sum(counted) == result.tokens, "one expert for every token"
            for expert in range(EXPERTS):
                rows = torch.cat(listener.inputs[site, expert]).double().numpy()
                assert len(rows) == counted[expert]
                expected = rows.T @ rows / max(1, len(rows))
                ours = found.read(site, "experts")[expert, 0]
                assert _apart(ours, expected) < BOUND, (site, expert)
        # The router and the expert of all tokens read the same, which nothing scaled.
        rows = torch.cat(listener.plain[f"blk.{layer}.ffn_in"]).double().numpy()
        (ours,) = found.read(f"blk.{layer}.ffn_in", "second")
        assert _apart(ours, rows.T @ rows / len(rows)) < BOUND
        for part in ("ffn_gate_inp", "ffn_up_shexp"):
            assert found.site_of[f"blk.{layer}.{part}.weight"] == f"blk.{layer}.ffn_in"
        counts = imatrix[f"blk.{layer}.ffn_up_exps.weight.counts"].rows(0, EXPERTS)[:, 0]
        assert counts.tolist() == found.sites[f"blk.{layer}.ffn_exps_in"].experts
    assert found.site_of["blk.0.ffn_up.weight"] == "blk.0.ffn_in", "a layer without experts"


def test_gradients_of_each_scaled_expert(
    model: tuple[Path, Any], text: Path, tmp_path: Path
) -> None:
    folder, whole = model
    windows = windows_of(folder, text, TOKENS)
    source = families.load_model(kanna.open_source(folder))
    gradients.gradients(source, windows, tmp_path, "key", device="cpu", progress=Silent())
    found, listener = gradients.read(tmp_path), Listener(whole)

    def start(_module: Any, _given: Any, out: Any) -> Any:
        return out.requires_grad_(True)

    handle = whole.model.embed_tokens.register_forward_hook(start)
    for number, ids in enumerate(windows.ids):
        torch.manual_seed(backward_pass.SEED + number)
        logits = whole(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
        chances = torch.log_softmax(logits.logits[0], -1)
        chances.gather(1, torch.multinomial(chances.detach().exp(), 1)).sum().backward()
    handle.remove()
    assert len(listener.gradients) == len(ROUTED) * EXPERTS * 3
    for (name, expert), total in listener.gradients.items():
        ours = found[name].reshape(EXPERTS, -1)[expert]
        assert _apart(ours, total.numpy() / windows.ids.size) < BOUND, (name, expert)


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))
