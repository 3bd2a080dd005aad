"""Adapters beside an ONNX base, switched for each request: what PEFT computes with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, tiny_adapters
from helpers.gateways import Local, local
from helpers.tiny_adapters import of_peft

import kanna
from kanna.errors import FormatError
from kanna.serving.adapter_names import by_id, names
from kanna.serving.engines.onnx_decoder import OnnxDecoder
from kanna.serving.problems import ApiError

needs.package("peft")
needs.package("onnxruntime_genai")
IDS = list(range(5, 40))
PROMPT = "The quick brown fox jumps over"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx-adapters")


@pytest.fixture(scope="module")
def peft(home: Path) -> Any:
    """PEFT's model with both adapters, `tone` and `style`, and their files beside its base."""
    source, model = home / "source", tiny_adapters.two(home, "tone")
    out = home / "served"
    kanna.convert(source, out, adapter=home / "tone", preset="onnx:fp32", threads=1)
    (out / "adapter.onnx_adapter").rename(home / "tone.onnx_adapter")
    kanna.convert(
        source, home / "style.onnx_adapter", adapter=home / "style", format="onnx", threads=1
    )
    return model


def files(home: Path) -> list[Path]:
    return [home / "tone.onnx_adapter", home / "style.onnx_adapter"]


@pytest.mark.slow
def test_rows_of_one_batch_have_adapters_of_their_own(home: Path, peft: Any) -> None:
    decoder = OnnxDecoder(home / "served", context=64, rows=4, threads=1, adapters=files(home))
    rows = [((0, 1.0),), ((0, 1.0),), (), ((0, 1.0), (1, 1.0))]
    wanted = [["default"], ["default"], [], ["default", "style"]]
    exact = [of_peft(peft, names, IDS) for names in wanted]
    assert np.abs(exact[0] - exact[2]).max() > 1e-2 < np.abs(exact[0] - exact[3]).max()
    for row, adapters in enumerate(rows):
        assert decoder.begin(adapters) == row
        read = decoder.read(row, IDS[:-2], len(IDS) - 2)
        np.testing.assert_allclose(read, exact[row][:-2], atol=2e-4)
    np.testing.assert_allclose(decoder.step([IDS[-2]] * 4), [e[-2] for e in exact], atol=2e-4)
    decoder.move(3, 1)
    decoder.end(3)
    three = [exact[0][-1], exact[3][-1], exact[2][-1]]
    np.testing.assert_allclose(decoder.step([IDS[-1]] * 3), three, atol=2e-4)


@pytest.mark.slow
def test_a_scale_is_that_of_the_change(home: Path, peft: Any) -> None:
    decoder = OnnxDecoder(home / "served", context=64, rows=1, threads=1, adapters=files(home))
    base, tuned = (
        of_peft(peft, [], IDS[:1]),
        of_peft(peft, ["default"], IDS[:1]),
    )
    seen = dict[float, np.ndarray]()
    for scale in (1e-3, 1.0):
        decoder.end(decoder.begin(((0, scale),)))
        seen[scale] = decoder.read(decoder.begin(((0, scale),)), IDS[:1], 1)
        decoder.end(0)
    np.testing.assert_allclose(seen[1.0], tuned, atol=2e-4)
    assert 0 < np.abs(seen[1e-3] - base).max() < np.abs(tuned - base).max() / 50


@pytest.mark.slow
def test_a_file_that_the_graph_has_no_place_for_is_refused(
    home: Path, peft: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx_adapter"
    broken.write_bytes(files(home)[0].read_bytes()[:100])
    with pytest.raises(FormatError, match="cannot read the adapter"):
        OnnxDecoder(home / "served", context=64, rows=1, threads=1, adapters=[broken])
    other = tmp_path / "other"
    wrong = tiny_adapters.make(home / "source", other, target_modules=["gate_proj"])
    assert wrong is not None
    alone = tmp_path / "other.onnx_adapter"
    kanna.convert(home / "source", alone, adapter=other, format="onnx", threads=1)
    with pytest.raises(FormatError, match="no input for"):
        OnnxDecoder(home / "served", context=64, rows=1, threads=1, adapters=[alone])


@pytest.fixture(scope="module")
def gateway(home: Path, peft: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("gateway")
    with local(home / "served", folder, replay=False, adapters=files(home)) as running:
        yield running


@pytest.mark.slow
def test_each_request_has_the_adapters_that_it_names(gateway: Local, home: Path, peft: Any) -> None:
    import tokenizers

    tokenizer: Any = tokenizers.Tokenizer.from_file(str(home / "source" / "tokenizer.json"))

    def wanted(names: list[str]) -> str:
        ids = list(tokenizer.encode(PROMPT).ids)
        start = len(ids)
        for _ in range(12):
            ids.append(int(of_peft(peft, names, ids)[-1].argmax()))
        return tokenizer.decode(ids[start:])

    texts = {
        "": wanted([]),
        "tone": wanted(["default"]),
        "style": wanted(["style"]),
        "both": wanted(["default", "style"]),
    }
    assert len(set(texts.values())) == 4
    asked: dict[str, Any] = {
        "": [],
        "tone": [{"id": 0, "scale": 1}],
        "style": [{"name": "style"}],
        "both": None,
    }
    for which, lora in asked.items():
        body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        body |= {} if lora is None else {"lora": lora}
        status, answer = gateway.post("/v1/completions", body)
        assert (status, answer["choices"][0]["text"]) == (200, texts[which]), which
    for lora, reason in (
        ([{"name": "absent"}], "there are: tone, style"),
        ([{"id": 7}], "invalid lora adapter 7"),
        ([{"scale": 1}], "either an id or a name"),
    ):
        status, answer = gateway.post("/v1/completions", {"prompt": PROMPT, "lora": lora})
        assert status == 400 and reason in answer["error"]["message"]


def test_names_are_those_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/adapter.gguf", "b/adapter.gguf", "tone.gguf")]
    assert names(paths) == ["a/adapter", "b/adapter", "tone"]
    assert by_id([{"name": "b/adapter", "scale": 0.5}, {"id": 2}], paths, "lora") == [
        {"id": 0, "scale": 0.0},
        {"id": 1, "scale": 0.5},
        {"id": 2, "scale": 1.0},
    ]
    assert [one["scale"] for one in by_id([], paths, "lora")] == [0.0, 0.0, 0.0]
    for wrong in ({"name": "adapter"}, {"name": "tone", "id": 2}, {}):
        with pytest.raises(ApiError) as error:
            by_id([wrong], paths, "lora")
        assert error.value.status == 400
