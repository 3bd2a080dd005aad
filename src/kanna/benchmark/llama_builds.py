"""What a native build of llama.cpp gains here over the prebuilt one, where both are installed.

Both read the same model, made for it, in processes of their own and in turns; the ratio of medians
is kept in the cache folder, so that it is measured once per pair of versions and processor.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gguf
import numpy as np

from kanna import encodings, libllama
from kanna._util import own_files, verified
from kanna._util.processes import answer, ask
from kanna.errors import KannaError
from kanna.hardware.cpu import cpu
from kanna.libllama.builds import VARIABLE
from kanna.sources import packages

_ROUNDS = 3
_PROMPT, _ANSWER = 128, 64
_LAYERS, _HIDDEN, _FEED, _VOCABULARY = 6, 512, 1536, 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildGain:
    """How many times as fast as the prebuilt llama.cpp the native one is, on one thread.

    Attributes:
        prompt: Reading a prompt.
        generate: Making one token after another.
    """

    prompt: float
    generate: float

    def to_dict(self) -> dict[str, float]:
        """The same as JSON has it."""
        return asdict(self)


def gain() -> BuildGain | None:
    """What the native build gains here; None where not both builds load or the measurement fails.

    A few seconds the first time.
    """
    builds = {build.name: build for build in (libllama.PREBUILT, libllama.NATIVE)}
    try:
        versions = [libllama.load(build).version for build in builds.values()]
    except KannaError:
        return None
    key = hashlib.sha256(
        json.dumps([*versions, cpu().model, _PROMPT, _ANSWER]).encode()
    ).hexdigest()[:16]
    kept = packages.cache_dir() / "llama-builds" / f"{key}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        if not verified.unchanged(kept):
            raise ValueError(kept)
        return BuildGain(**json.loads(kept.read_text(encoding="utf-8")))
    try:
        measured = _measure(list(builds))
    except KannaError:
        return None
    with suppress(OSError):
        verified.keep(kept, json.dumps(measured.to_dict(), indent=1) + "\n")
    return measured


def _measure(builds: list[str]) -> BuildGain:
    times: dict[str, list[dict[str, Any]]] = {name: [] for name in builds}
    with own_files.scratch() as folder:
        path = Path(folder) / "speed.gguf"
        write_model(path)
        for turn in range(_ROUNDS):
            for name in builds if turn % 2 == 0 else builds[::-1]:
                task = {"path": str(path)}
                times[name].append(
                    ask(
                        "kanna.benchmark.llama_builds",
                        task,
                        f"measuring the {name} llama.cpp",
                        variables={VARIABLE: name},
                    )
                )
    prebuilt, native = (
        {key: median(run[key] for run in times[name]) for key in ("prompt", "generate")}
        for name in (libllama.PREBUILT.name, libllama.NATIVE.name)
    )
    return BuildGain(
        prompt=prebuilt["prompt"] / native["prompt"],
        generate=prebuilt["generate"] / native["generate"],
    )


def write_model(path: Path) -> None:
    """A small llama in Q4_K with weights of chance: what it says does not matter."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_FEED)
    writer.add_head_count(_HIDDEN // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCABULARY)
    writer.add_tokenizer_model("none")
    encoding = encodings.get("q4_k")
    values = np.random.default_rng(0).standard_normal((2048, _FEED), np.float32) * 0.02
    made = {
        columns: encoding.encode(np.ascontiguousarray(values[:, :columns]), method="nearest")
        for columns in (_HIDDEN, _FEED)
    }
    q4_k = gguf.GGMLQuantizationType.Q4_K
    shapes = {"attn_q": (_HIDDEN, _HIDDEN), "attn_k": (_HIDDEN, _HIDDEN)}
    shapes |= {"attn_v": (_HIDDEN, _HIDDEN), "attn_output": (_HIDDEN, _HIDDEN)}
    shapes |= {"ffn_gate": (_FEED, _HIDDEN), "ffn_up": (_FEED, _HIDDEN)}
    shapes |= {"ffn_down": (_HIDDEN, _FEED)}
    writer.add_tensor("token_embd.weight", made[_HIDDEN][:_VOCABULARY], raw_dtype=q4_k)
    writer.add_tensor("output_norm.weight", np.ones(_HIDDEN, np.float32))
    for layer in range(_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(_HIDDEN, np.float32))
        for name, (rows, columns) in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", made[columns][:rows], raw_dtype=q4_k)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure(path: str) -> dict[str, Any]:
    """What the child runs: processor seconds, which other programs change little."""
    from kanna.runtimes.llamacpp import RUNTIME

    ids = [1 + i % 97 for i in range(_PROMPT)]
    with RUNTIME.open(path, context=256, threads=1, gpu_layers=0) as engine:
        engine.logits(ids[:8], first=7)
        begin = time.process_time()
        engine.logits(ids, first=_PROMPT - 1)
        prompt = time.process_time() - begin
        begin = time.process_time()
        for token in ids[:_ANSWER]:
            engine.logits([token])
        return {"prompt": prompt, "generate": time.process_time() - begin}


if __name__ == "__main__":
    sys.exit(answer(measure))
