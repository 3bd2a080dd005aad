"""OpenVINO folders: the verbs take them, and openvino-genai itself loads them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from helpers import engine_artefacts, tiny_models
from helpers.gateways import local

from kanna import bench, convert, evaluate, formats, generate, inspect, verify
from kanna.formats.openvino import tokenizers
from kanna.generation import close

for _package in ("openvino", "openvino_genai", "openvino_tokenizers", "torch"):
    pytest.importorskip(_package)

PROMPT = "Once upon a time there was a small model"
GENAI = """
import json, sys
import kanna
import openvino_genai
folder, prompt = sys.argv[1:]
pipe = openvino_genai.LLMPipeline(
    folder, "CPU", INFERENCE_PRECISION_HINT="f32")
config = openvino_genai.GenerationConfig(
    max_new_tokens=12, do_sample=False, ignore_eos=True, apply_chat_template=False)
tokens = pipe.get_tokenizer().encode(prompt).input_ids.data[0].tolist()
chat = pipe.get_tokenizer().apply_chat_template([{"role": "user", "content": "hi"}], False)
print(json.dumps([tokens, pipe.generate(prompt, config), chat]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder with a tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("source") / "decoder"
    folder.mkdir()
    engine_artefacts.source(folder)
    return folder


@pytest.fixture(scope="module")
def artefact(source: Path) -> Iterator[Path]:
    """Its folder in 8 bits."""
    out = source.parent / "int8"
    convert(source, out, preset="openvino:int8", threads=1)
    yield out
    close()


def test_stock_openvino_genai_generates_what_transformers_does(
    source: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert(source, tmp_path / "f32", preset="openvino:f32", threads=1)
    command = [sys.executable, "-c", GENAI, str(tmp_path / "f32"), PROMPT]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    ids, text, chat = json.loads(ran.stdout.splitlines()[-1])
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    given = tokenizer(PROMPT, return_tensors="pt").input_ids
    assert ids == given[0].tolist()
    with torch.no_grad():
        made = model.generate(
            given, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=511
        )
    assert text == tokenizer.decode(made[0, given.shape[1] :], skip_special_tokens=True)
    talk = [{"role": "user", "content": "hi"}]
    assert chat == tokenizer.apply_chat_template(talk, tokenize=False)


DEFAULTS = """
import json, sys
import kanna
import numpy, openvino
folder, ids = sys.argv[1], json.loads(sys.argv[2])
compiled = openvino.Core().compile_model(folder + "/openvino_model.xml", "CPU")
given = [numpy.array([ids]), numpy.ones((1, len(ids)), int), numpy.arange(len(ids))[None]]
rows = compiled([*given, numpy.zeros(1, numpy.int32)])["logits"][0]
group = compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
print(json.dumps([group, str(compiled.get_property("KV_CACHE_PRECISION")), rows.tolist()]))
"""


def test_stock_openvino_rounds_no_inputs_where_nobody_says_so(
    source: Path, artefact: Path, tmp_path: Path
) -> None:
    """Loaded without any option, its next tokens are those of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    convert(source, tmp_path / "f32", preset="openvino:f32", threads=1)
    ids = list(range(3, 99))
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    for folder, kept in ((artefact, "uint8"), (tmp_path / "f32", "float32")):
        command = [sys.executable, "-c", DEFAULTS, str(folder), json.dumps(ids)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        group, cache, rows = json.loads(ran.stdout.splitlines()[-1])
        assert int(group) == 0 and kept in cache
        assert (np.array(rows).argmax(1) == wanted.argmax(1)).mean() >= 0.8, (
            "bfloat16 alone may cost"
        )


def test_the_gate_proves_it_and_refuses_another(
    source: Path, artefact: Path, tmp_path: Path
) -> None:
    result = verify(source, artefact, threads=1)
    assert result.status == "proved", result
    assert {"tensor values", "chat template", "logits, long prompt"} <= {
        c.name for c in result.checks
    }
    tiny_models.make("smollm", tmp_path / "other", seed=1)
    assert verify(tmp_path / "other", artefact, threads=1).status == "failed"


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
def test_graphs_whose_process_the_system_ends_are_not_called_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in tokenizers.graphs.TOKENIZERS:
        (tmp_path / name).touch()
    monkeypatch.setattr(tokenizers, "module_command", lambda *_: ["sh", "-c", "kill -KILL $$"])
    checked = tokenizers.check(tmp_path)
    assert checked.ok is None and "want of memory" in checked.detail


def test_verbs_take_it(source: Path, artefact: Path, tmp_path: Path) -> None:
    assert formats.of(artefact).name == "openvino"
    shown = inspect(artefact)
    assert (shown.kind, shown.family) == ("OpenVINO folder", "llama")
    assert "--preset int8" in shown.provenance["kanna.command"]
    assert isinstance("".join(generate(artefact, "Once upon", max_tokens=3)), str)
    text = tmp_path / "text.txt"
    text.write_text("The plane takes a shaving so thin that light passes through it. " * 40)
    scored = evaluate(artefact, reference=source, text=text, context=64, windows=2, threads=1)
    assert 0 <= scored.kl_mean < 0.05
    [row] = bench([artefact], prompt_tokens=32, gen_tokens=4, repeat=1, threads=1)
    assert row.runtime == "openvino" and row.prompt_tps > 0


def test_its_size_is_known_before(source: Path, artefact: Path, tmp_path: Path) -> None:
    planned = convert(source, tmp_path / "dry", preset="openvino:int8", dry_run=True)
    assert planned.file_bytes == sum(p.stat().st_size for p in artefact.glob("openvino_model.*"))


def test_stock_openvino_genai_takes_scores_with_a_cap(tmp_path: Path) -> None:
    """It cannot page such attention, and says nothing of it: the tokens are transformers'."""
    import torch
    from transformers import AutoTokenizer

    model = tiny_models.make("gemma2", tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "f32", preset="openvino:f32", threads=1)
    command = [sys.executable, "-c", GENAI, str(tmp_path / "f32"), PROMPT * 8]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    ids, text, _ = json.loads(ran.stdout.splitlines()[-1])
    assert len(ids) > 32, "beyond the window"
    made = model.generate(
        torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=511
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "source")
    assert text == tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)


@pytest.mark.slow
def test_the_real_gemma_3_passes_the_gate_and_is_served(tmp_path: Path) -> None:
    """Beyond its window of 512 tokens, too; the gateway's attention is paged."""
    convert("builtin:gemma3-270m", tmp_path / "int8", preset="openvino:int8", threads=1)
    result = verify("builtin:gemma3-270m", tmp_path / "int8", threads=1)
    assert result.status == "proved", result
    assert next(c for c in result.checks if c.name == "logits, long prompt").ok
    prompt = "The capital of France is"
    text = "".join(generate(tmp_path / "int8", prompt, max_tokens=5, temperature=0.0))
    with local(tmp_path / "int8", tmp_path / "gateway", slots=1, replay=False) as running:
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
        answer = client.completions.create(
            model=client.models.list().data[0].id,
            prompt=prompt,
            max_tokens=5,
            temperature=0,
        )
    assert text and answer.choices[0].text == text
