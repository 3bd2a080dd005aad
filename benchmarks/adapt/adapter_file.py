"""Whether an adapter alone in GGUF computes what PEFT computes, in llama.cpp.

    python -m benchmarks.adapt.adapter_file

The base is SmolLM2-135M-Instruct's shape and weights in float32, cut to its first layers; adapters
are PEFT's own, with random values of the size that training gives. DoRA is merged by
`kanna merge`, since no runtime applies it beside a base. `KL` is the mean divergence, PEFT ‖
llama.cpp, in nats over the whole vocabulary; `base` is that of the base alone: what llama.cpp and
transformers differ by without any adapter. `effect` is that of the base from PEFT's model: how much
there was to compute.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import arguments, tables

import kanna
from kanna.evaluation.divergence import compare
from kanna.runtimes.llamacpp import RUNTIME

LAYERS = 6
_TOKENS = 96
_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "LoRA": {"r": 16, "lora_alpha": 32},
    "rsLoRA": {"r": 16, "lora_alpha": 32, "use_rslora": True},
    "alpha and rank patterns": {
        "r": 16,
        "lora_alpha": 32,
        "alpha_pattern": {"q_proj": 64, r".*layers\.1\.mlp\.down_proj": 5},
        "rank_pattern": {"k_proj": 4},
    },
    "DoRA, merged": {"r": 16, "lora_alpha": 32, "use_dora": True},
}


def main() -> None:
    options = arguments.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        folder = home / "base"
        _cut(folder)
        rows = [_case(home, folder, name, config) for name, config in CASES.items()]
    tables.print_rows(rows, options.json)


def _cut(folder: Path) -> None:
    """SmolLM2-135M in float32, its first layers alone."""
    import transformers

    whole = folder.with_name("whole")
    kanna.convert("builtin:smollm2-135m", whole, format="safetensors", encoding="f32", threads=1)
    model = transformers.AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=LAYERS)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((whole / name).read_bytes())


def _case(home: Path, folder: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=_MODULES, **config)
        ).eval()
        with torch.no_grad():
            for key, value in adapted.named_parameters():
                if "lora_B" in key:
                    value.normal_(0.0, 0.02)
        adapter = home / "adapter" / name.replace(" ", "-")
        adapted.save_pretrained(str(adapter))
    ids = np.random.default_rng(7).integers(3, 40000, _TOKENS).tolist()
    with torch.no_grad():
        wanted = adapted(torch.tensor([ids])).logits[0].numpy()
        with adapted.disable_adapter():
            before = adapted(torch.tensor([ids])).logits[0].numpy()
    whole = home / "base.gguf"
    if not whole.exists():
        kanna.convert(folder, whole, preset="F32", threads=1)
    alone = home / "lora.gguf"
    if "merged" in name:
        kanna.merge(folder, adapter, alone, preset="F32", threads=1, overwrite=True)
        given = _logits(alone, ids, {})
    else:
        kanna.convert(folder, alone, adapter=adapter, threads=1, overwrite=True)
        given = _logits(whole, ids, {alone: 1.0})
    return {
        "adapter": name,
        "KL": _kl(wanted, given),
        "base": _kl(before, _logits(whole, ids, {})),
        "effect": _kl(wanted, before),
    }


def _logits(path: Path, ids: list[int], adapters: dict[str | Path, float]) -> np.ndarray:
    with RUNTIME.open(path, context=128, threads=1, adapters=adapters) as engine:
        return np.array(engine.logits(ids, first=0))


def _kl(wanted: np.ndarray, given: np.ndarray) -> float:
    _, [scores] = compare(wanted[:-1], [given[:-1]], np.zeros(len(wanted) - 1, np.int64), threads=1)
    return float(scores.kl.mean())


if __name__ == "__main__":
    main()
