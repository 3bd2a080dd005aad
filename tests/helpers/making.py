"""Small files made byte by byte or by the reference writers, for tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

KNOWN_DTYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint8": "U8"}


def metadata_of_a_llama(
    *, layers: int, hidden: int, heads: int, kv_heads: int, feed: int
) -> dict[str, Any]:
    return {
        "llama.block_count": layers,
        "llama.embedding_length": hidden,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.feed_forward_length": feed,
        "llama.context_length": 512,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": 64,
    }


def gguf_file(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any], arch: str = "llama"
) -> Path:
    """Write a GGUF with gguf-py, the reference writer."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def safetensors_bytes(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with any header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def text(value: str) -> bytes:
    """A GGUF string."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_bytes(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int | None = None,
    keys: int | None = None,
    body: bytes = b"",
    infos: tuple[bytes, ...] = (),
    kvs: tuple[bytes, ...] = (),
    data: bytes = b"",
) -> bytes:
    """A GGUF file with any counts, true or not."""
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(infos) if tensors is None else tensors,
        len(kvs) if keys is None else keys,
    )
    out = head + b"".join(kvs) + b"".join(infos) + body
    out += bytes(-len(out) % 32)
    return out + data


def info(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    """A tensor info; `shape` fastest axis first, as ggml has it."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
