"""The closest file at equal bytes: kanna with calibrated statistics beside llama-quantize with llama-imatrix's matrix.

    python benchmarks/optimize.py --model dithered          # or widened, stories, gemma3

Both sides see the same calibration text, token for token. `values`: the peer's own plan, our values (method gptq).
`plan`: our allocation within the peer's bytes, too. Scored on text of five kinds, none of it calibration text; the
mean over the kinds counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import models
import peers

import kanna
from kanna import families, statistics
from kanna.calibrate import HELD_TEXT, gradients, texts
from kanna.calibrate.windows import cut
from kanna.evaluate import evaluate_many
from kanna.fetch import cache_dir
from kanna.optimize.measure import measure
from kanna.optimize.probe import probe
from kanna.optimize.search import Wishes, search
from kanna.progress import Silent
from kanna.sources import open_source

CLASSES = "Q6_K,Q5_K_M,Q4_K_M,IQ4_XS,Q4_0,Q3_K_M,Q2_K,IQ2_M"
TEXT = Path(__file__).parent / "text"
DOMAINS = ("wikitext", "prose.txt", "chat.jsonl", "code.txt", "languages.txt")
TOKENS = 24_576


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["widened", "dithered", "stories", "gemma3"], default="widened")
    parser.add_argument("--classes", default=CLASSES)
    parser.add_argument("--windows", type=int, default=5, help="of 512 tokens, of each kind of text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = getattr(models, options.model)()
    if path.is_dir():  # the peers read GGUF
        path, folder = cache_dir() / "benchmarks" / f"{path.name}.gguf", path
        if not path.exists():
            kanna.convert(folder, path, encoding="bf16")
    source = open_source(path)
    model = families.load_model(source)
    stats = cache_dir() / "benchmarks" / f"{path.stem}.statistics"
    clock = time.perf_counter()
    kanna.calibrate(path, stats, tokens=TOKENS)
    windows = cut(texts.documents(None, model)[0], model, tokens=TOKENS)
    gradients.gradients(model, windows, stats, statistics.read(stats).sha256, device=None, progress=Silent())
    measured = measure(
        model, statistics.read(stats), stats / "measure.json", threads=options.threads, progress=Silent()
    )
    scale = probe(
        source, measured, stats, stats / HELD_TEXT, stats / "probe.json", threads=options.threads, progress=Silent()
    )
    print(f"statistics, gradients, costs and probes: {time.perf_counter() - clock:.0f} s", flush=True)
    matrix = _imatrix(path, stats, windows)
    with tempfile.TemporaryDirectory() as folder:
        made: list[tuple[str, str, Path]] = []
        for name in options.classes.split(","):
            files = {kind: Path(folder, f"{name}-{kind}.gguf") for kind in ("llama.cpp", "values", "plan")}
            peers.run(peers.quantize(path, files["llama.cpp"], name, threads=options.threads, imatrix=matrix))
            kanna.convert(path, files["values"], preset=name, statistics=stats, threads=options.threads)
            budget = files["llama.cpp"].stat().st_size
            plan = Path(folder, "plan.json")
            search(source, model, measured, stats, budget, plan, wishes=Wishes(), scale=scale)
            kanna.convert(path, files["plan"], plan=plan, statistics=stats, threads=options.threads)
            made += [(name, kind, file) for kind, file in files.items()]
        scores = _scores(path, [file for _, _, file in made], options)
        rows: list[dict[str, object]] = []
        for name in options.classes.split(","):
            mine = {kind: (file, scores[file]) for n, kind, file in made if n == name}
            means = {kind: sum(kl.values()) / len(kl) for kind, (_, kl) in mine.items()}
            rows.append(
                {
                    "size class": name,
                    "MB": mine["plan"][0].stat().st_size / 1e6,
                    "MB llama.cpp": mine["llama.cpp"][0].stat().st_size / 1e6,
                    "KL llama.cpp": means["llama.cpp"],
                    "KL values": means["values"],
                    "KL plan": means["plan"],
                    "values ÷": means["values"] / means["llama.cpp"],
                    "plan ÷": means["plan"] / means["llama.cpp"],
                    **{f"{d} ÷": mine["plan"][1][d] / mine["llama.cpp"][1][d] for d in mine["plan"][1]},
                }
            )
    peers.report(rows, options.json)


def _imatrix(path: Path, stats: Path, windows: Any) -> Path:
    """llama-imatrix's matrix of the same tokens."""
    out = stats / "llama-imatrix.gguf"
    if not out.exists():
        import tokenizers

        model = families.load_model(open_source(path))
        tokenizer = tokenizers.Tokenizer.from_str(families.to_hf(model)[2]["tokenizer.json"].decode())
        text = stats / "read.txt"
        rows = windows.ids[~windows.held]
        text.write_text("".join(tokenizer.decode(list(map(int, row)), skip_special_tokens=False) for row in rows))
        peers.run([peers.tool("llama-imatrix"), "-m", path, "-f", text, "-o", out, "-c", "512", "-t", "2"])
    return out


def _scores(path: Path, files: list[Path], options: argparse.Namespace) -> dict[Path, dict[str, float]]:
    """KL of every file on every kind of text."""
    found: dict[Path, dict[str, float]] = {file: {} for file in files}
    model = families.load_model(open_source(path))
    for domain in DOMAINS:
        text: Path | None = None
        if domain.endswith(".jsonl"):
            lines = [json.loads(line)["messages"] for line in (TEXT / domain).read_text().splitlines()]
            text = Path(files[0].parent, "chat.txt")
            text.write_text("\n\n".join(texts.conversation(messages, model) for messages in lines))
        elif domain.endswith(".txt"):
            text = TEXT / domain
        for start in range(0, len(files), 8):
            part = files[start : start + 8]
            results = evaluate_many(part, reference=path, text=text, windows=options.windows, threads=options.threads)
            for file, result in zip(part, results, strict=True):
                found[file][domain.partition(".")[0]] = result.kl_mean
        print(domain, flush=True)
    return found


if __name__ == "__main__":
    main()
