"""KL at equal bytes: every searched preset against llama-quantize, from the same 16-bit source.

    python benchmarks/quality.py --model widened --windows 16

Without an importance matrix on either side. `floor` is the same weights at F16 in the same runtime.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import models
import peers

import kanna

PRESETS = "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S Q2_K"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["widened", "dithered", "stories"], default="widened")
    parser.add_argument("--presets", default=PRESETS.replace(" ", ","))
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = getattr(models, options.model)()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "kanna.gguf"), Path(folder, "llama.gguf")
        for preset in options.presets.split(","):
            kanna.convert(source, ours, preset=preset, threads=options.threads, overwrite=True)
            peers.run(peers.quantize(source, theirs, preset, threads=options.threads))
            scores = [
                kanna.evaluate(path, reference=source, windows=options.windows, threads=options.threads)
                for path in (ours, theirs)
            ]
            kl, peer_kl = (s.kl_mean for s in scores)
            rows.append(
                {
                    "preset": preset,
                    "MB": ours.stat().st_size / 1e6,
                    "MB llama.cpp": theirs.stat().st_size / 1e6,
                    "KL": kl,
                    "KL llama.cpp": peer_kl,
                    "ratio": kl / peer_kl if peer_kl else 1.0,
                    "PPL": scores[0].perplexity,
                    "PPL llama.cpp": scores[1].perplexity,
                }
            )
            if not options.json:
                print(f"{preset}: KL {kl:.5f} / {peer_kl:.5f}", flush=True)
    peers.report(rows, options.json)


if __name__ == "__main__":
    main()
