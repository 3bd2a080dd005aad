"""Calibration: a whole forward pass, one layer at a time, kept, resumed and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs
from helpers.calibrating import TOKENS, WINDOW, Stops, windows_of

import kanna
from kanna import families
from kanna.calibration import statistics
from kanna.calibration.second_moments import block_of
from kanna.calibration.windows import HELD_OUT
from kanna.errors import KannaError, PlanError
from kanna.model import Model
from kanna.plan import roles

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")
# Last module of a Hugging Face name → the site its inputs belong to.
SITES = {
    "q_proj": "attn_in",
    "qkv_proj": "attn_in",
    "o_proj": "attn_out",
    "gate_proj": "ffn_in",
    "gate_up_proj": "ffn_in",
    "down_proj": "ffn_mid",
    "input_linear": "ffn_in",
    "output_linear": "ffn_mid",
    "gate": "ffn_in",
    "router": "ffn_in",
    "w1": "ffn_in",
    "w2": "ffn_mid",
    "self_attn.out_proj": "attn_out",
    "conv.in_proj": "conv_in",
    "conv.out_proj": "conv_out",
    "in_proj_qkv": "attn_in",
    "linear_attn.out_proj": "ssm_out",
    "in_proj": "attn_in",
    "mamba.out_proj": "ssm_out",
    "mixer.out_proj": "ssm_out",
    "mixer.up_proj": "ffn_in",
    "fc1": "ffn_in",
    "fc2": "ffn_mid",
    "dense": "attn_out",
    "per_layer_input_gate": "layer_in",
    "per_layer_projection": "layer_mid",
    "lm_head": "head",
}


def forward(model: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Second moments by site, in double precision, from hooks on the complete model."""
    sums: dict[str, Any] = {}

    def listen(site: str) -> Callable[..., None]:
        def hook(_module: Any, given: Any) -> None:
            x = given[0].reshape(-1, given[0].shape[-1]).double()
            sums[site] = sums.get(site, 0) + x.T @ x

        return hook

    hooks: list[Any] = []
    routed = any(name.endswith(".experts") for name, _ in model.named_modules())
    both = getattr(model.config, "enable_moe_block", False)
    for name, module in model.named_modules():
        parts = name.split(".")
        site = SITES.get(".".join(parts[-2:])) or SITES.get(parts[-1])
        if both:  # Gemma 4: router and experts have norms of their own beside the dense part
            own = {"experts": "ffn_exps_in", "router": None, "proj": "router_in"}
            site = own.get(parts[-1], site)
        if routed and "shared" in name:  # what the router reads, and a middle of its own
            site = "ffn_shared_mid" if site == "ffn_mid" else None
        if site is not None:
            _, inside, place = name.partition(".layers.")
            layer = f"blk.{place.split('.')[0]}." if inside else ""
            hooks.append(module.register_forward_pre_hook(listen(f"{layer}{site}")))
    with torch.no_grad():
        for row in ids:
            model(input_ids=torch.from_numpy(row.astype(np.int64))[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {site: (total / ids.size).numpy() for site, total in sums.items()}


def assert_same(folder: Path, other: Path) -> None:
    """The same statistics, file by file and byte by byte."""
    names = {p.name for p in folder.iterdir() if p.is_file()}
    assert names == {p.name for p in other.iterdir()}
    assert [n for n in sorted(names) if (folder / n).read_bytes() != (other / n).read_bytes()] == []


def columns_of(source: Model, model: Any, site: str) -> list[int]:
    """Which column of transformers' matrix each one of ours is, by the values."""
    layer = int(site.split(".")[1])
    theirs = model.model.layers[layer].linear_attn.out_proj.weight.detach().numpy()
    tensor = source.tensors[f"{site}.weight"]
    place = {column.tobytes(): i for i, column in enumerate(np.ascontiguousarray(theirs.T))}
    ours = np.ascontiguousarray(tensor.rows(0, tensor.shape[0]).T)
    return [place[column.tobytes()] for column in ours]


CALIBRATED = [name for name, recipe in tiny_models.RECIPES.items() if recipe.family != "llama4"]
"""`forward` knows no site of the experts of Llama 4 (`ffn_exps_in`)."""


@pytest.mark.parametrize("name", CALIBRATED)
def test_layer_by_layer_is_the_whole_forward_pass(name: str, tmp_path: Path, text: Path) -> None:
    """Every site of every recipe, to 1e-4 of the largest value of its second moment."""
    model = tiny_models.make(name, tmp_path / "model")
    kanna.calibrate(tmp_path / "model", tmp_path / "stats", calibration=[text], tokens=TOKENS)
    found = statistics.read(tmp_path / "stats")
    source = families.load_model(kanna.open_source(tmp_path / "model"))
    kinds = getattr(model.config, "layer_types", None) or ["sliding_attention"]
    if families.to_hf(source)[0].get("sliding_window") is None and "sliding_attention" in kinds:
        # A window that the runtime does not know is not in the statistics either.
        model.config.sliding_window = None
    expected = forward(model, windows_of(tmp_path / "model", text, TOKENS).ids)
    # What the experts of a layer hand on inside is held against transformers' in test_experts.
    inside = {s for s in found.sites if found.sites[s].experts and s.endswith("_mid")}
    assert set(found.sites) == set(expected) | inside
    for site, whole in expected.items():
        (block,) = found.read(site, "second")
        if site.endswith("attn_in") and source.family == "falcon-h1":
            # Attention and state read the same; our weights hold what it is multiplied by.
            keys = ("attention_in_multiplier", "ssm_in_multiplier")
            whole = whole / sum(getattr(model.config, key) ** 2 for key in keys)
        if site.endswith("ssm_out") and source.family.startswith("qwen35"):
            order = columns_of(source, model, site)
            whole = whole[np.ix_(order, order)]
        np.testing.assert_allclose(
            block, whole, rtol=0, atol=1e-4 * np.abs(whole).max(), err_msg=site
        )
    matrices = {
        n
        for n in source.tensors
        if n.startswith("blk.")
        and roles.quantizable(source.tensors[n])
        and not roles.drafts(source, n)
    }
    assert matrices <= set(found.site_of)


def test_what_is_kept_of_each_site(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path
) -> None:
    found, result = calibrated
    windows = windows_of(llama, text, 7 * WINDOW)
    assert windows.ids.shape == (7, WINDOW) and list(np.flatnonzero(windows.held)) == [
        HELD_OUT // 2
    ]
    assert (result.tokens, result.held_tokens, result.sites) == (6 * WINDOW, WINDOW, 13)
    assert result.domains == {"text.txt": 7 * WINDOW} and not result.reused and not result.blocks
    model = tiny_models.make("llama", found.folder.parent / "again")
    expected = forward(model, windows.ids[~windows.held])
    for site in ("blk.1.ffn_mid", "head"):
        second, mean, held = (found.read(site, what) for what in ("second", "mean", "held"))
        np.testing.assert_allclose(
            second[0], expected[site], rtol=0, atol=1e-4 * np.abs(expected[site]).max()
        )
        assert mean.shape == (found.sites[site].columns,)
        # What was held out is no part of the sums, and looks like them.
        assert held.dtype == np.float16 and held.shape == (WINDOW // 2, found.sites[site].columns)
        power = np.square(held, dtype=np.float64).mean() / second[0].diagonal().mean()
        assert 0.5 < power < 2
    assert (
        found.site_of["blk.0.attn_q.weight"]
        == found.site_of["blk.0.attn_v.weight"]
        == "blk.0.attn_in"
    )
    assert found.site_of["output.weight"] == "head" and "token_embd.weight" not in found.site_of
    assert found.second_moment("blk.2.ffn_up.weight") is found.second_moment(
        "blk.2.ffn_gate.weight"
    )
    assert set(result.shrink) <= {"0.05", "0.1", "0.2", "0.4"} and sum(result.shrink.values()) == 13


def test_tokens_are_those_of_the_model(llama: Path, text: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    windows = windows_of(llama, text, 2 * WINDOW)
    expected = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    assert windows.ids[1, 1:].tolist() == expected[WINDOW + 1 : 2 * WINDOW]
    assert set(windows.ids[:, 0]) == {tokenizer.bos_token_id}


def test_a_gguf_gives_the_same_statistics_as_its_folder(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path, tmp_path: Path
) -> None:
    """Rows of queries and keys have another order there; the inputs are the same."""
    kanna.convert(llama, tmp_path / "f32.gguf", encoding="f32", threads=1)
    kanna.calibrate(
        tmp_path / "f32.gguf", tmp_path / "stats", calibration=[text], tokens=7 * WINDOW
    )
    other = statistics.read(tmp_path / "stats")
    assert list(other.sites) == list(calibrated[0].sites)
    for site in other.sites:
        a, b = (s.read(site, "second") for s in (calibrated[0], other))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max(), err_msg=site)


@pytest.mark.parametrize("when", ["layer 0", "layer 2", "head"])
def test_an_interrupted_run_goes_on(
    when: str,
    calibrated: tuple[statistics.Statistics, Any],
    llama: Path,
    text: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "stats"
    with pytest.raises(KeyboardInterrupt):
        kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW, progress=Stops(when))
    with pytest.raises(PlanError, match="no statistics"):
        statistics.read(folder)
    rest = Stops("never")
    again = kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW, progress=rest)
    assert not again.reused and when not in {s for s in rest.seen if s != "head"}
    assert_same(folder, calibrated[0].folder)


@pytest.mark.parametrize("when", ["layer 4", "layer 5"])
def test_an_interrupted_run_finds_shared_keys_again(when: str, tmp_path: Path, text: Path) -> None:
    """Of Gemma 4: the last two of seven layers read keys and values of layers before them."""
    source, folder = tmp_path / "model", tmp_path / "stats"
    tiny_models.make("gemma4", source)
    given: dict[str, Any] = {"calibration": [text], "tokens": TOKENS}
    with pytest.raises(KeyboardInterrupt):
        kanna.calibrate(source, folder, progress=Stops(when), **given)
    rest = Stops("never")
    kanna.calibrate(source, folder, progress=rest, **given)
    assert "layer 3" not in rest.seen and "layer 6" in rest.seen
    kanna.calibrate(source, tmp_path / "whole", **given)
    assert_same(folder, tmp_path / "whole")


def test_stopped_within_a_layer_or_with_damaged_work(
    calibrated: tuple[statistics.Statistics, Any],
    llama: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    from kanna.calibration.network import Network

    folder, calls, check = tmp_path / "stats", [0], Network.check

    def stops(self: Network, hidden: Any, where: str, tensors: str) -> None:
        calls[0] += 1
        if calls[0] in (11, 22):
            raise KeyboardInterrupt
        check(self, hidden, where, tensors)

    monkeypatch.setattr(Network, "check", stops)
    for spoil in ("nothing", "spool", "nothing"):
        if spoil == "spool":
            (folder / "work" / "odd").write_bytes(b"short")
        if spoil == "nothing" and calls[0] >= 22:
            break
        with pytest.raises(KeyboardInterrupt):
            kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW)
        assert not (folder / "index.json").exists()
    (folder / "work" / "state.json").write_text("{broken")
    kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW)
    assert_same(folder, calibrated[0].folder)


def test_the_same_is_used_again_and_another_is_not(llama: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stats"

    def reused(**given: Any) -> bool:
        return kanna.calibrate(
            llama, folder, **{"calibration": [text], "tokens": TOKENS, **given}
        ).reused

    assert not reused()
    before = (folder / "head.safetensors").stat().st_mtime_ns
    assert reused() and (folder / "head.safetensors").stat().st_mtime_ns == before
    assert not reused(overwrite=True)
    assert not reused(tokens=2 * TOKENS)
    (folder / "gradients.safetensors").write_bytes(b"of the statistics before")
    assert not reused() and not (folder / "gradients.safetensors").exists()
    for lost in ("imatrix.gguf", "layer-00001.safetensors"):
        (folder / lost).unlink()
        assert not reused()
    (folder / "index.json").write_text("{broken")
    assert not reused()
    other = tmp_path / "other.txt"
    other.write_text(text.read_text() + "More.")
    assert not reused(calibration=[other])


def test_wide_sites_get_blocks_along_the_diagonal(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path, tmp_path: Path
) -> None:
    made = kanna.calibrate(
        llama, tmp_path / "stats", calibration=[text], tokens=7 * WINDOW, widest=256
    )
    assert made.blocks == {f"blk.{i}.ffn_mid": 256 for i in range(3)}
    found = statistics.read(tmp_path / "stats")
    whole, blocks = (s.read("blk.1.ffn_mid", "second") for s in (calibrated[0], found))
    assert blocks.shape == (2, 256, 256)
    for i in range(2):
        at = slice(256 * i, 256 * (i + 1))
        np.testing.assert_allclose(blocks[i], whole[0, at, at], rtol=0, atol=1e-4 * whole.max())
    np.testing.assert_allclose(
        found.weights["blk.1.ffn_down.weight"],
        calibrated[0].weights["blk.1.ffn_down.weight"],
        rtol=1e-4,
    )
    second_moment = found.second_moment("blk.1.ffn_down.weight")
    assert second_moment is not None and [(p.start, p.stop) for p in second_moment.blocks()] == [
        (0, 256),
        (256, 512),
    ]


@pytest.mark.parametrize(
    ("columns", "widest", "block"),
    [
        (576, 4096, 576),
        (8192, 4096, 4096),
        (14336, 4096, 3584),
        (11008, 4096, 256),
        (6000, 4096, 6000),
    ],
)
def test_widths_of_blocks(columns: int, widest: int, block: int) -> None:
    assert block_of(columns, widest) == block


WHERE = {
    "the embedding": "model.embed_tokens.weight",
    "layer 1": "model.layers.1.mlp.down_proj.weight",
    "the last normalisation": "model.norm.weight",
}


@pytest.mark.parametrize("where", WHERE)
def test_weights_that_are_not_numbers_are_found(where: str, tmp_path: Path, text: Path) -> None:
    model = tiny_models.make("llama", tmp_path / "model")
    with torch.no_grad():
        model.get_parameter(WHERE[where]).fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(KannaError, match=f"the activations of {where} are not numbers"):
        kanna.calibrate(tmp_path / "model", tmp_path / "stats", calibration=[text], tokens=TOKENS)
    assert not (tmp_path / "stats" / "index.json").exists()


def altered(folder: Path, change: Callable[[Any], None]) -> Path:
    """A llama whose parameters `change` set."""
    model = tiny_models.make("llama", folder)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    return folder


def test_squares_beyond_float32_name_their_site(tmp_path: Path, text: Path) -> None:
    """The activations are numbers, and so are those that follow; their squares are not."""

    def change(model: Any) -> None:
        model.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(1e20)
        model.get_parameter("model.layers.1.mlp.down_proj.weight").mul_(1e-20)

    source = altered(tmp_path / "model", change)
    with pytest.raises(
        KannaError, match=r"the squares of the inputs at blk\.1\.ffn_mid are beyond float32"
    ):
        kanna.calibrate(source, tmp_path / "stats", calibration=[text], tokens=TOKENS)
    assert not (tmp_path / "stats" / "index.json").exists()


@pytest.mark.parametrize("encoding", ["q4_k", "q4_0", "iq2_xs"])
def test_dead_inputs_keep_their_weights(encoding: str, tmp_path: Path, text: Path) -> None:
    """Columns that this text never uses, a whole block of them: other text may."""
    from kanna.formats import gguf

    needs.llama_cpp()

    def change(model: Any) -> None:
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[:256] = 0

    source = altered(tmp_path / "model", change)
    kanna.calibrate(source, tmp_path / "stats", calibration=[text], tokens=TOKENS)
    name = "blk.1.ffn_down.weight"
    assert not statistics.read(tmp_path / "stats").weights[name][:256].any()
    kanna.convert(
        source, tmp_path / "m.gguf", encoding=encoding, statistics=tmp_path / "stats", threads=1
    )
    before = families.load_model(kanna.open_source(source)).tensors[name].rows(0, 256)
    after = gguf.read(tmp_path / "m.gguf").tensors[name].rows(0, 256)
    lost = [np.linalg.norm((after - before)[:, part]) for part in (slice(0, 256), slice(256, 512))]
    assert np.isfinite(after).all() and lost[0] < 1.5 * lost[1]


def test_killed_in_a_layer_it_goes_on(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, text: Path, tmp_path: Path
) -> None:
    """kill -9 leaves no time for anything."""
    import os
    import signal
    import subprocess
    import sys

    script = f"""
import os, sys
import torch
from pathlib import Path
from kanna import calibrate
from kanna.calibration import shrinkage, windows
from kanna.calibration.network import Network

torch.set_num_threads(1)
windows.WINDOW, shrinkage.ROWS = {WINDOW}, 4
check = Network.check

def stops(self, hidden, where, tensors):
    stops.calls += 1
    if stops.calls == 12:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    check(self, hidden, where, tensors)

stops.calls, Network.check = 0, stops
calibrate(sys.argv[1], sys.argv[2], calibration=[Path(sys.argv[3])], tokens={7 * WINDOW})
"""
    folder = tmp_path / "stats"
    command = [sys.executable, "-c", script, str(llama), str(folder), str(text)]
    found = subprocess.run(
        command, capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    assert (folder / "layer-00000.safetensors").is_file() and not (folder / "index.json").exists()
    before = (folder / "layer-00000.safetensors").stat().st_mtime_ns
    kanna.calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW)
    assert (folder / "layer-00000.safetensors").stat().st_mtime_ns == before
    assert_same(folder, calibrated[0].folder)
