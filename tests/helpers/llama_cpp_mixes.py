"""What llama.cpp's own quantization gives every tensor, recorded.

`llama_model_quantize` is in a native build of llama.cpp alone (llama-cpp-python), so what it
answers is kept as hashes: `PYTHONPATH=tests python -m helpers.llama_cpp_mixes` writes them again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import tempfile
from pathlib import Path

import numpy as np

from helpers.making import gguf_file, metadata_of_a_llama
from kanna import families
from kanna.model import Model, columns
from kanna.plan import gguf
from kanna.sources import open_source

RECORDED = Path(__file__).parent.parent / "golden" / "llama_cpp_mixes.json"
LINE = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)\s.*?type =\s*(\S+),.*?(?:\((\S+)\))?\s*$")
LAYERS = 17

# Models that the rules tell apart: grouped heads or not, tied or not, experts, narrow rows, 80
# layers.
MODELS = {
    "grouped": {"kv_heads": 1},
    "equal heads": {"kv_heads": 4},
    "untied": {"kv_heads": 2, "untied": True},
    "narrow": {"kv_heads": 2, "hidden": 96},
    "eight experts": {"kv_heads": 1, "experts": 8},
    "four experts": {"kv_heads": 4, "experts": 4},
    "seventy billion": {"kv_heads": 1, "layers": 80},
}


def make(
    path: Path,
    *,
    kv_heads: int,
    hidden: int = 256,
    layers: int = LAYERS,
    experts: int = 0,
    untied: bool = False,
) -> Path:
    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, np.float16 if len(shape) > 1 else np.float32)

    tensors = {"token_embd.weight": ones(32, hidden), "output_norm.weight": ones(hidden)}
    if untied:
        tensors["output.weight"] = ones(32, hidden)
    lead = (experts,) if experts else ()
    suffix = "_exps" if experts else ""
    for i in range(layers):
        tensors |= {
            f"blk.{i}.attn_norm.weight": ones(hidden),
            f"blk.{i}.attn_q.weight": ones(hidden, hidden),
            f"blk.{i}.attn_k.weight": ones(hidden // 4 * kv_heads, hidden),
            f"blk.{i}.attn_v.weight": ones(hidden // 4 * kv_heads, hidden),
            f"blk.{i}.attn_output.weight": ones(hidden, hidden),
            f"blk.{i}.ffn_norm.weight": ones(hidden),
            f"blk.{i}.ffn_gate{suffix}.weight": ones(*lead, hidden, hidden),
            f"blk.{i}.ffn_up{suffix}.weight": ones(*lead, hidden, hidden),
            f"blk.{i}.ffn_down{suffix}.weight": ones(*lead, hidden, hidden),
        }
        if experts:
            tensors[f"blk.{i}.ffn_gate_inp.weight"] = np.ones((experts, hidden), np.float32)
    meta = metadata_of_a_llama(
        layers=layers, hidden=hidden, heads=4, kv_heads=kv_heads, feed=hidden
    )
    meta |= {"llama.vocab_size": 32, "llama.rope.dimension_count": hidden // 4}
    if experts:
        meta |= {"llama.expert_count": experts, "llama.expert_used_count": 2}
    return gguf_file(path, tensors, meta)


def llama_cpp_types(
    source: Path, file_type: int, weights: dict[str, np.ndarray] | None
) -> dict[str, str]:
    """What llama.cpp would give each tensor, from the log of its dry run."""
    import llama_cpp

    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def log(level: int, text: bytes, data: object) -> None:
        lines.append(text.decode(errors="replace"))

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.allow_requantize = file_type, True, True
    if weights:
        held = [np.ascontiguousarray(w, np.float32) for w in weights.values()]
        entries = (llama_cpp.llama_model_imatrix_data * (len(held) + 1))()
        for slot, name, data in zip(entries, weights, held, strict=False):
            slot.name = name.encode()
            slot.data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            slot.size = data.size
        params.imatrix = entries
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    try:
        status = llama_cpp.llama_model_quantize(
            str(source).encode(), b"/dev/null", ctypes.byref(params)
        )
    finally:
        llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))
    text = "".join(lines)
    assert status == 0, text[-2000:]
    types: dict[str, str] = {}
    for line in text.splitlines():
        if match := LINE.search(line):
            types[match[1]] = (match[3] or match[2]).lower()
    return types


def importance(model: Model) -> dict[str, np.ndarray]:
    """An importance matrix of ones."""
    return {
        name: np.ones((t.shape[0], columns(t)) if len(t.shape) == 3 else columns(t), np.float32)
        for name, t in model.tensors.items()
        if name.startswith("blk") and len(t.shape) > 1
    }


def presets() -> list[str]:
    """Presets that llama.cpp has mixes for."""
    return [n for n in gguf.names() if gguf.get(n).base not in ("f32", "f16", "bf16")]


def without_answer(preset: str, model: Model) -> bool:
    """llama.cpp fails here: it has no fallback for Q1_0."""
    return preset == "Q1_0" and columns(model.tensors["token_embd.weight"]) % 128 != 0


def digest(types: dict[str, str]) -> str:
    """A hash of the type of every tensor."""
    lines = "".join(f"{name} {kind}\n" for name, kind in sorted(types.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def main() -> None:
    """Ask llama.cpp, and write what it answers."""
    answers: dict[str, str] = {}
    for shape, recipe in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder) / "m.gguf", **recipe)
            model = families.load_model(open_source(path))
            for preset in presets():
                if without_answer(preset, model):
                    continue
                for way, weights in (("plain", None), ("imatrix", importance(model))):
                    types = llama_cpp_types(path, gguf.get(preset).file_type, weights)
                    answers[f"{shape}, {preset}, {way}"] = digest(types)
    RECORDED.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
