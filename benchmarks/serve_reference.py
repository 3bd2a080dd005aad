"""The loop that onnxruntime-genai and mlx-lm offer themselves: eight sequences, so many tokens each, tokens per second.

    python benchmarks/serve_reference.py onnx|mlx FOLDER TOKENS
"""

from __future__ import annotations

import sys
import time

PROMPT = "Tell me a long story about a hand plane."


def onnx(folder: str, tokens: int) -> float:
    import numpy as np
    import onnxruntime_genai as genai

    genai.disable_telemetry_events()
    config = genai.Config(folder)
    config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}}')
    model = genai.Model(config)
    tokenizer = genai.Tokenizer(model)
    ids = tokenizer.encode(PROMPT)
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + tokens, min_length=len(ids) + tokens, batch_size=8)
    begun = time.perf_counter()
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array([ids] * 8, np.int32))
    for _ in range(tokens):
        generator.generate_next_token()
    return 8 * tokens / (time.perf_counter() - begun)


def mlx(folder: str, tokens: int) -> float:
    from mlx_lm import batch_generate, load

    model, tokenizer = load(folder)
    tokenizer._eos_token_ids = set()
    ids = tokenizer.encode(PROMPT)
    begun = time.perf_counter()
    batch_generate(model, tokenizer, [ids] * 8, max_tokens=tokens)
    return 8 * tokens / (time.perf_counter() - begun)


if __name__ == "__main__":
    print({"onnx": onnx, "mlx": mlx}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
