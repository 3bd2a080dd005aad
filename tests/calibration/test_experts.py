"""Experts: what is routed to each, in statistics, the imatrix and the values that come of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.calibrating import TOKENS, windows_of

import kanna
from kanna import encodings, families, methods
from kanna.calibration import backward_pass, gradients, imatrix, statistics
from kanna.calibration.second_moments import block_of_experts
from kanna.calibration.shrinkage import blended
from kanna.cli.main import cli
from kanna.errors import PlanError
from kanna.formats import gguf
from kanna.model import F32

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")
EXPERTS, LAYERS, WIDTH = 6, 3, 96
STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("moe") / "model"
    return folder, tiny_models.make("qwen3-moe", folder)


@pytest.fixture(scope="module")
def counted(moe: tuple[Path, Any], text: Path, small: Any, tmp_path_factory: Any) -> Any:
    """Statistics of the model, and the result of the calibration."""
    folder = tmp_path_factory.mktemp("stats") / "stats"
    result = kanna.calibrate(moe[0], folder, calibration=[text], tokens=7 * 128)
    return statistics.read(folder), result


class Listener:
    """What transformers' own experts read, and what flows back to what they give."""

    def __init__(self, model: Any) -> None:
        self.inputs: dict[tuple[str, int], list[Any]] = {}
        self.gradients: dict[tuple[str, int], Any] = {}
        for layer, block in enumerate(model.model.layers):
            block.mlp.experts.forward = self._forward(layer, block.mlp.experts)

    def _forward(self, layer: int, experts: Any) -> Any:
        def heard(part: str, expert: int, out: Any) -> Any:
            def add(gradient: Any) -> None:
                squares = gradient.double().square().sum(0)
                key = (f"blk.{layer}.{part}.weight", expert)
                self.gradients[key] = self.gradients.get(key, 0) + squares

            if out.requires_grad:
                out.register_hook(add)
            return out

        def forward(x: Any, chosen: Any, shares: Any) -> Any:
            out = torch.zeros_like(x)
            for slot in range(chosen.shape[1]):
                for token, expert in enumerate(chosen[:, slot].tolist()):
                    row = x[token : token + 1]
                    both = row @ experts.gate_up_proj[expert].T
                    gate = heard("ffn_gate_exps", expert, both[:, :WIDTH])
                    up = heard("ffn_up_exps", expert, both[:, WIDTH:])
                    mid = torch.nn.functional.silu(gate) * up
                    self.inputs.setdefault((f"blk.{layer}.ffn_in", expert), []).append(row.detach())
                    self.inputs.setdefault((f"blk.{layer}.ffn_mid", expert), []).append(
                        mid.detach()
                    )
                    given = heard("ffn_down_exps", expert, mid @ experts.down_proj[expert].T)
                    out = out.index_add(0, torch.tensor([token]), given * shares[token, slot])
            return out

        return forward


@pytest.fixture
def heard(moe: tuple[Path, Any]) -> Iterator[tuple[Any, Listener]]:
    model = moe[1]
    listener = Listener(model)
    yield model, listener
    for block in model.model.layers:
        del block.mlp.experts.forward


def test_each_expert_has_the_moment_of_what_is_routed_to_it(
    counted: Any, heard: tuple[Any, Listener], moe: tuple[Path, Any], text: Path
) -> None:
    found, result = counted
    model, listener = heard
    windows = windows_of(moe[0], text, 7 * 128)
    with torch.no_grad():
        for ids in windows.ids[~windows.held]:
            model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    for layer in range(LAYERS):
        coverage = result.coverage[layer]
        assert coverage["layer"] == layer
        for site in ("ffn_in", "ffn_mid"):
            name = f"blk.{layer}.{site}"
            moments, squares = found.read(name, "experts"), found.read(name, "squares")
            tokens = found.sites[name].experts
            assert tokens == found.read(name, "tokens").tolist() == coverage["tokens"]
            assert sum(tokens) == 2 * result.tokens, "two experts for every token"
            pooled = []
            for expert in range(EXPERTS):
                rows = torch.cat(listener.inputs.get((name, expert), [])).double().numpy()
                assert len(rows) == tokens[expert]
                whole = rows.T @ rows / len(rows)
                np.testing.assert_allclose(
                    moments[expert, 0], whole, rtol=0, atol=1e-4 * np.abs(whole).max()
                )
                np.testing.assert_allclose(squares[expert], whole.diagonal(), rtol=1e-3)
                pooled.append(rows)
            (shared,) = found.read(name, "second")
            rows = np.concatenate(pooled)
            expected = rows.T @ rows / len(rows)
            np.testing.assert_allclose(shared, expected, rtol=0, atol=1e-4 * expected.max())
    # The router reads what all experts read.
    assert found.site_of["blk.1.ffn_gate_inp.weight"] == "blk.1.ffn_in"


def test_an_expert_with_few_tokens_leans_on_all(counted: Any) -> None:
    """The share of what an expert saw is tokens / (tokens + shared), in moments and diagonals."""
    found = counted[0]
    for tensor, name in (("blk.1.ffn_up_exps.weight", "blk.1.ffn_in"),) * 2 + (
        ("blk.2.ffn_down_exps.weight", "blk.2.ffn_mid"),
    ):
        site = found.sites[name]
        (shared,) = found.read(name, "second")
        moment = found.second_moment(tensor)
        assert moment.experts == EXPERTS and site.shared in (16, 128, 1024)
        for expert, tokens in enumerate(site.experts):
            own = tokens / (tokens + site.shared)
            expected = own * found.read(name, "experts")[expert, 0] + (1 - own) * shared
            np.testing.assert_allclose(
                found.weights[tensor][expert], expected.diagonal(), rtol=1e-4
            )
            (block,) = moment.of(expert).blocks()
            off = ~np.eye(len(expected), dtype=bool)
            np.testing.assert_allclose(
                block.hessian[off],
                (1 - site.shrink) * expected[off],
                rtol=0,
                atol=1e-5 * np.abs(expected).max(),
            )
    few = counted[1].coverage[1]["few"]
    limit = max(found.sites[f"blk.1.{s}"].shared for s in ("ffn_in", "ffn_mid"))
    assert few == [e for e, n in enumerate(counted[1].coverage[1]["tokens"]) if n < limit]


def test_blocks_of_experts_are_moved_toward_those_of_all() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8)).astype(np.float32)
    second = (x.T @ x / 64)[None]
    each = np.stack([second[0, :4, :4] * 2, second[0, 4:, 4:] * 2])
    got = blended(second, each, 30, 10.0)
    np.testing.assert_allclose(got[1], second[0, 4:, 4:] * 1.75, rtol=1e-5)
    assert blended(second, each, 0, 10.0).tolist() == (each / 2).tolist()


@pytest.mark.parametrize(
    ("columns", "experts", "block"),
    [(256, 6, 256), (2048, 8, 2048), (2048, 128, 256), (768, 128, 256), (4096, 64, 256)],
)
def test_blocks_of_many_experts(columns: int, experts: int, block: int) -> None:
    assert block_of_experts(columns, 4096, experts) == block


def test_the_imatrix_has_sums_and_counts_of_each_expert(counted: Any) -> None:
    found = counted[0]
    file = gguf.read(found.folder / "imatrix.gguf")
    for layer in range(LAYERS):
        for part in STACKS:
            name = f"blk.{layer}.{part}.weight"
            site = found.site_of[name]
            sums, counts = (file.tensors[name + end] for end in (".in_sum2", ".counts"))
            assert sums.shape == (EXPERTS, found.sites[site].columns)
            assert counts.shape == (EXPERTS, 1)
            tokens = counts.rows(0, EXPERTS)[:, 0]
            assert tokens.tolist() == found.sites[site].experts
            np.testing.assert_allclose(
                sums.rows(0, EXPERTS), found.read(site, "squares") * tokens[:, None], rtol=1e-6
            )
    assert file.tensors["blk.0.attn_q.weight.counts"].rows(0, 1)[0, 0] == counted[1].tokens
    read = imatrix.read(found.folder / "imatrix.gguf")
    assert read.weights["blk.0.ffn_down_exps.weight"].shape == (EXPERTS, WIDTH)
    assert read.weights["blk.0.ffn_gate_inp.weight"].shape == (256,)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_of_an_expert_are_chosen_by_its_own_statistics(
    threads: int, counted: Any, moe: tuple[Path, Any], tmp_path: Path
) -> None:
    found = counted[0]
    kanna.convert(
        moe[0], tmp_path / "m.gguf", encoding="q4_0", statistics=found.folder, threads=threads
    )
    made = gguf.read(tmp_path / "m.gguf").tensors
    source = families.load_model(kanna.open_source(moe[0])).tensors
    assert made["blk.0.ffn_gate_inp.weight"].dtype == "f32"
    q4_0 = encodings.get("q4_0")
    for name in ("blk.1.ffn_gate_exps.weight", "blk.2.ffn_down_exps.weight"):
        moment, weights = found.second_moment(name), found.weights[name]
        rows = source[name].shape[1]
        for expert in range(EXPERTS):
            at = (expert * rows, (expert + 1) * rows)
            inputs = methods.Inputs(weights=weights[expert], second_moment=moment.of(expert))
            expected = methods.get("gptq").encode(q4_0, source[name].rows(*at), inputs)
            np.testing.assert_array_equal(made[name].raw(*at), expected)


def test_own_statistics_serve_an_expert_better_than_shared_ones(
    counted: Any, moe: tuple[Path, Any]
) -> None:
    """What went to each expert is disturbed less."""
    found = counted[0]
    source = families.load_model(kanna.open_source(moe[0])).tensors
    q4_0, gptq = encodings.get("q4_0"), methods.get("gptq")
    lost = {"own": 0.0, "shared": 0.0}
    for layer in range(LAYERS):
        name, site = f"blk.{layer}.ffn_down_exps.weight", f"blk.{layer}.ffn_mid"
        moment, rows = found.second_moment(name), source[name].shape[1]
        for expert in range(EXPERTS):
            h = found.read(site, "experts")[expert, 0].astype(np.float64)
            x: F32 = source[name].rows(expert * rows, (expert + 1) * rows)
            for which, chosen in {"own": moment.of(expert), "shared": moment}.items():
                weights = np.concatenate([b.hessian.diagonal() for b in chosen.blocks()])
                inputs = methods.Inputs(weights=weights, second_moment=chosen)
                error = q4_0.decode(gptq.encode(q4_0, x, inputs), WIDTH) - x
                lost[which] += float(np.einsum("ri,ij,rj->", error, h, error))
    assert lost["own"] < 0.8 * lost["shared"], lost


def test_an_imatrix_guides_each_expert(counted: Any, moe: tuple[Path, Any], tmp_path: Path) -> None:
    matrix = counted[0].folder / "imatrix.gguf"
    kanna.convert(moe[0], tmp_path / "m.gguf", encoding="q4_0", imatrix=matrix, threads=1)
    name = "blk.1.ffn_up_exps.weight"
    made = gguf.read(tmp_path / "m.gguf").tensors[name]
    source = families.load_model(kanna.open_source(moe[0])).tensors[name]
    weights = imatrix.read(matrix).weights[name]
    for expert in range(EXPERTS):
        at = (expert * WIDTH, (expert + 1) * WIDTH)
        expected = encodings.get("q4_0").encode(
            source.rows(*at), method="search", weights=weights[expert]
        )
        np.testing.assert_array_equal(made.raw(*at), expected)


def test_gradients_of_each_expert(
    moe: tuple[Path, Any], heard: tuple[Any, Listener], text: Path, tmp_path: Path
) -> None:
    """Mean squares over all tokens, by hand on transformers' own model."""
    from kanna._util.progress import Silent

    windows = windows_of(moe[0], text, TOKENS)
    source = families.load_model(kanna.open_source(moe[0]))
    gradients.gradients(source, windows, tmp_path, "key", device="cpu", progress=Silent())
    found = gradients.read(tmp_path)
    model, listener = heard
    model.requires_grad_(False)

    def start(_module: Any, _given: Any, out: Any) -> Any:
        return out.requires_grad_(True)

    model.model.embed_tokens.register_forward_hook(start)
    for number, ids in enumerate(windows.ids):
        torch.manual_seed(backward_pass.SEED + number)
        logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
        chances = torch.log_softmax(logits.logits[0], -1)
        chances.gather(1, torch.multinomial(chances.detach().exp(), 1)).sum().backward()
    assert {name for name, _ in listener.gradients} == {
        f"blk.{i}.{part}.weight" for i in range(LAYERS) for part in STACKS
    }
    for (name, expert), total in listener.gradients.items():
        rows = len(total)
        ours = found[name][expert * rows : (expert + 1) * rows]
        np.testing.assert_allclose(
            ours, total.numpy() / windows.ids.size, rtol=2e-2, atol=1e-9, err_msg=f"{name} {expert}"
        )


def test_coverage_is_shown(counted: Any, moe: tuple[Path, Any], text: Path) -> None:
    """By calibrate, and by inspect of what it wrote."""
    folder = counted[0].folder
    expected = counted[1].coverage
    runner = CliRunner()
    command = ["calibrate", str(moe[0]), "-o", str(folder), "--calibration", str(text)]
    command += ["--tokens", str(7 * 128)]
    run = runner.invoke(cli, [*command, "--json", "--quiet"])
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["coverage"] == expected
    shown = runner.invoke(cli, command).stdout
    tokens = [n for layer in expected for n in layer["tokens"]]
    assert f"18 in 3 layers; tokens of one: {min(tokens):,} to {max(tokens):,}" in " ".join(
        shown.split()
    )
    run = runner.invoke(cli, ["inspect", str(folder), "--json"])
    assert run.exit_code == 0, run.stderr
    inspected = json.loads(run.stdout)
    assert inspected["kind"] == "calibration statistics"
    assert inspected["statistics"]["coverage"] == expected
    shown = runner.invoke(cli, ["inspect", str(folder)]).stdout
    assert " ".join(f"{n:,}" for n in expected[0]["tokens"]) in shown


def test_statistics_of_other_experts_are_refused(counted: Any, tmp_path: Path) -> None:
    import dataclasses

    values = tiny_models.RECIPES["qwen3-moe"].values | {"num_experts": 5}
    recipe = dataclasses.replace(tiny_models.RECIPES["qwen3-moe"], values=values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.RECIPES, "qwen3-moe", recipe)
        tiny_models.make("qwen3-moe", tmp_path / "other")
    with pytest.raises(PlanError, match="6 experts for .* this model 5"):
        kanna.convert(tmp_path / "other", tmp_path / "m.gguf", statistics=counted[0].folder)
