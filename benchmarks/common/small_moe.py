"""A small model with experts, trained here: `python -m benchmarks.common.small_moe`.

No package carries a model with experts of float weights. This one is a Qwen3 with 8 experts of
which each token takes two, 4 layers of 256 columns (9M weights, 4.7M of them active), trained on
WikiText-2 with a load-balancing loss for SECONDS on one core. The tokenizer is Qwen3's with 8,192
tokens of the same text. It lies in the cache and is made once (`make small-moe`); an interrupted
training starts anew.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from kanna.sources import packages

NAME = "small-moe"
SECONDS = 1000.0
"""CPU time of the training: another machine reaches another model."""
SEED, WINDOW, BATCH = 20260101, 256, 8
RATE, WARM = 2e-3, 50
CONFIG: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "norm_topk_prob": True,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.01,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def small_moe() -> Path:
    """Hugging Face folder of the model in float32."""
    folder = packages.cache_dir() / "benchmarks" / NAME
    if not (folder / "model.safetensors").is_file():
        made = folder.with_name(f"{NAME}.partial")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        text = packages.wikitext("train").read_text(encoding="utf-8")
        _train(made, np.array(_tokenizer(made, text).encode(text).ids, np.int64))
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    return folder


def _tokenizer(folder: Path, text: str) -> Any:
    """Qwen3's tokenizer with a small vocabulary of this text; writes its files."""
    import tokenizers

    theirs = packages.tokenizer("qwen3")
    tokenizer = tokenizers.Tokenizer.from_file(str(theirs / "tokenizer.json"))
    tokenizer = tokenizer.from_str(json.dumps(_emptied(json.loads(tokenizer.to_str()))))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


def _emptied(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer without tokens: it splits and decodes as before."""
    model = tokenizer["model"] | {"vocab": {}, "merges": []}
    return tokenizer | {"model": model, "added_tokens": []}


def _train(folder: Path, ids: np.ndarray) -> None:
    import torch
    import transformers

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**CONFIG)).float()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05, foreach=True
    )
    rng, began, step, loss = np.random.default_rng(SEED), time.process_time(), 0, 0.0
    while (done := (time.process_time() - began) / SECONDS) < 1:
        # Warmed up, then along a cosine to a twentieth.
        rate = min(1.0, (step + 1) / WARM) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate
        at = rng.integers(0, len(ids) - WINDOW - 1, BATCH)
        batch = torch.from_numpy(np.stack([ids[a : a + WINDOW] for a in at]))
        out = model(input_ids=batch, labels=batch, use_cache=False)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = 0.98 * loss + 0.02 * float(out.loss.detach()) if step else float(out.loss.detach())
        step += 1
        if step % 50 == 0:
            print(f"{done:.0%} step {step}: loss {loss:.3f}", flush=True)
    model.config.output_router_logits = False
    model.save_pretrained(folder)


if __name__ == "__main__":
    print(small_moe())
