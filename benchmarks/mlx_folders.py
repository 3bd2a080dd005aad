"""MLX at equal bytes: kanna beside `mlx_lm.convert`, and the time and memory both take.

    python benchmarks/mlx_folders.py --model dithered          # or widened, stories
    python benchmarks/mlx_folders.py --model dithered --speed  # wall time and peak memory of a plain 4-bit conversion

`values`: the peer's own widths and groups, our values (method gptq). `plan`: our allocation, in no more bytes than the
peer's. Every folder is judged by the values it holds, decoded into float32 in llama.cpp, against the source in float32
there: mlx takes hours for this on a Linux CPU, and tests/test_mlx_runtime.py holds mlx to those values. KL in nats over
the full vocabulary, second half of each window of 512 tokens; the mean of five kinds of text counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import models
import numpy as np
import peers
from onnx_int4 import windows

import kanna
from kanna import families, runtimes, statistics
from kanna.calibrate import gradients, texts
from kanna.calibrate.windows import cut
from kanna.convert.mlx import number_of
from kanna.evaluate.divergence import compare
from kanna.fetch import cache_dir
from kanna.optimize import mlx
from kanna.optimize.measure import measure
from kanna.progress import Silent
from kanna.sources import open_source

RECIPES: Mapping[str, tuple[list[str], dict[str, str]]] = {
    "q4 g64": (["--q-bits", "4", "--q-group-size", "64"], {"preset": "mlx:q4"}),
    "q4 g32": (["--q-bits", "4", "--q-group-size", "32"], {"encoding": "affine4g32", "format": "mlx"}),
    "q3 g64": (["--q-bits", "3", "--q-group-size", "64"], {"preset": "mlx:q3"}),
    "mixed_3_6": (["--q-group-size", "64", "--quant-predicate", "mixed_3_6"], {"preset": "mlx:mixed_3_6"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["widened", "dithered", "stories"], default="dithered")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--windows", type=int, default=2, help="of 512 tokens, of each kind of text")
    parser.add_argument("--plans", action="store_true", help="our allocation alone, without the peer's own widths")
    parser.add_argument("--speed", action="store_true", help="time and memory instead of quality")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = getattr(models, options.model)()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hugging = folder / "source"
        kanna.convert(source, hugging, format="safetensors", encoding="f16")
        rows = speed(hugging, folder, options.repeats) if options.speed else quality(source, hugging, folder, options)
    peers.report(rows, options.json)


def convert(source: Path, out: Path, how: list[str]) -> list[str | Path]:
    """Command of mlx-lm's own conversion."""
    return [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", source, "--mlx-path", out, "-q", *how]


def speed(hugging: Path, folder: Path, repeats: int) -> list[dict[str, object]]:
    """Median wall time and highest memory of both, by turns, each into a fresh folder."""
    seconds: dict[str, list[float]] = {"mlx_lm.convert": [], "nearest": [], "search": []}
    memory: dict[str, int] = dict.fromkeys(seconds, 0)
    for _ in range(repeats):
        for who in seconds:
            out = folder / "made"
            shutil.rmtree(out, ignore_errors=True)
            ours = peers.kanna("convert", hugging, "-o", out, "--preset", "mlx:q4", "--method", who)
            run = peers.run(convert(hugging, out, RECIPES["q4 g64"][0]) if who == "mlx_lm.convert" else ours)
            seconds[who].append(run.seconds)
            memory[who] = max(memory[who], run.anonymous)
    base = float(np.median(seconds["mlx_lm.convert"]))
    return [
        {
            "who": who,
            "seconds": float(np.median(times)),
            "MB": memory[who] / 1e6,
            "seconds ratio": float(np.median(times)) / base,
            "memory ratio": memory[who] / memory["mlx_lm.convert"],
        }
        for who, times in seconds.items()
    ]


def quality(source: Path, hugging: Path, folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    stats = cache_dir() / "benchmarks" / f"{source.stem}.statistics"
    kanna.calibrate(source, stats)
    opened = open_source(source)
    model = families.load_model(opened)
    work = cut(texts.documents(None, model)[0], model, tokens=24_576)
    gradients.gradients(model, work, stats, statistics.read(stats).sha256, device=None, progress=Silent())
    costs = measure(
        model, statistics.read(stats), stats / "measure-mlx.json", threads=2, progress=Silent(),
        kinds=mlx.candidates(number_of(model)),
    )  # fmt: skip
    bench = mlx.Bench(source=opened, model=model, statistics=stats)
    judge = Judge(source, windows(source, options))
    rows: list[dict[str, object]] = []
    for recipe in options.recipes.split(","):
        how, ours = RECIPES[recipe]
        theirs = folder / "theirs"
        run = peers.run(convert(hugging, theirs, how))
        size = nbytes(theirs)
        kl = judge.kl(theirs, folder)
        row: dict[str, object] = {"recipe": recipe, "MB": size / 1e6, "KL mlx_lm": kl}
        if not options.plans:
            kanna.convert(source, folder / "values", statistics=stats, **ours)
            row |= {"MB values": nbytes(folder / "values") / 1e6, "KL values": judge.kl(folder / "values", folder)}
            shutil.rmtree(folder / "values")
        start = time.perf_counter()
        mlx.search(bench, costs.choices(model), size, folder / "plan.json")
        kanna.convert(source, folder / "plan", format="mlx", plan=folder / "plan.json", statistics=stats)
        spent = time.perf_counter() - start
        planned = judge.kl(folder / "plan", folder)
        row |= {"MB plan": nbytes(folder / "plan") / 1e6, "KL plan": planned, "plan / mlx_lm": planned / kl}
        row |= {"s mlx_lm": run.seconds, "s plan": spent}
        rows.append(row)
        print(json.dumps(row), flush=True)
        for used in ("theirs", "plan"):
            shutil.rmtree(folder / used)
    return rows


def nbytes(folder: Path) -> int:
    """Bytes of the weights: the other files are the same on both sides."""
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


class Judge:
    """Mean KL divergence of the values of a folder from the source; both in float32 in llama.cpp."""

    def __init__(self, source: Path, text: dict[str, list[np.ndarray]]) -> None:
        self.text = text
        self.exact = self._logits(source)

    def _logits(self, path: Path) -> dict[str, list[np.ndarray]]:
        context = max(len(ids) for every in self.text.values() for ids in every)
        with runtimes.get("llamacpp").open(path, context=context, threads=2) as engine:
            return {
                domain: [np.array(engine.logits(ids.tolist(), first=len(ids) // 2)[:-1]) for ids in every]
                for domain, every in self.text.items()
            }

    def kl(self, made: Path, scratch: Path) -> float:
        decoded = scratch / "decoded.gguf"
        kanna.convert(made, decoded, encoding="f32", overwrite=True)
        found = self._logits(decoded)
        decoded.unlink()
        means: list[float] = []
        for domain, every in self.text.items():
            scores: list[float] = []
            for ids, exact, logits in zip(every, self.exact[domain], found[domain], strict=True):
                _, (one,) = compare(exact, [logits], ids[len(ids) // 2 + 1 :], threads=2)
                scores.append(float(one.kl.mean()))
            means.append(float(np.mean(scores)))
        return float(np.mean(means))


if __name__ == "__main__":
    main()
