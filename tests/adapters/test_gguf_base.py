"""A GGUF as the base of a fine-tune: `adapt --for`, `verify --adapter` and `optimize --adapter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import needs, tiny_adapters
from helpers.closeness import divergence
from helpers.tiny_adapters import RECIPES

import kanna
from kanna import families
from kanna.adapters import merged_source, open_adapters
from kanna.errors import UnsupportedError

needs.package("trl")
needs.llama_cpp()
BASES = ["F16", "Q8_0", "Q4_K_M"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a tiny model, and sixty prompts with answers."""
    folder = tmp_path_factory.mktemp("gguf-base")
    tiny_adapters.base("llama", folder / "source")
    for preset in BASES:
        kanna.convert(folder / "source", folder / f"{preset}.gguf", preset=preset, threads=1)
    # Files of other converters lack keys that kanna writes: those of a base are its own.
    key, quantized = b"tokenizer.ggml.eot_token_id", folder / "Q4_K_M.gguf"
    assert key in quantized.read_bytes()
    quantized.write_bytes(quantized.read_bytes().replace(key, key.replace(b"eot", b"xxx")))
    tiny_adapters.words_to_say(folder / "data.jsonl")
    return folder


def decoded(home: Path, preset: str) -> Path:
    """The folder that has the values of a file, for PEFT."""
    folder = home / f"{preset}-decoded"
    if not folder.exists():
        options: dict[str, Any] = {"format": "safetensors", "encoding": "f32", "threads": 1}
        kanna.convert(home / f"{preset}.gguf", folder, **options)
    return folder


@pytest.mark.parametrize("preset", BASES)
def test_what_is_merged_is_what_peft_computes(home: Path, preset: str) -> None:
    adapter = home / f"{preset}-adapter"
    model = tiny_adapters.make(decoded(home, preset), adapter, **RECIPES["lora"].config)
    base = kanna.open_source(home / f"{preset}.gguf")
    tuned = merged_source(base, open_adapters(adapter))
    kanna.convert(tuned, home / f"{preset}-tuned.gguf", encoding="f32", threads=1)
    assert divergence(model, home / f"{preset}-tuned.gguf") < 1e-5
    quantized = [note for note in tuned.notes if "already quantized" in note]
    assert len(quantized) == (preset != "F16")


def test_a_quantized_file_is_trained_on_with_the_values_of_a_plan(home: Path) -> None:
    base, adapter = home / "Q4_K_M.gguf", home / "adapter"
    settings: dict[str, Any] = {"rank": 4, "learning_rate": 5e-3, "steps": 12, "batch": 4}
    done = kanna.adapt(
        base,
        home / "data.jsonl",
        adapter,
        samples=0,
        threads=1,
        for_plan="Q4_K_M",
        **settings,
    )
    assert done.gate["status"] == "proved" and done.gate["preset"] == "Q4_K_M"
    assert done.aware["plain"]["share"] > 0.9
    kanna.merge(base, adapter, home / "again.gguf", requantize=True, threads=1)
    proof = kanna.verify(base, home / "again.gguf", adapter=adapter, threads=1)
    assert proof.status == "proved" and proof.retention, proof.checks
    assert proof.retention.base_loss == pytest.approx(done.base_loss, abs=5e-3)
    assert proof.retention.tuned_loss == pytest.approx(done.tuned_loss, abs=5e-3)
    kanna.convert(base, home / "lora.gguf", adapter=adapter, threads=1)
    alone = kanna.verify(base, home / "lora.gguf", adapter=adapter, threads=1)
    assert [(c.name, c.ok) for c in alone.checks] == [
        ("retention", True),
        ("strength of the adapter", True),
    ]


def test_what_a_file_has_no_place_for_is_refused_with_a_way_that_works(home: Path) -> None:
    adapter = home / "dora"
    model = tiny_adapters.make(decoded(home, "Q8_0"), adapter, **RECIPES["dora"].config)
    base, out = home / "Q8_0.gguf", home / "dora.gguf"
    with pytest.raises(UnsupportedError, match="has more than plain LoRA") as refused:
        kanna.verify(base, home / "F16.gguf", adapter=adapter, data=home / "data.jsonl", threads=1)
    assert f"kanna convert {base} --format safetensors -o base/" in str(refused.value.todo)
    kanna.convert(base, home / "base", format="safetensors", threads=1)
    kanna.merge(home / "base", adapter, out, preset="F16", threads=1)
    assert divergence(model, out) < 2e-5


def test_a_chat_template_beside_an_adapter_that_differs_is_told(home: Path) -> None:
    adapter = home / "templated"
    tiny_adapters.make(decoded(home, "F16"), adapter, **RECIPES["rslora"].config)
    base = kanna.open_source(home / "F16.gguf")
    own = families.load_decoder(base).meta("tokenizer.chat_template")
    for text, told in ((own, 0), ("{{ messages[0].content }}", 1)):
        (adapter / "chat_template.jinja").write_text(str(text), encoding="utf-8")
        notes = merged_source(base, open_adapters(adapter)).notes
        assert sum("the chat template is that of" in note for note in notes) == told
