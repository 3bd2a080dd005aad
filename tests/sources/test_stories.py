"""The wide stories15M: the same function as the narrow one, and the same bytes on every machine."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from kanna.sources import packages, stories

# Width, MLP, layers, heads, heads of keys, tokens, context: as stories15M, but fewer tokens.
HEADER = (288, 768, 2, 6, 6, 300, 256)


def _llama2c(folder: Path) -> tuple[Path, Path]:
    """Random weights and a vocabulary of bytes and letters in llama2.c's layout."""
    dim, mlp, layers, _, _, vocab, _ = HEADER
    count = vocab * dim + layers * (2 * dim + 4 * dim * dim + 3 * mlp * dim) + dim
    random = np.random.RandomState(1)
    data = struct.pack("<7i", *HEADER) + random.normal(0, 0.2, count).astype("<f4").tobytes()
    (folder / "weights.bin").write_bytes(data)
    texts = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *[bytes([i]) for i in range(256)]]
    texts += [t.encode() for t in (" ", "a", "b", " a", "ab", " ab")]
    texts += [chr(0x4E00 + i).encode() for i in range(vocab - len(texts))]
    tokens = b"".join(struct.pack("<fi", -float(i), len(t)) + t for i, t in enumerate(texts))
    (folder / "tokenizer.bin").write_bytes(struct.pack("<i", 9) + tokens)
    return folder / "weights.bin", folder / "tokenizer.bin"


def test_values_that_stand_twice_keep_every_product() -> None:
    spread = stories.spread(288, 512, np.random.RandomState(3))
    x, y = np.random.RandomState(4).standard_normal((2, 288, 7)).astype(np.float32)
    assert np.allclose(spread.rows(x).T @ spread.rows(y), x.T @ y, atol=1e-4)
    assert np.bincount(spread.origin).max() == 2 and len(spread.origin) == 512


def test_the_folder_computes_what_llama2c_does(tmp_path: Path) -> None:
    """In transformers, against the narrow weights under the narrow config."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    weights, vocabulary = _llama2c(tmp_path)
    out = tmp_path / "wide"
    out.mkdir()
    stories.write(out, weights, vocabulary)
    wide = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.tensor([[1, 260, 264, 261, 33, 262]])
    with torch.no_grad():
        logits = wide(ids).logits[0].numpy()
    narrow = _narrow_logits(weights, ids[0].tolist())
    assert np.abs(narrow).max() > 0.3
    # What is left is rounding to float16.
    assert np.abs(logits - narrow).max() < 0.01 * np.abs(narrow).max()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer("ab é")["input_ids"] == [1, 264, 259, 198, 172]
    assert tokenizer.decode([1, 264, 260], skip_special_tokens=True) == "aba"


def _narrow_logits(path: Path, ids: list[int]) -> np.ndarray:
    """llama2.c's forward pass, in numpy."""
    dim, mlp, layers, heads, _, vocab, _ = HEADER
    flat, at = np.fromfile(path, "<f4", offset=28).astype(np.float64), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return flat[at - int(np.prod(shape)) : at].reshape(shape)

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight

    table = take(vocab, dim)
    att_norm, q, k, v, o = take(layers, dim), *(take(layers, dim, dim) for _ in range(4))
    ffn_norm, gate = take(layers, dim), take(layers, mlp, dim)
    down, up, last = take(layers, dim, mlp), take(layers, mlp, dim), take(dim)
    count, head = len(ids), dim // heads
    angle = np.arange(count)[:, None] * 10000.0 ** (-np.arange(0, head, 2) / head)
    turn = np.exp(1j * angle)[:, None, :]

    def rotate(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(count, heads, head // 2, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(count, heads, head)

    x = table[ids]
    for i in range(layers):
        h = norm(x, att_norm[i])
        queries, keys = rotate(h @ q[i].T), rotate(h @ k[i].T)
        values = (h @ v[i].T).reshape(count, heads, head)
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(head)
        scores[:, ~np.tri(count, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", weights, values).reshape(count, dim) @ o[i].T
        h = norm(x, ffn_norm[i])
        silu = (g := h @ gate[i].T) / (1 + np.exp(-g))
        x = x + (silu * (h @ up[i].T)) @ down[i].T
    return norm(x, last) @ table.T


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    weights, vocabulary = _llama2c(tmp_path)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        stories.write(folder, weights, vocabulary)
    for file in folders[0].iterdir():
        assert file.read_bytes() == (folders[1] / file.name).read_bytes()


def test_the_text_is_in_the_package() -> None:
    assert len(packages.stories_text().read_text(encoding="utf-8")) > 30_000
