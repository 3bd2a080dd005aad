"""Find a preset that fits, convert with it, and go on only with a proof.

    python examples/fit_and_convert.py [MODEL] [MEMORY]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import kanna


def main(model: str = "builtin:smollm2-135m", memory: str = "1GB") -> None:
    """Convert a model with the preset that is recommended for so much memory."""
    fitting = kanna.fit(model, memory=memory, context=2048)
    print(fitting.advice)
    if not fitting:
        raise SystemExit("Nothing fits.")
    preset = fitting.recommended or "Q4_K_M"
    with tempfile.TemporaryDirectory() as folder:
        result = kanna.convert(model, Path(folder) / "model.gguf", preset=preset)
        print(result)
        proof = kanna.verify(model, result.paths[0])
        for check in proof.checks:
            print("ok" if check.ok else "not ok", check.name)
        if proof.status == "failed":
            raise SystemExit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
