"""4-bit ONNX at equal bytes: kanna beside the int4 of onnxruntime-genai's model builder, with all of its algorithms.

    python benchmarks/onnx_int4.py --model dithered          # or widened, stories

Every folder is judged in stock onnxruntime on the same held-out text, against the float32 graph in the same
onnxruntime. `values`: the peer's own widths, groups and scales, our values (method gptq). `plan`: our allocation, of no
more bytes than the peer's. KL in nats over the full vocabulary, second half of each window of 512 tokens; the mean of
five kinds of text counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import models
import numpy as np
import peers

import kanna
from kanna import families, statistics
from kanna.calibrate import HELD_TEXT, gradients, texts
from kanna.calibrate.windows import cut
from kanna.convert.base import Running
from kanna.evaluate.divergence import compare
from kanna.fetch import cache_dir, wikitext
from kanna.optimize import onnx
from kanna.optimize.measure import measure
from kanna.optimize.onnx_probe import judge, probe
from kanna.optimize.search import Wishes
from kanna.plan import Plan, RuleModel
from kanna.progress import Silent
from kanna.sources import open_source

BUILD = "import sys, kanna; kanna.convert(sys.argv[1], sys.argv[2], preset='onnx:int4')"
ALGORITHMS = ("default", "rtn", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed", "k_quant_linear")
TOKENS = 24_576
TEXT = Path(__file__).parent / "text"
DOMAINS = ("wikitext", "prose.txt", "chat.jsonl", "code.txt", "languages.txt")
WINDOW = 512
_PARTS = {
    "qkv_proj": ("attn_q", "attn_k", "attn_v"), "q_proj": ("attn_q",), "k_proj": ("attn_k",), "v_proj": ("attn_v",),
    "o_proj": ("attn_output",), "gate_proj": ("ffn_gate",), "up_proj": ("ffn_up",), "down_proj": ("ffn_down",),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["widened", "dithered", "stories"], default="dithered")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS), help="those that fail are left out")
    parser.add_argument("--windows", type=int, default=2, help="of 512 tokens, of each kind of text")
    parser.add_argument(
        "--embedding", action="store_true", help="the builder's embedding in 4 bits, where it is not tied"
    )
    parser.add_argument("--values", action="store_true", help="also the builder's own widths with our values")
    parser.add_argument("--fast", action="store_true", help="trust predictions: no probes in onnxruntime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = getattr(models, options.model)()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = windows(path, options)
        made = Ours(path, folder, calibration(folder) if options.model == "stories" else None, options)
        judge = Judge(made.bench.graph, text)
        hugging = folder / "source"
        kanna.convert(path, hugging, format="safetensors", encoding="f16")
        rows: list[dict[str, object]] = []
        for algorithm in options.algorithms.split(","):
            theirs = folder / algorithm
            try:
                run = peers.run(builder(hugging, theirs, folder / "cache", algorithm, options.embedding))
            except RuntimeError as error:
                print(f"{algorithm}: {str(error).strip().splitlines()[-1]}", flush=True)
                continue
            row: dict[str, object] = {"builder": algorithm, "MB": nbytes(theirs) / 1e6, "KL builder": judge.kl(theirs)}
            folders = {"plan": made.plan(sum(p.stat().st_size for p in theirs.iterdir()), folder / "plan")}
            if options.values:
                folders["values"] = made.write(like(theirs), folder / "values")
            for kind, one in folders.items():
                row |= {f"MB {kind}": nbytes(one) / 1e6, f"KL {kind}": judge.kl(one)}
                row[f"{kind} ÷"] = float(str(row[f"KL {kind}"])) / float(str(row["KL builder"]))
            theirs_ms, ours_ms = decode([theirs, folders["plan"]])
            row |= {"speed ÷": theirs_ms / ours_ms, "s builder": run.seconds, "GB builder": run.anonymous / 1e9}
            rows.append(row)
            print(json.dumps(row), flush=True)
    peers.report(rows, options.json)


class Ours:
    """Our side: one calibration, one table of costs, one float graph for every size."""

    def __init__(self, path: Path, folder: Path, calibration_: Path | None, options: argparse.Namespace) -> None:
        self.running = Running(threads=options.threads, overwrite=True, nonfinite="refuse", progress=Silent())
        source = open_source(path)
        model = families.load_model(source)
        stats = cache_dir() / "benchmarks" / f"{path.stem}.onnx" / "statistics"
        stats.parent.mkdir(parents=True, exist_ok=True)
        given = [calibration_] if calibration_ else None
        kanna.calibrate(path, stats, calibration=given)
        read = cut(texts.documents(given, model)[0], model, tokens=TOKENS)
        gradients.gradients(model, read, stats, statistics.read(stats).sha256, device=None, progress=Silent())
        peak = peers.run([sys.executable, "-c", BUILD, str(path), str(folder / "fp32")])
        print(f"onnx:int4, everything in one: {peak.seconds:.0f} s, {peak.anonymous / 1e9:.2f} GB", flush=True)
        graph = onnx.build(source, model, stats.parent, self.running)
        self.bench = onnx.Bench(source=source, model=model, graph=graph, statistics=stats)
        costs = measure(
            model, statistics.read(stats), stats.parent / "measure.json", threads=options.threads, progress=Silent(),
            kinds=onnx.CANDIDATES, seen=onnx.seen,
        )  # fmt: skip
        scale: dict[str, float] = {}
        if not options.fast:
            score = judge(self.bench, (stats / HELD_TEXT).read_text(), threads=options.threads)
            scale = probe(costs, score, stats.parent / "probe.json", write=self.write, progress=Silent())
        wishes = Wishes(kept="f32", names=onnx.CANDIDATES)
        self.choices = onnx.choices(self.bench.work(folder, preset="int4"), costs, wishes, scale)

    def write(self, plan: Plan | Path, out: Path) -> Path:
        self.bench.work(out, plan=plan).write_from(self.bench.graph, self.running)
        return out

    def plan(self, nbytes: int, out: Path) -> Path:
        """Our allocation of no more bytes, all files of the folder counted."""
        file = out.with_suffix(".json")
        onnx.search(self.bench, self.choices, nbytes, file)
        return self.write(file, out)


def calibration(folder: Path) -> Path:
    """The first half of the stories that stories15M tells; the second is judged on."""
    told = models.stories_text().read_text()
    path = folder / "stories.txt"
    path.write_text(told[: len(told) // 2])
    return path


def decode(folders: list[Path]) -> list[float]:
    """Processor milliseconds per token of greedy decoding in onnxruntime-genai, one thread: the best of six rounds."""
    import onnxruntime_genai as genai

    loaded: list[Any] = []
    for folder in folders:
        config = genai.Config(str(folder))
        config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}')
        loaded.append(genai.Model(config))
    best = [float("inf")] * len(folders)
    for _ in range(6):
        for k, model in enumerate(loaded):
            options = genai.GeneratorParams(model)
            options.set_search_options(max_length=96, min_length=96, do_sample=False)
            generator = genai.Generator(model, options)
            generator.append_tokens(np.array([1, 5, 9, 11, 13, 17, 20, 22], np.int32))
            generator.generate_next_token()
            start = time.process_time()
            for _ in range(60):
                generator.generate_next_token()
            best[k] = min(best[k], (time.process_time() - start) / 60 * 1e3)
    return best


def builder(source: Path, out: Path, cache: Path, algorithm: str, embedding: bool) -> list[str | Path]:
    """Command of the model builder's own int4."""
    more = ["op_types_to_quantize=MatMul/Gather"] if embedding else []
    return [
        sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", out, "-p", "int4", "-e", "cpu",
        "-c", cache, "--extra_options", f"algo_config={algorithm}", *more,
    ]  # fmt: skip


def nbytes(folder: Path) -> int:
    """Bytes of the graph and its data: the tokenizer's files are the same on both sides."""
    return sum(p.stat().st_size for p in folder.iterdir() if p.name.startswith("model.onnx"))


def like(folder: Path) -> Plan:
    """The plan a folder was made by: every node's bits, group, zero, scale and arithmetic."""
    import onnx

    graph: Any = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
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
        if parts[1] == "lm_head":
            rules.append(RuleModel(pattern="^output.weight$", **how))
        elif parts[2] == "embed_tokens":
            rules.append(RuleModel(pattern="^token_embd.weight$", **how))
        else:
            layer, part = parts[2].removeprefix("layers."), parts[4]
            rules += [RuleModel(pattern=rf"^blk\.{layer}\.{p}\.weight$", **how) for p in _PARTS[part]]
    return Plan(name="peer", encoding="f32", rules=rules)


def windows(source: Path, options: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """Token ids of the held-out text by kind."""
    import tokenizers

    model = families.load_model(open_source(source))
    tokenizer = tokenizers.Tokenizer.from_str(families.to_hf(model)[2]["tokenizer.json"].decode())
    found: dict[str, list[np.ndarray]] = {}
    length = min(WINDOW, int(model.meta("{arch}.context_length")))
    for domain in ("stories",) if options.model == "stories" else DOMAINS:
        if domain == "stories":
            told = models.stories_text().read_text()
            text = told[len(told) // 2 :]
        elif domain == "wikitext":
            text = wikitext("test").read_text()
        elif domain.endswith(".jsonl"):
            lines = [json.loads(line)["messages"] for line in (TEXT / domain).read_text().splitlines()]
            text = "\n\n".join(texts.conversation(messages, model) for messages in lines)
        else:
            text = (TEXT / domain).read_text()
        ids = np.array(tokenizer.encode(text[: 40_000 * options.windows], add_special_tokens=False).ids)
        count = (5 if domain == "stories" else 1) * options.windows
        found[domain] = [ids[i * length : (i + 1) * length] for i in range(min(count, len(ids) // length))]
    return found


class Judge:
    """Mean KL divergence of a folder's logits from those of the float32 graph; both in stock onnxruntime."""

    def __init__(self, exact: Path, text: dict[str, list[np.ndarray]]) -> None:
        self.text = text
        self.exact = self._logits(exact)

    def _logits(self, folder: Path) -> dict[str, list[np.ndarray]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        past = {i.name: empty for i in session.get_inputs() if i.name.startswith("past")}

        def read(ids: np.ndarray) -> np.ndarray:
            feed = {"input_ids": ids[None].astype(np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)}
            return session.run(["logits"], feed | past)[0][0][len(ids) // 2 : -1].astype(np.float32)

        return {domain: [read(ids) for ids in every] for domain, every in self.text.items()}

    def by_domain(self, folder: Path) -> dict[str, float]:
        found: dict[str, float] = {}
        made = self._logits(folder)
        for domain, every in self.text.items():
            scores: list[float] = []
            for ids, exact, logits in zip(every, self.exact[domain], made[domain], strict=True):
                _, (one,) = compare(exact, [logits], ids[len(ids) // 2 + 1 :], threads=2)
                scores.append(float(one.kl.mean()))
            found[domain] = float(np.mean(scores))
        return found

    def kl(self, folder: Path) -> float:
        return float(np.mean(list(self.by_domain(folder).values())))


if __name__ == "__main__":
    main()
