"""The sources the benchmarks run on, made from packaged weights and kept in the cache.

dithered
    SmolLM2-135M with its old Q4_1 grid broken: every quantized weight gets uniform noise of half a
    step of its own block, so that no encoding is flattered by where the weights come from.
widened
    The same weights in a residual stream of 768 instead of 576, by a random orthogonal map: the
    function is the same, the grid is gone, and rows are whole multiples of 256. The rotation evens
    out channel importance, which may handicap importance-weighted encoders: rows are marked.
stories
    stories15M, the only float weights a package carries; 288 columns.
stories_wide
    The same in float16, its rows 512 wide, so that every K-type is real in it.
gemma3
    Gemma-3-270M as a Hugging Face folder in bfloat16, from its packaged Q4_K_M file.
gemma3_dithered
    The same with its grid broken like SmolLM2's, as an F16 GGUF. A plan that finds a grid keeps its
    matrices without error, which says little of other models.
small_moe
    A small model with experts, trained here: see small_moe.py.
hollow
    Llama-3-8B's shapes and tokenizer over weights that are one hole in a sparse file.
hollow_experts
    The same of Qwen3-30B-A3B: 128 experts in each layer, a matrix each.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from benchmarks.common import llamacpp, sentencepiece_model, stories15m
from benchmarks.common.small_moe import small_moe as small_moe

import kanna
from kanna.sources import packages

SEED = 20260101
NAMES = (
    "widened",
    "dithered",
    "stories",
    "stories_wide",
    "gemma3",
    "gemma3_dithered",
    "small_moe",
)
"""The models that `optimize` is measured on."""
HIDDEN, WIDE = 576, 768
"""Width of SmolLM2-135M's residual stream, and of the widened one."""
HEAD = 64


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], gguf.GGUFReader]:
    """Tensors as float32 and the step of each weight's block (zero where it was not quantized)."""
    reader = gguf.GGUFReader(path)
    values: dict[str, np.ndarray] = {}
    steps: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        x = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values[tensor.name] = x
        blocks = np.sort(x.reshape(-1, 32), axis=1) if x.ndim == 2 else None
        if blocks is not None:
            gaps = np.diff(blocks, axis=1)
            gaps[gaps <= 1e-9] = np.inf
            step = gaps.min(axis=1)
            steps[tensor.name] = np.repeat(np.where(np.isfinite(step), step, 0), 32).reshape(
                x.shape
            )
    return values, steps, reader


def _write(
    path: Path, reader: gguf.GGUFReader, tensors: dict[str, np.ndarray], changed: dict[str, Any]
) -> Path:
    """Write an F16 GGUF with the source's metadata, some of it changed; 1-D tensors stay F32."""
    arch = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path.with_suffix(".partial"), arch)
    for key, part in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        value = changed.get(key, part.contents())
        kind = part.types[0]
        sub = part.types[1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, kind, sub)
    writer.add_uint32("general.file_type", 1)
    for name, x in tensors.items():
        writer.add_tensor(name, x.astype(np.float16 if x.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".partial").replace(path)
    return path


def _dither(values: dict[str, np.ndarray], steps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every weight moved by noise of half a step of its own block."""
    rng = np.random.default_rng(SEED)
    out: dict[str, np.ndarray] = {}
    for name, x in values.items():
        if name in steps:
            x = x + rng.uniform(-0.5, 0.5, x.shape).astype(np.float32) * steps[name]
        out[name] = x.astype(np.float32)
    return out


def _widen(values: dict[str, np.ndarray], num_layers: int) -> dict[str, np.ndarray]:
    """The tensors of a llama that computes the same in a wider residual stream.

    Norm weights are folded into the matrices that follow, heads filled up with rows of zeros, and
    the head is untied from the embedding.
    """
    rng = np.random.default_rng(SEED)
    # Orthonormal rows, [hidden, wide].
    rotation = np.linalg.qr(rng.standard_normal((WIDE, WIDE)))[0][:HIDDEN]
    shrink = np.sqrt(HIDDEN / WIDE)

    def reads(name: str, norm: str) -> np.ndarray:
        return (values[name] * values[norm]) @ rotation * shrink

    def writes(name: str) -> np.ndarray:
        return rotation.T @ values[name]

    def pad(x: np.ndarray, rows: int, cols: int) -> np.ndarray:
        return np.pad(x, ((0, rows - x.shape[0]), (0, cols - x.shape[1])))

    ones = np.ones(WIDE, np.float32)
    out = {"token_embd.weight": values["token_embd.weight"] @ rotation, "output_norm.weight": ones}
    values = values | {"output.weight": values.get("output.weight", values["token_embd.weight"])}
    out["output.weight"] = reads("output.weight", "output_norm.weight")
    for i in range(num_layers):
        b = f"blk.{i}."
        out[b + "attn_norm.weight"] = out[b + "ffn_norm.weight"] = ones
        for part, rows in (("attn_q", 12 * HEAD), ("attn_k", 4 * HEAD), ("attn_v", 4 * HEAD)):
            out[b + part + ".weight"] = pad(
                reads(f"{b}{part}.weight", b + "attn_norm.weight"), rows, WIDE
            )
        out[b + "attn_output.weight"] = pad(writes(b + "attn_output.weight"), WIDE, 12 * HEAD)
        for part in ("ffn_gate", "ffn_up"):
            out[b + part + ".weight"] = reads(f"{b}{part}.weight", b + "ffn_norm.weight")
        out[b + "ffn_down.weight"] = writes(b + "ffn_down.weight")
    return {name: np.ascontiguousarray(x, dtype=np.float32) for name, x in out.items()}


def _cached(name: str) -> Path:
    folder = packages.cache_dir() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def dithered() -> Path:
    """F16 GGUF of SmolLM2-135M-Instruct with its grid broken."""
    path = _cached("smollm2-135m-dithered-f16.gguf")
    if not path.exists():
        values, steps, reader = _read(packages.smollm2_gguf())
        _write(path, reader, _dither(values, steps), {})
    return path


def gemma3_dithered() -> Path:
    """F16 GGUF of Gemma-3-270M with its grid broken."""
    path = _cached("gemma-3-270m-dithered-f16.gguf")
    if not path.exists():
        values, steps, reader = _read(packages.gemma3_270m_gguf())
        _write(path, reader, _dither(values, steps), {})
    return path


def widened() -> Path:
    """F16 GGUF of SmolLM2-135M-Instruct with a residual stream of 768 values."""
    path = _cached("smollm2-135m-widened-f16.gguf")
    if not path.exists():
        values, _, reader = _read(packages.smollm2_gguf())
        num_layers = int(reader.fields["llama.block_count"].contents())
        epsilon = "llama.attention.layer_norm_rms_epsilon"
        changed = {
            "llama.embedding_length": WIDE,
            "llama.attention.head_count": 12,
            "llama.attention.head_count_kv": 4,
            epsilon: float(reader.fields[epsilon].contents()) * HIDDEN / WIDE,
        }
        _write(path, reader, _widen(values, num_layers), changed)
    return path


def stories() -> Path:
    """F32 GGUF of stories15M."""
    path = _cached("stories15m-f32.gguf")
    if not path.exists():
        stories15m.write(path.with_suffix(".partial"), *packages.stories15m())
        path.with_suffix(".partial").replace(path)
    return path


def stories_wide() -> Path:
    """F16 GGUF of stories15M with rows of 512 values."""
    path = _cached("stories15m-wide-f16.gguf")
    if not path.exists():
        kanna.convert(packages.stories15m_wide(), path, preset="F16")
    return path


def stories_text() -> Path:
    """Forty stories sampled from stories15M's own distribution: WikiText is noise to it."""
    path = _cached("stories15m.txt")
    if not path.exists():
        # One thread: so small a model spends its time waiting for the second.
        options = {"max_tokens": 240, "temperature": 1, "top_p": 1, "context": 256, "threads": 1}
        stories_ = ["".join(kanna.generate(stories(), "", seed=i, **options)) for i in range(40)]
        path.write_text("\n".join(stories_), encoding="utf-8")
    return path


def gemma3() -> Path:
    """Hugging Face folder of Gemma-3-270M in bfloat16, with both tokenizer files as on the hub."""
    folder = _cached("gemma-3-270m-bf16")
    if not (folder / "tokenizer.model").exists():
        shutil.rmtree(folder, ignore_errors=True)
        kanna.convert("builtin:gemma3-270m", folder, format="safetensors", encoding="bf16")
        fields = gguf.GGUFReader(packages.gemma3_270m_gguf()).fields
        columns = (
            fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type")
        )
        pieces = zip(*columns, strict=True)
        (folder / "tokenizer.model").write_bytes(sentencepiece_model.encode(pieces))
    return folder


HOLLOW_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
"""Llama-3-8B's, but for the number of layers."""


HOLLOW_1B_CONFIG: dict[str, Any] = HOLLOW_CONFIG | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B's, but for the number of layers."""


HOLLOW_EXPERTS_CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
"""Qwen3-30B-A3B's, but for the number of layers."""


def hollow(layers: int = 32) -> Path:
    """Hugging Face folder in the shape of Llama-3-8B, or of its first layers.

    Its weights are bfloat16 zeros that take no disk.
    """
    folder = _cached(f"hollow-8b-{layers}")
    return _hollow(folder, "llama3", HOLLOW_CONFIG, layers, _llama_shapes(HOLLOW_CONFIG, layers))


def hollow_1b(layers: int = 16) -> Path:
    """The same in the shape of Llama-3.2-1B, or of its first layers."""
    folder, config = _cached(f"hollow-1b-{layers}"), HOLLOW_1B_CONFIG
    return _hollow(folder, "llama3", config, layers, _llama_shapes(config, layers))


def hollow_experts(layers: int = 48) -> Path:
    """The same in the shape of Qwen3-30B-A3B, or of its first layers."""
    folder = _cached(f"hollow-30b-a3b-{layers}")
    return _hollow(folder, "qwen3", HOLLOW_EXPERTS_CONFIG, layers, _expert_shapes(layers))


def _hollow(
    folder: Path, tokenizer: str, config: dict[str, Any], layers: int, shapes: dict[str, list[int]]
) -> Path:
    if not (folder / "model.safetensors").exists():
        folder.mkdir(exist_ok=True)
        for file in packages.tokenizer(tokenizer).glob("*.json"):
            shutil.copy(file, folder)
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
        _write_zeros(folder / "model.safetensors", shapes)
    return folder


def _expert_shapes(layers: int) -> dict[str, list[int]]:
    """Shapes of the weights of Qwen3-30B-A3B's first layers, embedding, head and last norm."""
    shapes = {"model.embed_tokens": [151936, 2048], "lm_head": [151936, 2048], "model.norm": [2048]}
    for i in range(layers):
        b = f"model.layers.{i}."
        shapes |= {b + "self_attn.q_proj": [4096, 2048], b + "self_attn.o_proj": [2048, 4096]}
        shapes |= {b + "self_attn.k_proj": [512, 2048], b + "self_attn.v_proj": [512, 2048]}
        shapes |= {b + "self_attn.q_norm": [128], b + "self_attn.k_norm": [128]}
        shapes |= {b + "input_layernorm": [2048], b + "post_attention_layernorm": [2048]}
        shapes |= {b + "mlp.gate": [128, 2048]}
        for expert in range(128):
            e = f"{b}mlp.experts.{expert}."
            shapes |= {e + "gate_proj": [768, 2048], e + "up_proj": [768, 2048]}
            shapes |= {e + "down_proj": [2048, 768]}
    return shapes


def _llama_shapes(config: dict[str, Any], layers: int) -> dict[str, list[int]]:
    """Shapes of the weights of a Llama's first layers, embedding, head and last norm."""
    vocab, hidden, inner = (config[k] for k in ("vocab_size", "hidden_size", "intermediate_size"))
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens": [vocab, hidden], "model.norm": [hidden]}
    if not config["tie_word_embeddings"]:
        shapes["lm_head"] = [vocab, hidden]
    for i in range(layers):
        b = f"model.layers.{i}."
        shapes |= {b + "self_attn.q_proj": [hidden, hidden], b + "self_attn.o_proj": [hidden] * 2}
        shapes |= {b + "self_attn.k_proj": [keys, hidden], b + "self_attn.v_proj": [keys, hidden]}
        shapes |= {b + "mlp.gate_proj": [inner, hidden], b + "mlp.up_proj": [inner, hidden]}
        shapes |= {b + "mlp.down_proj": [hidden, inner]}
        shapes |= {b + "input_layernorm": [hidden], b + "post_attention_layernorm": [hidden]}
    return shapes


def _write_zeros(path: Path, shapes: dict[str, list[int]]) -> None:
    """Write a sparse safetensors file of bfloat16 zeros."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        header[name + ".weight"] = entry
    text = json.dumps(header).encode()
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + end)


def as_gguf(model: str) -> Path:
    """A GGUF of a model by its name here: llama.cpp's tools read nothing else."""
    path: Path = getattr(sys.modules[__name__], model)()
    if path.is_dir():
        path, folder = _cached(f"{path.name}.gguf"), path
        if not path.exists():
            kanna.convert(folder, path, encoding="bf16")
    return path


def imatrix(source: Path, chunks: int = 20) -> Path:
    """Importance matrix of a GGUF by llama-imatrix, on WikiText-2 validation, which none scores."""
    path = _cached(f"{source.stem}.imatrix.gguf")
    if not path.exists():
        partial = path.with_suffix(".partial")
        llamacpp.make_imatrix(source, packages.wikitext("valid"), partial, ["--chunks", chunks])
        partial.replace(path)
    return path
