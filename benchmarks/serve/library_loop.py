"""Tokens per second of eight sequences in the loop of onnxruntime-genai or of mlx-lm itself.

python -m benchmarks.serve.library_loop onnx|mlx FOLDER TOKENS
"""

from __future__ import annotations

import sys
import time

PROMPTS = [f"{i}: Tell me a long story about a hand plane." for i in range(8)]


def chats(folder: str) -> list[list[int]]:
    """Tokens of eight chats of one length, as the gateway's clients send them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    return tokenizer.apply_chat_template(
        conversations, add_generation_prompt=True, return_dict=False
    )


def onnx_speed(folder: str, tokens: int) -> float:
    import numpy as np
    import onnxruntime_genai as genai

    genai.disable_telemetry_events()
    config = genai.Config(folder)
    config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}}')
    model = genai.Model(config)
    ids = np.array(chats(folder), np.int32)
    length = ids.shape[1] + tokens
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=length, min_length=length, batch_size=8)
    begun = time.perf_counter()
    generator = genai.Generator(model, params)
    generator.append_tokens(ids)
    for _ in range(tokens):
        generator.generate_next_token()
    return 8 * tokens / (time.perf_counter() - begun)


def mlx_speed(folder: str, tokens: int) -> float:
    from mlx_lm import batch_generate, load

    model, tokenizer = load(folder)
    tokenizer._eos_token_ids = set()
    ids = chats(folder)
    begun = time.perf_counter()
    batch_generate(model, tokenizer, ids, max_tokens=tokens)
    return 8 * tokens / (time.perf_counter() - begun)


def main() -> None:
    kind, folder, tokens = sys.argv[1:]
    print({"onnx": onnx_speed, "mlx": mlx_speed}[kind](folder, int(tokens)))


if __name__ == "__main__":
    main()
