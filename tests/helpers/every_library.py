"""A session that loads every library kanna has: `python -m helpers.every_library FOLDER`.

Each runtime, builder, worker and engine starts once, in the way kanna starts it. FOLDER has the
sources `decoder` and `encoder`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import kanna
from helpers import gateway_process

TEXT = "The quick brown fox jumps over the lazy dog. Once upon a time there was a small model. "


def serve(model: Path, state: Path) -> None:
    """One chat at the gateway, as a user starts it."""
    running = gateway_process.start(model, state)
    try:
        body = {"model": "small", "messages": gateway_process.MESSAGES, "max_tokens": 4}
        status, answer = running.post("/v1/chat/completions", json.dumps(body).encode())
        assert status == 200, answer
    finally:
        gateway_process.stop(running)


def track(folder: Path) -> None:
    """A recipe whose runs go into a database, as `--track` does."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "name: one\nsteps:\n  what:\n    verb: inspect\n    with: {source: ./decoder}\n"
    )
    result = kanna.run(recipe, folder / "run", track=f"sqlite:///{folder / 'runs.db'}")
    assert result.ok, result


def main(folder: Path) -> None:
    """Everything, in order."""
    decoder, encoder = folder / "decoder", folder / "encoder"
    text = folder / "text.txt"
    text.write_text(TEXT * 40)
    made = {"gguf": folder / "model.gguf"}
    made |= {name: folder / name for name in ("onnx", "mlx", "openvino")}
    kanna.convert(decoder, made["gguf"], preset="Q8_0", threads=1)
    kanna.convert(decoder, made["onnx"], preset="onnx:int8", threads=1)
    kanna.convert(decoder, made["mlx"], preset="mlx:q4", threads=1)
    kanna.convert(decoder, made["openvino"], preset="openvino:int4", threads=1)
    for artefact in made.values():
        list(kanna.generate(artefact, "Once", max_tokens=2))
        kanna.verify(decoder, artefact, threads=1)
        kanna.evaluate(artefact, reference=decoder, text=text, windows=1, context=64, threads=1)
    kanna.bench(made["onnx"], repeat=1, threads=1)
    kanna.convert(encoder, folder / "vectors", preset="onnx:int8", threads=1)
    kanna.verify(encoder, folder / "vectors", threads=1)
    for name, artefact in made.items():
        serve(artefact, folder / f"state-{name}")
    track(folder)
    print("every library", os.getpid())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
