"""`kanna adapt`: PEFT and TRL on tiny models; data that is refused, runs that go wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters

import kanna
from kanna._util import extras
from kanna.adapters import open_adapter
from kanna.cli.main import cli
from kanna.errors import KannaError, MissingError, OutputError, UsageError
from kanna.formats import folder_files
from kanna.training import AdaptResult, examples, watching
from kanna.training.tokens import UNLEARNED, ChatTokenizer

needs.package("trl")

WORDS = ["fox", "dog", "once", "time", "quick", "brown"]


def fast(**more: Any) -> dict[str, Any]:
    """Settings of a run of seconds."""
    return {
        "threads": 1,
        "rank": 4,
        "learning_rate": 5e-3,
        "steps": 16,
        "batch": 4,
        "samples": 0,
        "verify": False,
        **more,
    }


def chat(index: int) -> dict[str, Any]:
    word = WORDS[index % len(WORDS)]
    question = {"role": "user", "content": f"Say {word} {index}"}
    return {"messages": [question, {"role": "assistant", "content": f"{word} {word} {word}"}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapt")
    tiny_adapters.base("llama", folder / "source")
    lines = [json.dumps(chat(i)) for i in range(40)]
    (folder / "chats.jsonl").write_text("\n".join([*lines, lines[0], ""]))
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> AdaptResult:
    return kanna.adapt(home / "source", home / "chats.jsonl", home / "out", **fast())


def tokenizer_of(folder: Path, most: int = 512) -> ChatTokenizer:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return ChatTokenizer.of(tokenizer, folder_files.files(folder), most)


def test_it_lowers_the_held_out_loss_and_says_so(home: Path, trained: AdaptResult) -> None:
    import peft
    import torch
    import transformers

    from kanna.training.objectives.base import held_out_loss

    assert trained.ok and trained.tuned_loss < 0.8 * trained.base_loss
    assert trained.examples["train"] == 36 and trained.examples["held_out"] == 4
    assert trained.examples["duplicates"] == 1
    out = home / "out"
    reports = {"report.json", "report.html", "held-out.jsonl", "learned.json", "base.json"}
    names = {"adapter_config.json", "adapter_model.safetensors", *reports}
    assert {p.name for p in out.iterdir()} == names
    report = json.loads((out / "report.json").read_text())
    assert report["tuned_loss"] == trained.tuned_loss and report["history"]
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "source", dtype=torch.float32)
    held = tokenizer_of(home / "source").all(examples.read(out / "held-out.jsonl").examples)
    assert math.isclose(held_out_loss(model, held, "cpu"), trained.base_loss, rel_tol=1e-4)
    tuned = peft.PeftModel.from_pretrained(model, str(out))
    assert math.isclose(held_out_loss(tuned, held, "cpu"), trained.tuned_loss, rel_tol=1e-4)
    adapter = open_adapter(out)
    assert adapter.base == str(home / "source") and len(adapter.low_rank) == 21
    assert kanna.merge(home / "source", out, dry_run=True).notes == []


def test_the_page_shows_the_run(home: Path) -> None:
    done = kanna.adapt(
        home / "source", home / "chats.jsonl", home / "paged", **fast(steps=6, samples=1)
    )
    page = (home / "paged" / "report.html").read_text()
    assert done.report == str(home / "paged" / "report.html")
    [sample] = done.samples
    assert sample["prompt"].count("Say") == 1 and sample["wanted"] in page
    assert "step 0: held-out loss" in page and ">8</td>" in page  # alpha, twice the rank
    for words in ("<polyline", "general loss", "Sample answers", "Tokens of examples", "predicted"):
        assert words in page, words
    assert f"{done.base_figures['general_loss']:.4f}" in page
    assert f"{done.tuned_figures['general_loss']:.4f}" in page
    assert done.base_figures["general_loss"] != done.tuned_figures["general_loss"]
    costs = done.costs
    assert costs["predicted_seconds"] > 0 and 0 < costs["predicted_bytes"] < costs["peak_bytes"]
    assert "<script" not in page and not page.count("http://") + page.count("https://")


def test_the_same_seed_gives_the_same_adapter(home: Path, trained: AdaptResult) -> None:
    again = kanna.adapt(home / "source", home / "chats.jsonl", home / "again", **fast())
    assert again.tuned_loss == trained.tuned_loss
    one, two = (home / n / "adapter_model.safetensors" for n in ("out", "again"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("method", ["rslora", "dora"])
def test_other_methods_train_and_merge(home: Path, method: str) -> None:
    out = home / method
    kanna.adapt(home / "source", home / "chats.jsonl", out, method=method, **fast(steps=4))
    kanna.merge(home / "source", out, home / f"{method}-merged", threads=1)


def test_answers_alone_are_learned(home: Path, tmp_path: Path) -> None:
    chats = tokenizer_of(home / "source")
    several = {"messages": [*chat(0)["messages"], *chat(1)["messages"]]}
    (tmp_path / "d.jsonl").write_text(
        json.dumps(several) + '\n{"prompt": "Say", "completion": " fox"}'
    )
    first, second = chats.all(examples.read(tmp_path / "d.jsonl").examples)
    text = chats.tokenizer.decode([t for t in first.labels if t != UNLEARNED])
    assert "fox fox fox" in text and "dog dog dog" in text and "Say" not in text
    assert "<|im_end|>" in text and "user" not in text
    text = chats.tokenizer.decode([t for t in second.labels if t != UNLEARNED])
    assert text.endswith("fox</s>") and not text.startswith("Say")  # a token may lie across


def test_texts_and_folders_are_read(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "\n\n".join(f"The quick brown fox {i}. " * 30 for i in range(12))
    )
    share = {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}
    (tmp_path / "b.jsonl").write_text(json.dumps(share) + '\n\n{"text": "once upon"}\n')
    read = examples.read(tmp_path)
    assert len(read.examples) > 4 and read.files == ["a.txt", "b.jsonl"]
    assert any(e.messages and e.messages[0]["role"] == "user" for e in read.examples)
    done = kanna.adapt(home / "source", tmp_path, tmp_path / "out", **fast(steps=3))
    assert done.steps == 3 and any("are few" in note for note in done.notes)


def _line(**value: Any) -> str:
    return json.dumps(value)


USER = {"role": "user", "content": "x"}
ANSWER = {"role": "assistant", "content": "y"}
BAD = {
    "empty": ("", "holds no example"),
    "blank lines": ("\n  \n", "holds no example"),
    "one example": (_line(text="once"), "there is 1 example"),
    "the same twice": (_line(text="once") + "\n" + _line(text="once"), "there is 1 example"),
    "no JSON": (_line(text="a") + "\n{oops", "line 2 is not JSON"),
    "a list": ("[1]", "line 1 is no object"),
    "other keys": (_line(question="a"), "has the keys question"),
    "a number": (_line(text=3), "a text that is no text"),
    "an empty text": (_line(text=" "), "line 1 is empty"),
    "no messages": (_line(messages=[]), "no list of objects"),
    "messages that are none": (_line(messages=["x"]), "message 1 is no object"),
    "unknown role": (_line(messages=[{"role": "wizard", "content": "x"}, ANSWER]), "'wizard'"),
    "no role": (_line(messages=[{"content": "x"}, ANSWER]), "role None"),
    "no content": (_line(messages=[{"role": "user"}, ANSWER]), "no content"),
    "no answer": (_line(messages=[USER]), "no message of the assistant"),
    "an empty answer": (_line(messages=[USER, ANSWER | {"content": ""}]), "empty answer"),
    "preferences": (_line(prompt="a", chosen="b", rejected="c"), "preferences"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_used_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(UsageError, match=words):
        kanna.adapt(home / "source", tmp_path / "data.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_none_are_refused_before_an_extra_that_is_absent(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "missing", lambda extra: ["trl"])
    (tmp_path / "data.csv").write_text("a,b")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 10)
    (tmp_path / "nothing").mkdir()
    for name in ("absent.jsonl", "data.csv", "latin.txt", "nothing"):
        with pytest.raises(UsageError):
            kanna.adapt(home / "source", tmp_path / name, tmp_path / "out")
    with pytest.raises(MissingError, match="trl"):
        kanna.adapt(home / "source", home / "chats.jsonl", tmp_path / "out")


_MESSAGE = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system.') }}"
    "{% endif %}" + _MESSAGE
)
SKIPPING = "{% for m in messages if m.role != 'system' %}" + _MESSAGE


@pytest.mark.parametrize(
    ("template", "more", "words"),
    [
        (None, {}, "no chat template"),
        (REFUSING, {}, "No system"),
        (SKIPPING, {}, "leaves out a message of the role system"),
        ("", {"tools": [{"type": "function", "function": {"name": "weather"}}]}, "tool weather"),
    ],
)
def test_a_template_that_does_not_take_the_data_is_refused(
    home: Path, tmp_path: Path, template: str | None, more: dict[str, Any], words: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (home / "source").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    if template != "":
        settings = json.loads((source / "tokenizer_config.json").read_text())
        settings["chat_template"] = template
        kept = {k: v for k, v in settings.items() if v is not None}
        (source / "tokenizer_config.json").write_text(json.dumps(kept))
    system = {"role": "system", "content": "Be short."}
    lines = [_line(messages=[system, *chat(i)["messages"]], **more) for i in range(30)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=f"d.jsonl, line 1\\b.*{words}"):
        kanna.adapt(source, tmp_path / "d.jsonl", tmp_path / "out", **fast())
    assert not (tmp_path / "out").exists()


def test_all_cut_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="within 8 tokens"):
        kanna.adapt(home / "source", home / "chats.jsonl", tmp_path / "out", max_length=8)


def test_a_loss_that_is_no_number_stops_the_run(home: Path, tmp_path: Path) -> None:
    """A rate far too high: what improved before it is kept, with a note, or nothing is written."""
    wild = fast(learning_rate=1.0, steps=12)
    done = kanna.adapt(home / "source", home / "chats.jsonl", tmp_path / "out", **wild)
    assert math.isfinite(done.tuned_loss) and done.tuned_loss <= done.base_loss
    broken = tmp_path / "broken"
    from safetensors.numpy import load_file, save_file

    broken.mkdir()
    for path in (home / "source").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    values = load_file(broken / "model.safetensors")
    values["model.norm.weight"] = values["model.norm.weight"] * float("nan")
    save_file(values, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(KannaError, match="no number"):
        kanna.adapt(broken, home / "chats.jsonl", tmp_path / "nan", **fast())
    assert not (tmp_path / "nan").exists()


def test_the_best_state_before_a_loss_that_is_no_number_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file

    stepped = watching.Watcher.stepped

    def breaking(watcher: watching.Watcher, step: int) -> None:
        stepped(watcher, step)
        if step == 10:
            for value in watcher.model.parameters():
                if value.requires_grad:
                    value.data.fill_(math.nan)

    monkeypatch.setattr(watching.Watcher, "stepped", breaking)
    done = kanna.adapt(home / "source", home / "chats.jsonl", tmp_path / "out", **fast())
    assert done.stopped == "nan" and 0 < done.best_step <= 10 < done.steps < 16
    assert done.tuned_loss < done.base_loss and any("no number" in note for note in done.notes)
    values = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(abs(float(value.sum())) < math.inf for value in values.values())


def test_it_stops_when_nothing_improves_and_when_time_is_over(home: Path, tmp_path: Path) -> None:
    idle = fast(learning_rate=1e-8, steps=60)
    done = kanna.adapt(home / "source", home / "chats.jsonl", tmp_path / "idle", **idle)
    assert done.stopped == "early" and done.steps < 60 and done.best_step == 0
    assert any("nothing that was tried" in note for note in done.notes)
    short = kanna.adapt(
        home / "source", home / "chats.jsonl", tmp_path / "short", minutes=0.001, **fast()
    )
    assert short.stopped == "time" and short.steps < 16


def test_settings_and_outputs_that_make_no_sense(
    home: Path, tmp_path: Path, trained: AdaptResult
) -> None:
    data = home / "chats.jsonl"
    wrong: list[dict[str, Any]] = [
        {"rank": 0},
        {"method": "vera"},
        {"learning_rate": -1.0},
        {"epochs": 0},
        {"steps": 0},
        {"minutes": float("nan")},
        {"device": "tpu"},
        {"max_length": 1},
    ]
    for options in wrong:
        with pytest.raises(UsageError) as refused:
            kanna.adapt(home / "source", data, tmp_path / "out", **options)
        assert refused.value.expected, options
        named = next(iter(options)).replace("_", "-")
        if named in ("rank", "learning-rate", "steps"):
            assert f"leave --{named} out" in refused.value.todo
    with pytest.raises(OutputError, match="not empty") as full:
        kanna.adapt(home / "source", data, home / "out")
    assert "an empty one" in full.value.expected and "--overwrite" in full.value.todo


def test_the_command_and_ctrl_c(home: Path, tmp_path: Path) -> None:
    words = ["adapt", str(home / "source"), "--data", str(home / "chats.jsonl")]
    few = ["--steps", "2", "--rank", "2", "--threads", "1"]
    run = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "out"), *few, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["steps"] == 2
    assert CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "out"), *few]).exit_code == 1
    assert CliRunner().invoke(cli, words[:2]).exit_code == 2
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "kanna",
            *words,
            "-o",
            "long",
            "--steps",
            "100000",
            "--epochs",
            "999",
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not any("long" in p.name for p in tmp_path.iterdir()):
        time.sleep(0.1)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130 and "Nothing was written" in errors
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["out"]


def test_a_base_of_few_bits_computes_what_its_blocks_hold(home: Path) -> None:
    """Values, gradients with regard to the input, and no parameter of the matrices in floats."""
    import numpy as np
    import torch
    import transformers

    from kanna import encodings
    from kanna._util.progress import Silent
    from kanna.training import quantized_base

    for family in ("llama", "llama-tied"):
        source = tiny_adapters.base(family, home / f"bits-{family}")
        held = quantized_base.load(source, 4, 1, Silent())
        plain = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        matrices = {n: m for n, m in held.named_modules() if type(m).__name__ == "BlockLinear"}
        assert len(matrices) == 7 * plain.config.num_hidden_layers + 1
        assert sum(p.numel() for p in held.parameters()) < 0.02 * sum(
            p.numel() for p in plain.parameters()
        )
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                if parameter.ndim == 2:
                    ends = "embed" in name or "lm_head" in name
                    cols = parameter.shape[1]
                    kind = "bf16" if ends else "q4_0" if cols % 256 else "q4_k"
                    encoding = encodings.get(kind)
                    x = np.ascontiguousarray(parameter.numpy())
                    parameter.copy_(
                        torch.from_numpy(encoding.decode(encoding.encode(x), x.shape[1]))
                    )
        ids = torch.arange(3, 30)[None]
        with torch.no_grad():
            assert torch.allclose(held(ids).logits, plain(ids).logits, atol=1e-4)
        gradients: list[torch.Tensor] = []
        for model in (held, plain):
            x = torch.linspace(-1, 1, 5 * plain.config.hidden_size).reshape(1, 5, -1)
            x.requires_grad_()
            model(inputs_embeds=x).logits.square().sum().backward()
            assert x.grad is not None
            gradients.append(x.grad)
        assert torch.allclose(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[1].abs().max()))


def test_an_adapter_is_trained_beside_a_base_of_4_bits(home: Path) -> None:
    done = kanna.adapt(
        home / "source", home / "chats.jsonl", home / "of-4", base_bits=4, **fast(samples=1)
    )
    assert done.tuned_loss < 0.8 * done.base_loss and done.settings["base_bits"] == 4
    assert len(open_adapter(home / "of-4").low_rank) == 21
    kanna.merge(home / "source", home / "of-4", home / "of-4-merged", threads=1)


def test_bits_that_no_base_is_held_in_are_refused(home: Path) -> None:
    for options, reason in (
        ({"base_bits": 3}, "4 or 8"),
        ({"base_bits": 4, "method": "dora"}, "lora or rslora"),
        ({"base_bits": 4, "device": "cuda"}, "decodes on the CPU"),
    ):
        with pytest.raises(UsageError, match=reason):
            kanna.adapt(home / "source", home / "chats.jsonl", home / "no", **options)
    asked = ["adapt", str(home / "source"), "--data", str(home / "chats.jsonl"), "-o", "no"]
    assert CliRunner().invoke(cli, [*asked, "--base-bits", "3"]).exit_code == 2
    assert not (home / "no").exists()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_pairs_are_learned_beside_a_base_of_4_bits(home: Path, objective: str) -> None:
    pairs = [{"prompt": f"Say {i}", "chosen": f" fox {i}", "rejected": " dog"} for i in range(20)]
    (home / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    done = kanna.adapt(
        home / "source",
        home / "pairs.jsonl",
        home / f"{objective}-of-4",
        objective=objective,
        base_bits=4,
        **fast(steps=8, batch=2),
    )
    assert done.tuned_loss < 0.8 * done.base_loss
