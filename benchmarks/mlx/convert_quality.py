"""MLX at equal bytes: kanna beside `mlx_lm.convert`, and the time and memory both take.

    python -m benchmarks.mlx.convert_quality --model dithered          # or widened, stories,
    gemma3_dithered python -m benchmarks.mlx.convert_quality --model dithered --speed  # wall time and peak
    memory of a plain 4-bit conversion python -m benchmarks.mlx.convert_quality --model dithered --decode #
    decoding in mlx, of the folders the first run leaves

`values`: the peer's own widths and groups, our values (method gptq). `plan`: our allocation, in no
more bytes than the peer's. `tuned`: that with its scales, biases and norms taught by the original,
as `--effort max` does. Every folder is
judged by the values it holds, decoded into float32 in llama.cpp, against the source in float32
there: mlx takes hours for this on a Linux CPU, and tests/test_mlx_runtime.py holds mlx to those
values. KL in nats over the full vocabulary, second half of each window of 512 tokens; the mean of
five kinds of text counts.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import peers, workload

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.conversion.mlx import number_of
from kanna.encodings.grouped.affine import name_of
from kanna.model import Model
from kanna.optimization import mlx
from kanna.optimization.measure import measure
from kanna.plan import Plan, RuleModel
from kanna.sources import open_source

RECIPES: Mapping[str, list[str]] = {
    "q4 g64": ["--q-bits", "4", "--q-group-size", "64"],
    "q4 g32": ["--q-bits", "4", "--q-group-size", "32"],
    "q3 g64": ["--q-bits", "3", "--q-group-size", "64"],
    "q3 g32": ["--q-bits", "3", "--q-group-size", "32"],
    "mixed_3_6": ["--q-group-size", "64", "--quant-predicate", "mixed_3_6"],
    "mixed_3_6 g32": ["--q-group-size", "32", "--quant-predicate", "mixed_3_6"],
}
WIDE = ("q4 g64", "q4 g32", "q3 g64", "mixed_3_6")
NARROW = ("q4 g32", "q3 g32", "mixed_3_6 g32")
"""Of stories15M, whose 288 columns have no groups of 64: mlx-lm would leave them in 16 bits."""


def main() -> None:
    parser = workload.arguments(__doc__, windows=3)
    parser.add_argument("--recipes", help="all that suit the model")
    parser.add_argument("--speed", action="store_true", help="time and memory instead of quality")
    parser.add_argument(
        "--decode", action="store_true", help="time the decoding of folders an earlier run left"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = workload.Work(options, "mlx", "mlx-lm")
    if options.speed:
        rows = speed(work.hugging(), work.folder, options.repeats)
    elif options.decode:
        rows = [
            decoding(pair, options.repeats) for pair in sorted((work.folder / "mlx").glob("*/"))
        ]
    else:
        ours = Ours(work)
        names = (
            options.recipes.split(",")
            if options.recipes
            else NARROW
            if options.model == "stories"
            else WIDE
        )
        rows = [work.kept(f"mlx/{name}", recipe, ours, name) for name in names]
    peers.report(rows if options.json else workload.table(rows), options.json)


def convert(source: Path, out: Path, how: list[str]) -> list[str | Path]:
    """Command of mlx-lm's own conversion."""
    return [
        sys.executable,
        "-m",
        "mlx_lm",
        "convert",
        "--hf-path",
        source,
        "--mlx-path",
        out,
        "-q",
        *how,
    ]


def speed(hugging: Path, folder: Path, repeats: int) -> list[dict[str, object]]:
    """Median wall time and highest memory of both, by turns, each into a fresh folder."""
    seconds: dict[str, list[float]] = {"mlx_lm.convert": [], "nearest": [], "search": []}
    memory: dict[str, int] = dict.fromkeys(seconds, 0)
    for _ in range(repeats):
        for who in seconds:
            out = folder / "made"
            shutil.rmtree(out, ignore_errors=True)
            ours = peers.kanna("convert", hugging, "-o", out, "--preset", "mlx:q4", "--method", who)
            run = peers.run(
                convert(hugging, out, RECIPES["q4 g64"]) if who == "mlx_lm.convert" else ours
            )
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


class Ours:
    """Our side: one calibration and one table of costs for every size, made when they are first asked for."""

    def __init__(self, work: workload.Work) -> None:
        self.work, self.judge = work, workload.Values(work)
        self.bench: mlx.Bench | None = None

    def ready(self) -> mlx.Bench:
        if self.bench is None:
            # From what the peer reads: of a source in 32 bits, scales would be, too.
            stats, source = self.work.statistics(), open_source(self.work.hugging())
            model = families.load_model(source)
            self.bench = mlx.Bench(source=source, model=model, statistics=stats)
            self.choices = measure(
                model,
                statistics.read(stats),
                stats / "measure-mlx.json",
                threads=self.work.threads,
                progress=Silent(),
                kinds=mlx.candidates(mlx.scales_of(model)),
            ).choices(model)
        return self.bench

    def write(self, plan: Plan | Path, out: Path) -> Path:
        bench = self.ready()
        return Path(
            kanna.convert(
                bench.source,
                out,
                format="mlx",
                plan=plan,
                statistics=bench.statistics,
                overwrite=True,
                threads=self.work.threads,
            ).paths[0]
        )

    def plan(self, nbytes: int, out: Path) -> Path:
        """Our allocation in weight files of no more bytes."""
        file = out.with_suffix(".json")
        mlx.search(self.ready(), self.choices, nbytes, file)
        return self.write(file, out)

    def tuned(self, planned: Path, out: Path) -> Path:
        """The planned folder tuned, as `--effort max` does."""
        subject = mlx.subject(self.ready(), planned, out, workload.running(self.work.threads))
        return self.work.tune(subject, planned.with_suffix(".json"))


def like(model: Model, folder: Path) -> Plan:
    """The plan a folder was made by.

    Bits and group of every matrix, read from the shapes of its arrays.
    """
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="np") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 no mapping
    number = number_of(model)
    rules: list[RuleModel] = []
    for ours, theirs in families.hf_names(model).items():
        if (scales := shapes.get(theirs.removesuffix("weight") + "scales")) is None:
            continue
        columns = model.tensors[ours].shape[-1]
        encoding = name_of(32 * shapes[theirs][-1] // columns, columns // scales[-1], number)
        rules.append(RuleModel(pattern=f"^{re.escape(ours)}$", encoding=encoding, method="gptq"))
    return Plan(name="peer", encoding=number, rules=rules)


def beside(ours: Ours, theirs: Path) -> dict[str, Any]:
    """What a folder of the peer's costs, and what the same bytes cost us."""
    size, folder = workload.nbytes(theirs, "*.safetensors"), ours.work.folder
    kl = ours.judge.kl(theirs)
    row: dict[str, Any] = {"MB": size / 1e6, "KL mlx_lm": workload.mean(kl)}
    values = ours.write(like(ours.ready().model, theirs), folder / "values")
    row["MB values"] = workload.nbytes(values, "*.safetensors") / 1e6
    row["KL values"] = workload.mean(ours.judge.kl(values))
    start = time.perf_counter()
    planned = ours.plan(size, folder / "plan")
    spent = time.perf_counter() - start
    found = ours.judge.kl(planned)
    row |= {
        "MB plan": workload.nbytes(planned, "*.safetensors") / 1e6,
        "KL plan": workload.mean(found),
    }
    row |= {
        "values ÷": row["KL values"] / row["KL mlx_lm"],
        "plan ÷": row["KL plan"] / row["KL mlx_lm"],
    }
    row |= {"s plan": spent, "by text": {"mlx_lm": kl, "plan": found}}
    workload.tuned(ours, planned, folder / "tuned", "mlx_lm", row)
    shutil.rmtree(values)
    return row


def recipe(ours: Ours, name: str) -> dict[str, Any]:
    """The row of one recipe of mlx-lm's conversion; both folders stay, to be timed."""
    pair = ours.work.folder / "mlx" / name
    shutil.rmtree(pair, ignore_errors=True)
    pair.mkdir(parents=True)
    run = peers.run(convert(ours.work.hugging(), pair / "theirs", RECIPES[name]))
    row = {"recipe": name} | beside(ours, pair / "theirs") | {"s mlx_lm": run.seconds}
    (ours.work.folder / "plan").replace(pair / "plan")
    return row


def decoding(pair: Path, rounds: int) -> dict[str, Any]:
    """Greedy decoding of the peer's folder and of ours in mlx, by turns."""
    theirs, ours = decode([pair / "theirs", pair / "plan"], rounds)
    return {"recipe": pair.name, "ms mlx_lm": theirs, "ms plan": ours, "speed ÷": theirs / ours}


def decode(made: Sequence[Path], rounds: int, tokens: int = 16) -> list[float]:
    """Median milliseconds per token in mlx-lm, one token at a time, by turns.

    In float32, codes packed as they are: mlx emulates half precision on a CPU, at a fortieth of the
    speed.
    """
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.models.cache import make_prompt_cache

    def run(folder: Path) -> Callable[[], None]:
        model = load(str(folder))[0]
        model.set_dtype(mx.float32)

        def steps() -> None:
            cache, token = make_prompt_cache(model), mx.array([1])
            for _ in range(tokens):
                token = mx.argmax(model(token[:, None], cache=cache)[:, -1], axis=-1)
                mx.eval(token)

        return steps

    return [
        1e3 * seconds / tokens
        for seconds in workload.by_turns([run(folder) for folder in made], rounds)
    ]


if __name__ == "__main__":
    main()
