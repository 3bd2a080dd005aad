"""`kanna optimize --adapter`: a fine-tune within a budget, and what the file keeps of its gain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import needs

import kanna
from kanna._util.progress import Silent
from kanna.comparison.rows import Row
from kanna.errors import UsageError
from kanna.optimization import fine_tune_table, measure
from kanna.optimization.fine_tune import open_fine_tunes
from kanna.optimization.kl_scorer import SURE
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.result import kept_words
from kanna.training.examples import Example
from kanna.training.held_answers import CallCount, answer, held_prompts

needs.package("trl")
needs.llama_cpp()

from helpers import optimizing, tiny_adapters, tiny_models  # noqa: E402 - needs torch
from helpers.same_bytes import differences  # noqa: E402 - needs torch

WORDS = ["fox", "dog", "once", "time", "quick", "brown"]


QUICK = ("q2_k", "q4_0", "q4_k", "q6_k", "q8_0", "f16")


def chat(index: int) -> dict[str, Any]:
    word = WORDS[index % len(WORDS)]
    question = {"role": "user", "content": f"Say {word} {index}"}
    return {"messages": [question, {"role": "assistant", "content": f"{word} {word} {word}"}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model, texts, chats, and an adapter that learned something from them."""
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", QUICK)
        patch.setattr(fine_tune_table, "_MOST_WHOLE", 0)  # nothing is timed but what is kept
        patch.setattr(tiny_models, "SMALL", tiny_models.SMALL | {"num_hidden_layers": 2})
        home = optimizing.fill(tmp_path_factory.mktemp("fine-tune"))
        lines = [json.dumps(chat(i)) for i in range(80)]
        (home / "chats.jsonl").write_text("\n".join(lines))
        kanna.adapt(
            home / "tiny",
            home / "chats.jsonl",
            home / "adapter",
            rank=4,
            learning_rate=5e-3,
            steps=20,
            threads=1,
            verify=False,
        )
        yield home


def invoke(home: Path, *words: str, out: str) -> Any:
    adapter = ["--adapter", str(home / "adapter"), "--effort", "fast"]
    return optimizing.invoke(home, *adapter, *words, out=out)


def test_a_fine_tune_is_optimized_on_its_own_text_and_judged(home: Path) -> None:
    domain = ["--calibration", str(home / "chats.jsonl")]
    run = invoke(home, "--like", "Q6_K", *domain, out="out")
    assert run.exit_code == 0, run.stderr + run.output
    result = json.loads(run.stdout)
    kept = result["retention"]
    assert kept["share"] > 0.9 and kept["examples"] == 8 and kept["least"] == 0.9
    assert kept["tuned_loss"] < kept["base_loss"] and result["file_bytes"] <= result["budget"]
    assert "8 held-out examples were left out of the calibration text" in result["notes"]
    text = (home / "out" / "domain" / "01-chats.jsonl").read_text()
    held = (home / "adapter" / "held-out.jsonl").read_text().splitlines()
    assert len(text.splitlines()) == 72 and "<|im_start|>" in text
    asked = [json.loads(line)["messages"][0]["content"] for line in held]
    assert not any(f"{question}<|im_end|>" in text for question in asked)
    report = json.loads((home / "out" / "report.json").read_text())
    best = next(row for row in report["rows"] if row["path"] == result["artefact"])
    assert best["retention"] == kept and {"retention"} <= {c["name"] for c in best["checks"]}
    page = (home / "out" / "report.html").read_text()
    for words in (
        "What is kept of the fine-tune",
        "adapter apart",
        "tuned, 16 bits",
        "Held-out prompts",
    ):
        assert words in page
    table = report["optimize"]["fine_tune"]
    base, tuned, *files, apart = table["rows"]
    assert (base["name"], tuned["name"]) == ("base, 16 bits", "tuned, 16 bits")
    assert base["domain_loss"] == pytest.approx(kept["base_loss"]) and base["share"] == 0
    assert tuned["domain_loss"] == pytest.approx(kept["tuned_loss"], abs=1e-5)
    assert tuned["kl"] < 1e-6 and tuned["share"] == pytest.approx(1, abs=1e-3)
    assert any(row["share"] == kept["share"] and row["gen_tps"] for row in files)
    assert apart["name"].endswith("adapter apart") and apart["share"] > 0.8
    assert apart["file_bytes"] > result["file_bytes"] and apart["gen_tps"] is None
    assert all(row["general_loss"] > 0 and row["calls"] is None for row in table["rows"])
    assert [len(sample["answers"]) for sample in table["samples"]] == [len(table["rows"])] * 3
    asked = table["samples"][0]["answers"]
    assert asked[0] != asked[1], "base and tuned model"
    assert not list((home / "out").glob(".table-*"))
    for loss in (kept["base_loss"], kept["tuned_loss"], kept["artefact_loss"]):
        assert f"{loss:.4f}" in page
    assert "--adapter" in report["command"] and report["source"]["name"] == str(home / "tiny")
    again = kanna.merge(
        home / "tiny",
        home / "adapter",
        home / "again.gguf",
        plan=result["plan"],
        statistics=result["statistics"],
        threads=1,
    )
    differing = differences(home / "out" / "tiny-optimized.gguf", again.paths[0])
    assert not [line for line in differing[2:] if "kanna." not in line], differing


def test_held_out_examples_inside_a_text_are_refused(home: Path, tmp_path: Path) -> None:
    """As lines of data they are left out; inside other text nothing can leave them out."""
    told = "Once upon a time there was a fox that said hello to many dogs"
    held = {"messages": [{"role": "user", "content": "Say it"}, {"role": "assistant"}]}
    held["messages"][1]["content"] = told
    (tmp_path / "held.jsonl").write_text(json.dumps(held))
    log = f"Another text.\n\nuser: Say it\nassistant: {told}!\n\nAnd on it goes."
    (tmp_path / "log.txt").write_text(log)
    apart = log.replace("fox that said", "fox that had said")
    (tmp_path / "apart.txt").write_text(apart)

    def opened(name: str) -> Any:
        request = OptimizeRequest(
            source=home / "tiny",
            out=tmp_path,
            format="gguf",
            adapter=[(str(home / "adapter"), 1.0)],
            data=[tmp_path / "held.jsonl"],
            calibration=[tmp_path / name],
        )
        return open_fine_tunes(kanna.open_source(home / "tiny"), request)

    with pytest.raises(UsageError, match=r"log\.txt holds a held-out example of the adapter"):
        opened("log.txt")
    assert opened("apart.txt")[0].domain[0].texts[0].startswith("Another text")


def test_what_keeps_too_little_fails(home: Path) -> None:
    """Statistics and measurements are those of the run before."""
    domain = ["--calibration", str(home / "chats.jsonl")]
    run = invoke(home, "--like", "Q2_K", "--retention", "1", *domain, out="out")
    assert run.exit_code == 1, run.stderr
    result = json.loads(run.stdout)
    assert result["gate"] == "failed" and result["retention"]["share"] < 1


def test_recovery_is_judged_by_held_out_examples_too(home: Path) -> None:
    domain = ["--calibration", str(home / "chats.jsonl"), "--recover", "--retention", "0"]
    run = invoke(home, "--like", "Q2_K", *domain, out="out")
    assert run.exit_code == 0, run.stderr + run.output
    told = json.loads(run.stdout)["tuning"]
    before, after = (told["recovery"]["retention"][side] for side in ("before", "after"))
    assert before["examples"] == after["examples"] == 8
    assert before["tuned_loss"] == after["tuned_loss"] < before["artefact_loss"]
    decided = told["recovery"]["decided"]
    falls = decided["after"] - decided["before"] < -SURE * decided["half"]
    assert told["kept"] == (falls and after["artefact_loss"] < before["artefact_loss"])
    assert (home / "out" / "tiny-tuned.gguf").exists() == told["kept"]
    page = (home / "out" / "report.html").read_text()
    assert "held-out examples of the adapter, 8" in page


def test_adapters_apart_each_keep_their_gain_beside_one_base(home: Path) -> None:
    idle = home / "other" / "adapter"
    shutil.copytree(home / "adapter", idle)
    domain = ["--calibration", str(home / "chats.jsonl"), "--adapter", str(idle), "--apart"]
    run = invoke(home, "--like", "Q6_K", "--retention", "0.8", *domain, out="apart")
    assert run.exit_code == 0, run.stderr + run.output
    result = json.loads(run.stdout)
    files = [home / "apart" / "adapters" / name for name in ("adapter.gguf", "adapter-2.gguf")]
    assert [Path(one["file"]) for one in result["beside"]] == files
    assert [one["adapter"] for one in result["beside"]] == [str(home / "adapter"), str(idle)]
    assert files[0].read_bytes()[:4] == b"GGUF" and result["file_bytes"] <= result["budget"]
    assert result["retention"]["share"] == min(one["share"] for one in result["beside"]) > 0.8
    index = json.loads((home / "apart" / "statistics" / "index.json").read_text())
    assert [one[1] for one in index["adapters"]] == [str(home / "adapter"), str(idle)]
    report = json.loads((home / "apart" / "report.json").read_text())
    taken = {one["stage"]: one["seconds"] for one in report["optimize"]["times"]}
    assert taken["gradients"] > 0.3 * taken["calibrate"], "three passes of each, in their stages"
    best = next(row for row in report["rows"] if row["path"] == result["artefact"])
    names = [check["name"] for check in best["checks"]]
    assert {f"retention of {home / 'adapter'}", f"retention of {idle}"} <= set(names)
    page = (home / "apart" / "report.html").read_text()
    assert "beside each file" in page and "--apart" in report["command"]
    beside = kanna.verify(
        home / "tiny", files[0], adapter=home / "adapter", beside=result["artefact"], threads=1
    )
    assert beside.retention and beside.retention.share == result["beside"][0]["share"]


@pytest.mark.slow
def test_a_file_is_a_base_too(home: Path) -> None:
    base, out = home / "base.gguf", home / "of-file"
    kanna.convert(home / "tiny", base, preset="F16", threads=1)
    result = kanna.optimize(
        base, adapter=home / "adapter", like="Q6_K", out=out, effort="fast", threads=1
    )
    assert Path(result.artefact).is_file()
    assert result.retention and result.retention["share"] > 0.9
    assert f"kanna optimize {base}" in json.loads((out / "report.json").read_text())["command"]


def test_an_adapter_that_gained_nothing_cannot_be_judged(home: Path, tmp_path: Path) -> None:
    idle = tmp_path / "idle"
    shutil.copytree(home / "adapter", idle)
    tiny_adapters.change_config(idle, lora_alpha=0.0)
    request = OptimizeRequest(
        source=home / "tiny", out=tmp_path, format="gguf", adapter=[(str(idle), 1.0)]
    )
    [fine_tune] = open_fine_tunes(kanna.open_source(home / "tiny"), request)
    assert "built-in text" in fine_tune.notes[0]
    path = home / "again.gguf"
    row = Row(name="q", role="candidate", path=str(path), gate="proved")
    failed = Row(name="f", role="candidate", path=str(path), gate="failed")
    fine_tune.judge([row, failed], 1, Silent())
    assert row.gate == "unprovable" and row.retention and row.retention["share"] is None
    assert failed.retention is None and kept_words(row.retention).startswith("not measurable")


def test_the_weight_of_an_adapter_is_part_of_what_is_kept(home: Path) -> None:
    from kanna.adapters import merged_source, open_adapters

    base = kanna.open_source(home / "tiny")
    full, half, again = (
        merged_source(base, open_adapters({str(home / "adapter"): weight})).hashes()
        for weight in (1.0, 0.5, 0.5)
    )
    assert full != half == again


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapter": None, "data": "chats.jsonl"}, "no adapter"),
        ({"retention": 1.5}, "a retention of 1.5"),
        ({"adapter": None, "apart": True}, "--apart says how adapters lie, and none was named"),
        ({"adapter": "adapter=0.5", "apart": True}, "--apart with a weight"),
        ({"adapter": ["adapter", "idle"], "apart": True, "data": "d"}, "for 2 adapters apart"),
        ({"apart": True, "recover": True, "calibration": "chats.jsonl"}, "--recover and --apart"),
        ({"apart": True, "format": "mlx"}, "--apart with --format mlx"),
        ({"data": "chats.jsonl"}, "72 of 80 examples that are to judge the adapter were learned"),
        ({"calibration": "adapter/held-out.jsonl"}, "nothing else"),
        ({"data": "absent.jsonl"}, "does not exist"),
        ({"calibration": "absent.jsonl"}, "does not exist"),
    ],
)
def test_what_contradicts_itself_is_refused(
    home: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"adapter": home / "adapter", "like": "Q4_K_M", **options}
    for name in ("data", "calibration"):
        if name in given:
            given[name] = home / given[name]
    if isinstance(given["adapter"], str):
        given["adapter"] = str(home / given["adapter"])
    with pytest.raises(UsageError, match=words):
        kanna.optimize(home / "tiny", tmp_path / "out", **given)
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.slow
def test_the_table_has_speed_and_stock_llama_cpp(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune_table, "_MOST_WHOLE", 1 << 30)
    domain = ["--calibration", str(home / "chats.jsonl"), "--retention", "0"]
    run = invoke(home, "--like", "Q4_K_M", *domain, out="out")
    assert run.exit_code == 0, run.stderr
    report = json.loads((home / "out" / "report.json").read_text())
    rows = {row["name"]: row for row in report["optimize"]["fine_tune"]["rows"]}
    assert rows["base, 16 bits"]["gen_tps"] == rows["tuned, 16 bits"]["gen_tps"] > 0
    assert rows["tuned, 16 bits"]["peak_bytes"] > rows["tuned, 16 bits"]["file_bytes"]
    stock = "tuned, llama-quantize Q4_K_M"
    if shutil.which("llama-quantize"):
        assert rows[stock]["gen_tps"] > 0 and rows[stock]["domain_loss"] > 0
    else:
        assert stock not in rows
        assert any("llama-quantize" in note for note in report["notes"])


def test_calls_are_counted_where_prompts_offer_tools() -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "count", "parameters": parameters}}

    class Chats:
        @staticmethod
        def question(example: Example) -> tuple[str, str]:
            return example.messages[0]["content"], ""

        @staticmethod
        def tokenizer(text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [len(text)]}

    class Model:
        context = 64

        @staticmethod
        def generate(ids: list[int], *, max_tokens: int) -> Iterator[str]:
            assert max_tokens == 63
            yield from ('{"name": "count", ', f'"arguments": {{"n": {ids[0] - 4 or "null"}}}}}')

    asked = [
        Example(where="", messages=[{"role": "user", "content": text}], tools=tools)
        for text, tools in (("four", [tool]), ("seven", [tool]), ("none", []))
    ]
    chats: Any = Chats()
    prompts = held_prompts(asked, chats)
    model: Any = Model()
    given = answer(model, prompts, chats, Silent())
    assert given.calls == CallCount(asked=2, valid=1) and len(given.texts) == 3
