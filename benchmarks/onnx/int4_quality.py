"""4-bit ONNX at equal bytes.

Kanna beside the int4 of onnxruntime-genai's model builder, with all of its algorithms.

    python -m benchmarks.onnx.int4_quality --model dithered          # or widened, stories, gemma3_dithered
    python -m benchmarks.onnx.int4_quality --model dithered --speed  # decoding, of the folders that the
    first run leaves python -m benchmarks.onnx.int4_quality --model dithered --memory # building, beside the
    builder alone

Every folder is judged in stock onnxruntime on the same held-out text, against the float32 graph in
the same onnxruntime. `values`: the peer's own widths, groups and scales, our values (method gptq).
`plan`: our allocation, of no more bytes than the peer's. `tuned`: that with its scales taught by
the original, as `--effort max` does. KL in nats over the full vocabulary, second half of each
window of 512 tokens; the mean of five kinds of text counts.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.common import peers, workload

from kanna._util.progress import Silent
from kanna.calibration import HELD_TEXT, statistics
from kanna.optimization import onnx
from kanna.optimization.measure import measure
from kanna.optimization.onnx_probe import judge, probe
from kanna.optimization.search import Wishes
from kanna.plan import Plan, RuleModel

ALGORITHMS = (
    "default",
    "rtn",
    "rtn_last",
    "k_quant",
    "k_quant_last",
    "k_quant_mixed",
    "k_quant_linear",
)
_PARTS = {
    "qkv_proj": ("attn_q", "attn_k", "attn_v"),
    "q_proj": ("attn_q",),
    "k_proj": ("attn_k",),
    "v_proj": ("attn_v",),
    "o_proj": ("attn_output",),
    "gate_proj": ("ffn_gate",),
    "up_proj": ("ffn_up",),
    "down_proj": ("ffn_down",),
}


def main() -> None:
    parser = workload.arguments(__doc__)
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
    options = parser.parse_args()
    work = workload.Work(options, "onnxruntime", "onnxruntime-genai")
    chosen = options.algorithms.split(",")
    if options.memory:
        rows = [building(work, options.rounds)]
    elif options.speed:
        made = [name for name in chosen if (work.folder / "onnx" / name / "plan").exists()]
        rows = [decoding(work.folder / "onnx" / name, name, options) for name in made]
    else:
        ours = Ours(work)
        found = [work.kept(f"onnx/{name}", algorithm, ours, name) for name in chosen]
        workload.report(found, "builder", options.json)
        return
    peers.report(rows if options.json else workload.table(rows), options.json)


class Ours:
    """Our side: one calibration, one table of costs, one float graph for every size."""

    def __init__(self, work: workload.Work) -> None:
        self.work, options = work, work.options
        self.running = workload.running(work.threads)
        stats, model = work.statistics(), work.model
        graph = onnx.build(work.source, model, work.folder, self.running)
        self.bench = onnx.Bench(source=work.source, model=model, graph=graph, statistics=stats)
        self.judge = workload.Graphs(work, graph)
        costs = measure(
            model,
            statistics.read(stats),
            stats / "measure-onnx.json",
            threads=work.threads,
            progress=Silent(),
            kinds=onnx.CANDIDATES,
            seen=onnx.seen,
        )
        scale: dict[str, float] = {}
        held = (stats / HELD_TEXT).read_text()
        if held.strip() and not options.fast:  # of few tokens, none are held out
            score = judge(self.bench, held, threads=work.threads)
            scale = probe(
                costs, score, stats / "probe-onnx.json", write=self.write, progress=Silent()
            )
        wishes = Wishes(kept="f32", names=onnx.CANDIDATES)
        self.choices = onnx.choices(
            self.bench.work(work.folder / "made", preset="int4"), costs, wishes, scale
        )

    def write(self, plan: Plan | Path, out: Path) -> Path:
        self.bench.work(out, plan=plan).write_from(self.bench.graph, self.running)
        return out

    def plan(self, nbytes: int, out: Path) -> Path:
        """Our allocation of no more bytes, all files of the folder counted."""
        file = out.with_suffix(".json")
        onnx.search(self.bench, self.choices, nbytes, file)
        return self.write(file, out)

    def tuned(self, planned: Path, out: Path) -> Path:
        """The planned folder tuned, as `--effort max` does."""
        plan = planned.with_suffix(".json")
        return self.work.tune(onnx.subject(self.bench, planned, plan, out, self.running), plan)


def builder(
    source: Path, out: Path, cache: Path, algorithm: str, embedding: bool = False
) -> list[str | Path]:
    """Command of the model builder's own int4."""
    more = ["op_types_to_quantize=MatMul/Gather"] if embedding else []
    if json.loads((source / "config.json").read_text())["model_type"].startswith("gemma3"):
        module = "benchmarks.onnx.builder_gemma3"
        return [sys.executable, "-m", module, source, out, cache, f"algo_config={algorithm}", *more]
    return [
        sys.executable,
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        source,
        "-o",
        out,
        "-p",
        "int4",
        "-e",
        "cpu",
        "-c",
        cache,
        "--extra_options",
        f"algo_config={algorithm}",
        *more,
    ]


def algorithm(ours: Ours, name: str) -> dict[str, Any]:
    """The row of one algorithm of the builder; why there is none where it fails."""
    work = ours.work
    folder = work.folder / "onnx" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    theirs = folder / "theirs"
    command = builder(work.hugging(), theirs, work.folder / "cache", name, work.options.embedding)
    try:
        run = peers.run(command)
    except RuntimeError as error:
        shutil.rmtree(folder)
        return {"builder": name, "failed": str(error).strip().splitlines()[-1]}
    return {"builder": name} | beside(ours, theirs, "builder") | {"s builder": run.seconds}


def beside(ours: Ours, theirs: Path, who: str) -> dict[str, Any]:
    """What a peer's folder costs, and what the same bytes cost us; `plan` is left beside it."""
    kl = ours.judge.kl(theirs)
    row: dict[str, Any] = {"MB": nbytes(theirs) / 1e6, f"KL {who}": workload.mean(kl)}
    if not ours.work.options.no_values:
        values = ours.write(
            like(theirs, ours.bench.work(theirs, preset="int4").tied), theirs.parent / "values"
        )
        row |= {
            "MB values": nbytes(values) / 1e6,
            "KL values": workload.mean(ours.judge.kl(values)),
        }
        row["values ÷"] = row["KL values"] / row[f"KL {who}"]
        shutil.rmtree(values)
    start = time.perf_counter()
    planned = ours.plan(sum(p.stat().st_size for p in theirs.iterdir()), theirs.parent / "plan")
    spent = time.perf_counter() - start
    found = ours.judge.kl(planned)
    row |= {"MB plan": nbytes(planned) / 1e6, "KL plan": workload.mean(found)}
    row |= {
        "plan ÷": row["KL plan"] / row[f"KL {who}"],
        "s plan": spent,
        "by text": {who: kl, "plan": found},
    }
    workload.tuned(ours, planned, theirs.parent / "tuned", who, row)
    return row


def building(work: workload.Work, rounds: int) -> dict[str, Any]:
    """Both from the same folder to int4, by turns.

    Every process of a command counts, at the same moment.
    """
    out, hugging = work.folder / "made", work.hugging()
    commands = {
        "builder": builder(hugging, out, work.folder / "cache", "rtn_last"),
        "kanna": peers.kanna("convert", hugging, "-o", out, "--preset", "onnx:int4"),
    }
    runs: dict[str, list[peers.Run]] = {who: [] for who in commands}
    for _ in range(rounds):
        for who, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            runs[who].append(peers.run(command, tree=True))
    shutil.rmtree(out)
    rows = {
        who: {k: median(asdict(r)[k] for r in every) for k in asdict(every[0])}
        for who, every in runs.items()
    }
    theirs, mine = rows["builder"], rows["kanna"]
    return {
        "MB builder": theirs["anonymous"] / 1e6,
        "MB kanna": mine["anonymous"] / 1e6,
        "memory ÷": mine["anonymous"] / theirs["anonymous"],
        "resident ÷": mine["resident"] / theirs["resident"],
        "s builder": theirs["seconds"],
        "s kanna": mine["seconds"],
        "CPU s builder": theirs["cpu"],
        "CPU s kanna": mine["cpu"],
    }


def decoding(folder: Path, name: str, options: Any) -> dict[str, Any]:
    """Greedy decoding of the peer's folder and of ours, by turns."""
    theirs, ours = decode([folder / "theirs", folder / "plan"], options.threads, options.rounds)
    return {
        "builder": name,
        "MB": nbytes(folder / "theirs") / 1e6,
        "MB plan": nbytes(folder / "plan") / 1e6,
        "ms builder": theirs,
        "ms plan": ours,
        "speed ÷": theirs / ours,
    }


def decode(made: Sequence[Path], threads: int, rounds: int, tokens: int = 64) -> list[float]:
    """Median milliseconds per token of greedy decoding in onnxruntime-genai, after one token, by turns."""
    import onnxruntime_genai as genai

    def run(folder: Path) -> Callable[[], None]:
        config = genai.Config(str(folder))
        config.overlay(
            f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}'
        )
        model = genai.Model(config)

        def steps() -> None:
            options = genai.GeneratorParams(model)
            options.set_search_options(max_length=96, min_length=96, do_sample=False)
            generator = genai.Generator(model, options)
            generator.append_tokens(np.array([1], np.int32))
            for _ in range(tokens):
                generator.generate_next_token()

        return steps

    return [
        1e3 * seconds / tokens
        for seconds in workload.by_turns([run(folder) for folder in made], rounds)
    ]


def nbytes(folder: Path) -> int:
    """Bytes of the graph and its data: the tokenizer's files are the same on both sides."""
    return workload.nbytes(folder, "model.onnx*")


def like(folder: Path, tied: bool) -> Plan:
    """The plan a folder was made by: every node's bits, group, zero, scale and arithmetic.

    tied: head and embedding are one matrix of the source; they stay one where the folder has them
    both in codes.
    """
    import onnx

    graph: Any = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    one = tied and any(node.op_type == "GatherBlockQuantized" for node in graph.node)
    rules: list[RuleModel] = []
    for node in graph.node:
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        has = {a.name: a.i for a in node.attribute}
        symmetric = "s" if len([i for i in node.input if i]) < 4 else ""
        how: dict[str, Any] = {
            "encoding": f"nbits{has.get('bits', 4)}g{has['block_size']}{symmetric}_f32",
            "method": "gptq",
        }
        how["accuracy"] = 4 if has.get("accuracy_level") == 4 else 0
        parts = node.name.split("/")
        if parts[1] == "lm_head" and one:
            continue
        if parts[1] == "lm_head":
            rules.append(RuleModel(pattern="^output.weight$", **how))
        elif parts[2] == "embed_tokens":
            rules.append(RuleModel(pattern="^token_embd.weight$", **how))
        else:
            layer, part = parts[2].removeprefix("layers."), parts[4]
            rules += [
                RuleModel(pattern=rf"^blk\.{layer}\.{p}\.weight$", **how) for p in _PARTS[part]
            ]
    return Plan(name="peer", encoding="f32", rules=rules)


if __name__ == "__main__":
    main()
