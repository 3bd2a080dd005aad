"""4-bit ONNX at equal bytes, beside the int4 of onnxruntime-genai's model builder.

    python -m benchmarks.onnx.int4_quality --model dithered   # or widened, stories, gemma3_dithered
    python -m benchmarks.onnx.int4_quality --model dithered --speed    # decoding, after that
    python -m benchmarks.onnx.int4_quality --model dithered --memory   # building

Every algorithm of the builder is a row. Every folder is scored in stock onnxruntime on the same
held-out text, against the float32 graph in the same onnxruntime. `values`: the peer's own widths,
groups and scales, our values (method gptq). `plan`: our allocation, of no more bytes than the
peer's. `tuned`: that with its scales tuned against the original, as `--effort max` does. KL in nats
over the full vocabulary, second half of each window of 512 tokens; the mean of five kinds of text
counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.common import folder_rows, processes, tables, timing, workload
from benchmarks.common.folder_scoring import mean
from benchmarks.common.processes import Run
from benchmarks.common.workload import Workload
from benchmarks.onnx.our_side import OurOnnx, plan_of

ALGORITHMS = (
    "default",
    "rtn",
    "rtn_last",
    "k_quant",
    "k_quant_last",
    "k_quant_mixed",
    "k_quant_linear",
)


def main() -> None:
    options = parse()
    work = Workload(options, "onnxruntime", "onnxruntime-genai")
    chosen = options.algorithms.split(",")
    if options.memory:
        tables.print_rows([building(work, options.rounds)], options.json)
    elif options.speed:
        folders = [work.folder / "onnx" / name for name in chosen]
        rows = [decoding(folder, options) for folder in folders if (folder / "plan").exists()]
        tables.print_rows(rows, options.json)
    else:
        ours = OurOnnx(work)
        rows = [work.cached(f"onnx/{name}", algorithm, ours, name) for name in chosen]
        tables.print_successes(rows, "builder", options.json)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = workload.parser(__doc__)
    parser.add_argument(
        "--algorithms", default=",".join(ALGORITHMS), help="those that fail are named and left out"
    )
    parser.add_argument(
        "--embedding",
        action="store_true",
        help="the builder's embedding in 4 bits, where it is not tied",
    )
    parser.add_argument(
        "--no-values", action="store_true", help="not the builder's own widths with our values"
    )
    parser.add_argument(
        "--fast", action="store_true", help="trust predictions: no probes in onnxruntime"
    )
    parser.add_argument(
        "--speed", action="store_true", help="time the decoding of folders an earlier run left"
    )
    parser.add_argument(
        "--memory", action="store_true", help="time and peak memory of building, by turns"
    )
    parser.add_argument("--rounds", type=int, default=9, help="of timing")
    return parser.parse_args()


def builder(
    source: Path, out: Path, cache: Path, algorithm: str, embedding: bool = False
) -> list[str | Path]:
    """Command of the model builder's own int4."""
    more = [f"algo_config={algorithm}"]
    if embedding:
        more.append("op_types_to_quantize=MatMul/Gather")
    if json.loads((source / "config.json").read_text())["model_type"].startswith("gemma3"):
        return processes.python_module("benchmarks.onnx.builder_gemma3", source, out, cache, *more)
    how = ("-i", source, "-o", out, "-p", "int4", "-e", "cpu", "-c", cache, "--extra_options")
    return processes.python_module("onnxruntime_genai.models.builder", *how, *more)


def algorithm(ours: OurOnnx, name: str) -> dict[str, Any]:
    """The row of one algorithm of the builder; why there is none where it fails."""
    work = ours.workload
    folder = work.folder / "onnx" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    theirs = folder / "theirs"
    command = builder(work.hf_folder(), theirs, work.folder / "cache", name, work.options.embedding)
    try:
        run = processes.run(command)
    except RuntimeError as error:
        shutil.rmtree(folder)
        return {"builder": name, "failed": str(error).strip().splitlines()[-1]}
    return {"builder": name} | at_equal_bytes(ours, theirs, "builder") | {"s builder": run.seconds}


def at_equal_bytes(ours: OurOnnx, theirs: Path, peer: str) -> dict[str, Any]:
    """What a peer's folder costs, and what the same bytes cost us; our folder `plan` stays."""
    kl = ours.scorer.kl(theirs)
    row: dict[str, Any] = {"MB": nbytes(theirs) / 1e6, f"KL {peer}": mean(kl)}
    if not ours.workload.options.no_values:
        values = ours.write(plan_of(theirs, ours.tied(theirs)), theirs.parent / "values")
        row |= {"MB values": nbytes(values) / 1e6, "KL values": mean(ours.scorer.kl(values))}
        row["values ÷"] = row["KL values"] / row[f"KL {peer}"]
        shutil.rmtree(values)
    start = time.perf_counter()
    planned = ours.plan(sum(p.stat().st_size for p in theirs.iterdir()), theirs.parent / "plan")
    seconds = time.perf_counter() - start
    plan_kl = ours.scorer.kl(planned)
    row |= {
        "MB plan": nbytes(planned) / 1e6,
        "KL plan": mean(plan_kl),
        "plan ÷": mean(plan_kl) / row[f"KL {peer}"],
        "s plan": seconds,
        "by text": {peer: kl, "plan": plan_kl},
    }
    folder_rows.add_tuned(ours, planned, theirs.parent / "tuned", peer, row)
    return row


def building(work: Workload, rounds: int) -> dict[str, Any]:
    """Both from the same folder to int4, by turns.

    Every process of a command counts, at the same moment.
    """
    out, source = work.folder / "made", work.hf_folder()
    commands = {
        "builder": builder(source, out, work.folder / "cache", "rtn_last"),
        "kanna": processes.kanna("convert", source, "-o", out, "--preset", "onnx:int4"),
    }
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            runs[name].append(processes.run(command, children=True))
    shutil.rmtree(out)
    medians = {
        name: {field: median(asdict(r)[field] for r in of) for field in asdict(of[0])}
        for name, of in runs.items()
    }
    theirs, ours = medians["builder"], medians["kanna"]
    return {
        "MB builder": theirs["anonymous"] / 1e6,
        "MB kanna": ours["anonymous"] / 1e6,
        "memory ÷": ours["anonymous"] / theirs["anonymous"],
        "resident ÷": ours["resident"] / theirs["resident"],
        "s builder": theirs["seconds"],
        "s kanna": ours["seconds"],
        "CPU s builder": theirs["cpu"],
        "CPU s kanna": ours["cpu"],
    }


def decoding(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding of the peer's folder and of ours, by turns."""
    theirs, ours = decode([folder / "theirs", folder / "plan"], options.threads, options.rounds)
    return {
        "builder": folder.name,
        "MB": nbytes(folder / "theirs") / 1e6,
        "MB plan": nbytes(folder / "plan") / 1e6,
        "ms builder": theirs,
        "ms plan": ours,
        "speed ÷": theirs / ours,
    }


def decode(folders: Sequence[Path], threads: int, rounds: int, tokens: int = 64) -> list[float]:
    """Median ms per token of greedy decoding in onnxruntime-genai, after one token, by turns."""
    import onnxruntime_genai as genai

    session = {"session_options": {"intra_op_num_threads": threads}}

    def decoder(folder: Path) -> Callable[[], None]:
        config = genai.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": session}}))
        model = genai.Model(config)

        def steps() -> None:
            options = genai.GeneratorParams(model)
            options.set_search_options(max_length=96, min_length=96, do_sample=False)
            generator = genai.Generator(model, options)
            generator.append_tokens(np.array([1], np.int32))
            for _ in range(tokens):
                generator.generate_next_token()

        return steps

    seconds = timing.by_turns([decoder(folder) for folder in folders], rounds)
    return [1e3 * s / tokens for s in seconds]


def nbytes(folder: Path) -> int:
    """Bytes of the graph and its data."""
    return folder_rows.nbytes(folder, "model.onnx*")


if __name__ == "__main__":
    main()
