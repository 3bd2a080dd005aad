"""stories15M: from llama2.c's layout and tokenizer to a GGUF in float32.

Both use the interleaved form of the rotary embedding, so no row moves.
"""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np

# llama2.c stores plain spaces, bytes as the character of that number, and line breaks around the
# control tokens.
_NAMED = {1: "<s>", 2: "</s>"} | {3 + i: f"<0x{i:02X}>" for i in range(256)}


def _tokens(data: bytes, count: int) -> tuple[list[str], list[float], list[int]]:
    tokens: list[str] = []
    scores: list[float] = []
    at = 4  # the longest token's length
    for i in range(count):
        score, size = struct.unpack_from("<fi", data, at)
        at += 8 + size
        tokens.append(_NAMED.get(i) or data[at - size : at].decode().replace(" ", "▁"))
        scores.append(score)
    unknown, control, byte, normal = (
        getattr(gguf.TokenType, n) for n in ("UNKNOWN", "CONTROL", "BYTE", "NORMAL")
    )
    return tokens, scores, [unknown, control, control, *[byte] * 256, *[normal] * (count - 259)]


def write(out: Path, model: Path, tokenizer: Path) -> None:
    """Write the GGUF.

    Args:
        out: The file to write.
        model: llama2.c's weights: seven int32 of header, then float32 tensors, each kind of tensor
            for all layers together.
        tokenizer: llama2.c's tokenizer.
    """
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack(
        "<7i", model.read_bytes()[:28]
    )
    flat = np.fromfile(model, "<f4", offset=28)
    at = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return flat[at - int(np.prod(shape)) : at].reshape(shape)

    kv = dim // heads * kv_heads
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_tensor("token_embd.weight", take(vocab, dim))
    for part, shape in {
        "attn_norm": (dim,),
        "attn_q": (dim, dim),
        "attn_k": (kv, dim),
        "attn_v": (kv, dim),
        "attn_output": (dim, dim),
        "ffn_norm": (dim,),
        "ffn_gate": (hidden, dim),
        "ffn_down": (dim, hidden),
        "ffn_up": (hidden, dim),
    }.items():
        for i, x in enumerate(take(layers, *shape)):
            writer.add_tensor(f"blk.{i}.{part}.weight", x)
    writer.add_tensor("output_norm.weight", take(dim))
    writer.add_name("stories15M")
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(hidden)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens, scores, types = _tokens(tokenizer.read_bytes(), vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
