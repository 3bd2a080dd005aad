"""MLX at equal bytes: kanna beside `mlx_lm.convert`, and the time and memory both take.

    python -m benchmarks.mlx.convert_quality --model dithered   # or widened, stories, ...
    python -m benchmarks.mlx.convert_quality --model dithered --speed    # a plain 4-bit conversion
    python -m benchmarks.mlx.convert_quality --model dithered --decode   # in mlx, after the first

`values`: the peer's own widths and groups, our values (method gptq). `plan`: our allocation, in no
more bytes than the peer's. `tuned`: that with its scales, biases and norms tuned against the
original, as `--effort max` does. Every folder is scored by the values it holds, decoded into
float32 in llama.cpp, against the source in float32 there: mlx takes hours for this on a Linux CPU,
and tests/runtimes/test_mlx_runtime.py holds mlx to those values. KL in nats over the full
vocabulary, second half of each window of 512 tokens; the mean of five kinds of text counts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import folder_rows, processes, tables, timing, workload
from benchmarks.common.folder_scoring import mean
from benchmarks.common.workload import Workload
from benchmarks.mlx.our_side import OurMlx, plan_of

RECIPES = {
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
WEIGHTS = "*.safetensors"


def main() -> None:
    parser = workload.parser(__doc__, windows=3)
    parser.add_argument("--recipes", help="all that suit the model")
    parser.add_argument("--speed", action="store_true", help="time and memory instead of quality")
    parser.add_argument(
        "--decode", action="store_true", help="time the decoding of folders an earlier run left"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = Workload(options, "mlx", "mlx-lm")
    if options.speed:
        rows = speed(work.hf_folder(), work.folder, options.repeats)
    elif options.decode:
        pairs = sorted((work.folder / "mlx").glob("*/"))
        rows = [decoding(pair, options.repeats) for pair in pairs]
    else:
        ours = OurMlx(work)
        suitable = NARROW if options.model == "stories" else WIDE
        names = options.recipes.split(",") if options.recipes else suitable
        rows = [work.cached(f"mlx/{name}", recipe, ours, name) for name in names]
    tables.print_rows(rows, options.json)


def convert(source: Path, out: Path, how: list[str]) -> list[str | Path]:
    """Command of mlx-lm's own conversion."""
    files = ("--hf-path", source, "--mlx-path", out)
    return processes.python_module("mlx_lm", "convert", *files, "-q", *how)


def speed(source: Path, folder: Path, repeats: int) -> list[dict[str, object]]:
    """Median wall time and highest memory of both, by turns, each into a fresh folder."""
    out = folder / "made"
    ours = ("convert", source, "-o", out, "--preset", "mlx:q4", "--method")
    commands = {
        "mlx_lm.convert": convert(source, out, RECIPES["q4 g64"]),
        "nearest": processes.kanna(*ours, "nearest"),
        "search": processes.kanna(*ours, "search"),
    }
    runs: dict[str, list[processes.Run]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            runs[name].append(processes.run(command))
    seconds = {name: median(r.seconds for r in of) for name, of in runs.items()}
    memory = {name: max(r.anonymous for r in of) for name, of in runs.items()}
    return [
        {
            "who": name,
            "seconds": seconds[name],
            "MB": memory[name] / 1e6,
            "seconds ratio": seconds[name] / seconds["mlx_lm.convert"],
            "memory ratio": memory[name] / memory["mlx_lm.convert"],
        }
        for name in commands
    ]


def at_equal_bytes(ours: OurMlx, theirs: Path) -> dict[str, Any]:
    """What a folder of the peer's costs, and what the same bytes cost us."""
    size, folder = folder_rows.nbytes(theirs, WEIGHTS), ours.workload.folder
    kl = ours.scorer.kl(theirs)
    values = ours.write(plan_of(ours.measured.adapter.workspace.model, theirs), folder / "values")
    values_kl = ours.scorer.kl(values)
    start = time.perf_counter()
    planned = ours.plan(size, folder / "plan")
    seconds = time.perf_counter() - start
    plan_kl = ours.scorer.kl(planned)
    row: dict[str, Any] = {
        "MB": size / 1e6,
        "KL mlx_lm": mean(kl),
        "MB values": folder_rows.nbytes(values, WEIGHTS) / 1e6,
        "KL values": mean(values_kl),
        "MB plan": folder_rows.nbytes(planned, WEIGHTS) / 1e6,
        "KL plan": mean(plan_kl),
        "values ÷": mean(values_kl) / mean(kl),
        "plan ÷": mean(plan_kl) / mean(kl),
        "s plan": seconds,
        "by text": {"mlx_lm": kl, "plan": plan_kl},
    }
    folder_rows.add_tuned(ours, planned, folder / "tuned", "mlx_lm", row)
    shutil.rmtree(values)
    return row


def recipe(ours: OurMlx, name: str) -> dict[str, Any]:
    """The row of one recipe of mlx-lm's conversion; both folders stay, to be timed."""
    pair = ours.workload.folder / "mlx" / name
    shutil.rmtree(pair, ignore_errors=True)
    pair.mkdir(parents=True)
    run = processes.run(convert(ours.workload.hf_folder(), pair / "theirs", RECIPES[name]))
    row = {"recipe": name} | at_equal_bytes(ours, pair / "theirs") | {"s mlx_lm": run.seconds}
    (ours.workload.folder / "plan").replace(pair / "plan")
    return row


def decoding(pair: Path, rounds: int) -> dict[str, Any]:
    """Greedy decoding of the peer's folder and of ours in mlx, by turns."""
    theirs, ours = decode([pair / "theirs", pair / "plan"], rounds)
    return {"recipe": pair.name, "ms mlx_lm": theirs, "ms plan": ours, "speed ÷": theirs / ours}


def decode(folders: Sequence[Path], rounds: int, tokens: int = 16) -> list[float]:
    """Median milliseconds per token in mlx-lm, one token at a time, by turns.

    In float32, codes packed as they are: mlx emulates half precision on a CPU, at a fortieth of the
    speed.
    """
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.models.cache import make_prompt_cache

    def decoder(folder: Path) -> Callable[[], None]:
        model = load(str(folder))[0]
        model.set_dtype(mx.float32)

        def steps() -> None:
            cache, token = make_prompt_cache(model), mx.array([1])
            for _ in range(tokens):
                token = mx.argmax(model(token[:, None], cache=cache)[:, -1], axis=-1)
                mx.eval(token)

        return steps

    seconds = timing.by_turns([decoder(folder) for folder in folders], rounds)
    return [1e3 * s / tokens for s in seconds]


if __name__ == "__main__":
    main()
