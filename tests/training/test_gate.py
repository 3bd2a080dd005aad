"""The gate of `kanna adapt`: the adapter as written, in llama.cpp, against what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters

import kanna
from kanna.cli.main import cli
from kanna.errors import OutputError
from kanna.runtimes.base import Availability
from kanna.training import gate, written
from kanna.training.job import AdapterJob
from kanna.training.result import figure_facts
from kanna.training.tokens import UNLEARNED, TokenizedExample

needs.package("trl")
needs.llama_cpp()


def fast(**more: Any) -> dict[str, Any]:
    settings = {"threads": 1, "rank": 4, "learning_rate": 5e-3, "steps": 8, "batch": 4}
    return {**settings, "samples": 0, **more}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    tiny_adapters.base("llama", folder / "source")
    tiny_adapters.words_to_say(folder / "data.jsonl")
    asked = [{"prompt": f"Say fox {i}", "chosen": " fox", "rejected": " brown"} for i in range(30)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return folder


def weaken(patch: pytest.MonkeyPatch) -> None:
    """Lose half of the adapter's strength between training and the disk."""
    write = written.adapter

    def weaker(job: AdapterJob, save: Any, folder: Path) -> None:
        write(job, save, folder)
        tiny_adapters.change_config(folder, lora_alpha=2.0)  # it was 8

    patch.setattr(written, "adapter", weaker)


def checks(made: dict[str, Any]) -> dict[str, bool | None]:
    return {check["name"]: check["ok"] for check in made["checks"]}


def test_what_was_learned_is_there_in_llama_cpp(home: Path) -> None:
    out = home / "out"
    done = kanna.adapt(home / "source", home / "data.jsonl", out, **fast())
    made = done.gate
    assert done.ok and made["status"] == "proved" and made["preset"] == "F16"
    assert set(checks(made)) == set(gate.NAMES[:-1]) and all(checks(made).values())
    assert made["base_loss"] == pytest.approx(done.base_loss, rel=1e-6)
    assert made["tuned_loss"] == pytest.approx(done.tuned_loss, rel=1e-6)
    assert made["runtime_loss"] == pytest.approx(done.tuned_loss, abs=2e-3)
    assert made["share"] == pytest.approx(1.0, abs=5e-3)
    assert made["examples"] == done.examples["held_out"]
    assert json.loads((out / "report.json").read_text())["gate"]["share"] == made["share"]
    assert "In llama.cpp: intact, with 100.0% of the gain." in (out / "report.html").read_text()
    assert {p.name for p in home.iterdir()} >= {"out"} and not list(home.glob(".out*"))


def test_a_strength_that_was_lost_fails_and_the_adapter_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaken(monkeypatch)
    words = ["adapt", str(home / "source"), "--data", str(home / "data.jsonl")]
    more = [
        "--rank",
        "4",
        "--learning-rate",
        "5e-3",
        "--steps",
        "8",
        "--samples",
        "0",
        "--threads",
        "1",
    ]
    run = CliRunner().invoke(cli, [*words, "-o", str(home / "weak"), *more, "--json"])
    assert run.exit_code == 1, run.output
    result = json.loads(run.stdout)
    assert checks(result["gate"])["retention"] is False and result["gate"]["share"] < 0.9
    assert any("failed: retention" in note for note in result["notes"])
    page = (home / "weak" / "report.html").read_text()
    assert "a check in llama.cpp failed: do not use it" in page and 'class="pick failed"' in page
    assert (home / "weak" / "adapter_model.safetensors").is_file()
    left_out = [*words, "-o", str(home / "unchecked"), *more, "--no-verify", "--json"]
    run = CliRunner().invoke(cli, left_out)
    assert run.exit_code == 0 and json.loads(run.stdout)["gate"] == {}


def test_pairs_are_held_to_what_is_preferred(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = home / "pairs.jsonl"
    done = kanna.adapt(home / "source", data, home / "dpo", objective="dpo", **fast())
    made = done.gate
    assert made["status"] == "proved", made
    assert made["tuned_loss"] == pytest.approx(-done.tuned_figures["margin"], rel=1e-6)
    assert made["share"] == pytest.approx(1.0, abs=5e-2)
    told = dict(figure_facts(done.to_dict()))["Kept in llama.cpp, F16"]
    assert f"margin {-made['runtime_loss']:+.4f} nats per token" in told
    weaken(monkeypatch)
    done = kanna.adapt(home / "source", data, home / "dpo-weak", objective="dpo", **fast())
    assert checks(done.gate)["retention"] is False


def test_it_is_the_file_of_the_plan_that_is_checked(home: Path) -> None:
    done = kanna.adapt(
        home / "source", home / "data.jsonl", home / "planned", for_plan="Q8_0", **fast(steps=6)
    )
    assert done.gate["preset"] == "Q8_0" and done.gate["status"] == "proved"


def test_a_base_that_is_a_file_is_run_as_it_is(home: Path) -> None:
    whole, base = home / "whole.gguf", home / "base.gguf"
    kanna.convert(home / "source", whole, preset="Q8_0", threads=1)
    # A file of another converter lacks keys that kanna writes: it is the base all the same.
    key = b"tokenizer.ggml.eot_token_id"
    assert key in whole.read_bytes()
    base.write_bytes(whole.read_bytes().replace(key, key.replace(b"eot", b"xxx")))
    done = kanna.adapt(base, home / "data.jsonl", home / "beside", **fast(steps=6))
    assert done.gate["preset"] == "" and done.gate["status"] == "proved", done.gate
    assert done.gate["share"] == pytest.approx(1.0, abs=2e-2)
    assert "The adapter read again, beside its base" in (home / "beside/report.html").read_text()
    dora = kanna.adapt(base, home / "data.jsonl", home / "dora", method="dora", **fast(steps=2))
    assert dora.gate["preset"] == "F16"  # no sum that could be added beside it


@pytest.mark.parametrize("planned", [None, "Q8_0"])
def test_room_for_the_file_is_asked_for_before_anything_is_learned(
    home: Path, monkeypatch: pytest.MonkeyPatch, planned: str | None
) -> None:
    source = kanna.open_source(home / "source")
    size = kanna.convert(source, preset=planned or "F16", dry_run=True).file_bytes
    needed = size * (2 if planned else 1)
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    out = home / "no-room"
    with pytest.raises(OutputError, match="the check at the end writes") as refused:
        kanna.adapt(source, home / "data.jsonl", out, for_plan=planned, **fast())
    assert ("--no-verify" in str(refused.value.todo)) == (planned is None)
    assert not out.exists() and not list(home.glob(".no-room*"))


def test_an_adapter_of_mlx_lm_passes_too(home: Path) -> None:
    needs.package("mlx_lm")
    done = kanna.adapt(
        home / "source", home / "data.jsonl", home / "mlx", backend="mlx", **fast(steps=4)
    )
    assert done.gate["status"] == "proved" and done.gate["share"] == pytest.approx(1.0, abs=5e-3)


def test_without_llama_cpp_it_says_what_was_not_checked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def available(runtime: Any) -> Availability:
        return Availability(ok=False, remark="llama-cpp-python is absent", how_to_install="pip x")

    monkeypatch.setattr(type(gate.LLAMA), "available", available)
    done = kanna.adapt(home / "source", home / "data.jsonl", home / "alone", **fast(steps=4))
    assert done.gate["status"] == "unprovable" and done.ok and done.gate["share"] is None
    [note] = [note for note in done.notes if "not checked" in note]
    assert "retention" in note and "llama-cpp-python is absent: pip x" in note


def test_an_adapter_that_learned_nothing_has_nothing_to_keep(home: Path) -> None:
    idle = fast(steps=3, learning_rate=1e-8)
    done = kanna.adapt(home / "source", home / "data.jsonl", home / "idle", **idle)
    assert done.gate["status"] != "failed"
    made = checks(done.gate)
    assert made["end of answers"] is True


class _Ending:
    """An engine that ends a generation at some tokens."""

    def __init__(self, ends: set[int]) -> None:
        self.ends = ends

    def eog(self, token: int) -> bool:
        return token in self.ends

    def detokenize(self, ids: list[int], *, special: bool) -> str:
        return f"<{ids[-1]}>"


def test_answers_whose_end_is_none_in_the_runtime_fail() -> None:
    one = TokenizedExample(ids=[1, 5, 6, 2, 9], labels=[UNLEARNED, 5, 6, 2, 9])
    cut = TokenizedExample(ids=[1] * 8, labels=[UNLEARNED, *[7] * 7])
    ending: Any = _Ending({2})
    assert gate.answers_end([one, cut], ending, 8).ok
    endless: Any = _Ending({3})
    failed = gate.answers_end([one, cut], endless, 8)
    assert failed.ok is False and "<9>" in failed.detail
    assert gate.answers_end([cut], ending, 8).ok is None


@pytest.mark.parametrize(
    ("valid", "trained", "ok"),
    [(4, 4, True), (3, 4, True), (2, 4, False), (0, 1, False), (0, 0, True), (4, None, True)],
)
def test_calls_of_tools_must_stay_valid(valid: int, trained: int | None, ok: bool) -> None:
    assert gate.calls_kept(valid, 4, trained).ok is ok


def test_calls_that_nothing_is_known_of_are_not_passed() -> None:
    assert gate.calls_kept(3, 4, None).ok is None
