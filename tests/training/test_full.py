"""`kanna adapt --method full`: all weights are trained, and the result is a model of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters

import kanna
from kanna.adapters import merged_source, open_adapter
from kanna.cli.main import cli
from kanna.errors import KannaError, UnsupportedError, UsageError
from kanna.sources import open_source
from kanna.training import AdaptResult, memory, rate_finder, watching

needs.package("trl")


def fast(**more: Any) -> dict[str, Any]:
    """Settings of a run of seconds."""
    return {
        "method": "full",
        "threads": 1,
        "learning_rate": 2e-3,
        "steps": 10,
        "batch": 4,
        "samples": 0,
        "verify": False,
        **more,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    tiny_adapters.base("llama-tied", folder / "source")
    tiny_adapters.words_to_say(folder / "data.jsonl")
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> AdaptResult:
    return kanna.adapt(home / "source", home / "data.jsonl", home / "out", **fast(samples=1))


def test_a_model_is_written_as_its_base_was(home: Path, trained: AdaptResult) -> None:
    import torch
    import transformers

    from kanna.training.objectives.base import held_out_loss

    assert trained.tuned_loss < 0.8 * trained.base_loss
    base, tuned = open_source(home / "source"), open_source(home / "out")
    assert {n: (t.shape, t.dtype) for n, t in tuned.tensors.items()} == {
        n: (t.shape, t.dtype) for n, t in base.tensors.items()
    }
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (home / "out" / name).read_bytes() == (home / "source" / name).read_bytes()
    beside = {"report.json", "report.html", "held-out.jsonl", "learned.json", "base.json"}
    assert beside < {p.name for p in (home / "out").iterdir()}
    assert not [p for p in home.iterdir() if "unfinished" in p.name]
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "out", dtype=torch.float32)
    held = _held_out(home)
    loss = held_out_loss(model, held, "cpu")
    assert math.isclose(loss, trained.tuned_loss, rel_tol=2e-3)  # rounded to 16 bits
    [sample] = trained.samples
    page = (home / "out" / "report.html").read_text()
    assert "All weights of" in page and sample["before"] != sample["after"]
    assert trained.settings["rank"] is None and trained.settings["alpha"] is None
    figures = (trained.base_figures, trained.tuned_figures)
    assert figures[0]["general_loss"] != figures[1]["general_loss"]


def _held_out(home: Path) -> list[Any]:
    from kanna.formats import folder_files
    from kanna.training import causal_model, examples
    from kanna.training.tokens import ChatTokenizer

    tokenizer = causal_model.load_tokenizer(home / "source")
    chats = ChatTokenizer.of(tokenizer, folder_files.files(home / "source"), 512)
    return chats.all(examples.read(home / "out" / "held-out.jsonl").examples)


def test_after_its_base_it_is_what_was_learned(home: Path, trained: AdaptResult) -> None:
    """Merged into its base it is itself; what no runtime switches on beside a base is refused."""
    base = open_source(home / "source")
    adapter = open_adapter(home / "out")
    merged = merged_source(base, [(adapter, 1.0)])
    tuned = open_source(home / "out")
    assert merged.tensors.keys() == tuned.tensors.keys() == base.tensors.keys()
    for name, tensor in merged.tensors.items():
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        assert (tensor.rows(0, rows) == tuned.tensors[name].rows(0, rows)).all(), name
    assert kanna.merge(home / "source", home / "out", dry_run=True).notes == []
    with pytest.raises(UnsupportedError, match="beside a base") as refused:
        kanna.convert(home / "source", home / "l.gguf", adapter=home / "out", dry_run=True)
    assert "kanna merge" in refused.value.todo
    with pytest.raises(KannaError, match="the weight 0.5"):
        kanna.merge(home / "source", {str(home / "out"): 0.5}, dry_run=True)
    other = tiny_adapters.base("qwen2", home / "other")
    with pytest.raises(KannaError, match="which the model has not|of shape|the base is another"):
        kanna.merge(other, home / "out", dry_run=True)


def test_the_gate_holds_the_written_model_in_llama_cpp(home: Path) -> None:
    needs.llama_cpp()
    out = home / "gated"
    done = kanna.adapt(home / "source", home / "data.jsonl", out, **fast(verify=True))
    assert done.gate["share"] > 0.9, done.gate
    page = (out / "report.html").read_text()
    assert "The model read again, as F16" in page and "a model, trained" in page
    by_name = {check["name"]: check["ok"] for check in done.gate["checks"]}
    assert by_name["retention"] is True
    file = home / "gated.gguf"
    kanna.convert(out, file, preset="F16", threads=1)
    proof = kanna.verify(home / "source", file, adapter=out, threads=1)
    [kept] = [c for c in proof.checks if c.name == "retention"]
    assert kept.ok is True, kept
    with pytest.raises(UsageError, match="were learned"):
        kanna.verify(home / "source", file, adapter=out, data=home / "data.jsonl", threads=1)


def test_an_interrupted_run_goes_on_to_the_same_weights(
    home: Path, trained: AdaptResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVERY", 0.0)
    stepped = watching.Watcher.stepped

    def ended(watcher: watching.Watcher, step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt
        stepped(watcher, step)

    given = (home / "source", home / "data.jsonl", home / "again")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watching.Watcher, "stepped", ended)
        kanna.adapt(*given, **fast(samples=1))
    assert not (home / "again").exists()
    done = kanna.adapt(*given, **fast(samples=1))
    assert any("went on after step 6" in note for note in done.notes)
    one, two = (home / name / "model.safetensors" for name in ("out", "again"))
    assert one.read_bytes() == two.read_bytes()
    assert done.base_figures == trained.base_figures and done.samples == trained.samples
    assert not list(home.glob(".again.unfinished-*"))


def test_a_trial_of_rates_leaves_no_trace_in_the_weights(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_finder, "STEPS", 8)
    few = fast(steps=2)
    auto: dict[str, Any] = few | {"auto": True, "learning_rate": None}
    found = kanna.adapt(home / "source", home / "data.jsonl", home / "auto", **auto)
    rates = [point["rate"] for point in found.rate_test["curve"]]
    assert max(rates) == pytest.approx(1e-2)
    assert found.settings["learning_rate"] == found.rate_test["rate"]
    given: dict[str, Any] = few | {"learning_rate": found.rate_test["rate"]}
    kanna.adapt(home / "source", home / "data.jsonl", home / "by-hand", **given)
    one, two = (home / name / "model.safetensors" for name in ("auto", "by-hand"))
    assert one.read_bytes() == two.read_bytes()


def test_a_step_that_does_not_fit_begins_anew_from_the_base(
    home: Path, trained: AdaptResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = watching.Watcher.stepped
    seen: list[int] = []

    def full(watcher: watching.Watcher, step: int) -> None:
        seen.append(step)
        if len(seen) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        stepped(watcher, step)

    monkeypatch.setattr(watching.Watcher, "stepped", full)
    done = kanna.adapt(home / "source", home / "data.jsonl", home / "parted", **fast())
    assert seen[:5] == [1, 2, 3, 1, 2] and any("want of memory" in note for note in done.notes)
    assert done.tuned_loss == pytest.approx(trained.tuned_loss, rel=1e-2)


@pytest.mark.parametrize("free", [1 << 20, 14 << 20])
def test_too_little_memory_is_refused_with_the_figure(
    home: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Before weights are read where they do not fit, before the first step where it does not."""

    def measured(device: str) -> int:
        return free

    monkeypatch.setattr(memory, "free_bytes", measured)
    data, out = str(home / "data.jsonl"), str(home / "none")
    asked = ["adapt", str(home / "source"), "--data", data, "-o", out, "--method", "full"]
    run = CliRunner().invoke(cli, [*asked, "--no-verify", "--max-length", "64"])
    assert run.exit_code == 1 and "Traceback" not in run.stderr, run.stderr
    for words in ("training all weights takes about", "are free", "--method lora"):
        assert words in " ".join(run.stderr.split()), run.stderr
    assert not [p for p in home.iterdir() if "none" in p.name]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("objective", "dpo"),
        ("base_bits", 4),
        ("rank", 8),
        ("alpha", 8.0),
        ("backend", "mlx"),
        ("for_plan", "Q4_K_M"),
        ("draft", "mtp"),
    ],
)
def test_what_lies_beside_weights_is_refused(home: Path, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match="--method full") as refused:
        kanna.adapt(home / "source", home / "data.jsonl", home / "x", **fast(**{option: value}))
    assert "lora" in refused.value.expected + refused.value.todo or option == "backend"
    assert not (home / "x").exists()


def test_the_rate_is_a_tenth_of_that_of_changes_beside_the_weights(home: Path) -> None:
    settings = fast(steps=1, learning_rate=None)
    done = kanna.adapt(home / "source", home / "data.jsonl", home / "usual", **settings)
    assert done.settings["learning_rate"] == pytest.approx(5e-5)


def test_pairs_and_another_format_of_the_base(home: Path) -> None:
    """`orpo` needs no base beside the model; a GGUF is trained as the values that it holds."""
    needs.package("gguf")
    lines = [
        {"prompt": f"Say fox {i}", "chosen": " fox fox", "rejected": " brown"} for i in range(30)
    ]
    (home / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    kanna.convert(home / "source", home / "base.gguf", preset="F16", threads=1)
    more = fast(objective="orpo", steps=3)
    done = kanna.adapt(home / "base.gguf", home / "pairs.jsonl", home / "pairs", **more)
    assert done.tuned_loss < done.base_loss
    [note] = kanna.merge(home / "source", home / "pairs", dry_run=True).notes
    assert "tokenizer" in note  # as the GGUF has it


def test_a_real_model_learns_at_the_usual_rate(home: Path) -> None:
    settings = fast(learning_rate=None, steps=8, batch=2, verify=False)
    done = kanna.adapt("builtin:stories15m", home / "data.jsonl", home / "stories", **settings)
    assert done.tuned_loss < 0.9 * done.base_loss
    weights = sum(t.nbytes for t in open_source(home / "stories").tensors.values()) // 2
    assert 20 * weights < done.costs["predicted_bytes"] < 40 * weights
    assert done.costs["predicted_bytes"] < done.costs["peak_bytes"]
