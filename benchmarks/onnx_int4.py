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
from kanna import families
from kanna.calibrate import texts
from kanna.evaluate.divergence import compare
from kanna.fetch import cache_dir, wikitext
from kanna.plan import Plan, RuleModel
from kanna.sources import open_source

ALGORITHMS = ("default", "rtn", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed", "k_quant_linear")
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
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--windows", type=int, default=3, help="of 512 tokens, of each kind of text")
    parser.add_argument("--embedding", action="store_true", help="the peer's embedding in 4 bits, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = getattr(models, options.model)()
    stats = cache_dir() / "benchmarks" / f"{source.stem}.statistics"
    kanna.calibrate(source, stats)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hugging = folder / "source"
        kanna.convert(source, hugging, format="safetensors", encoding="f16")
        exact = folder / "exact"
        kanna.convert(source, exact, preset="onnx:fp32")
        judge = Judge(exact, windows(source, options))
        rows: list[dict[str, object]] = []
        for algorithm in options.algorithms.split(","):
            theirs = folder / algorithm
            run = peers.run(builder(hugging, theirs, folder / "cache", algorithm, options.embedding))
            size = nbytes(theirs)
            row: dict[str, object] = {"builder": algorithm, "MB": size / 1e6, "KL builder": judge.kl(theirs)}
            values = folder / f"{algorithm}-values"
            same = like(theirs)
            kanna.convert(source, values, format="onnx", plan=same, statistics=stats, threads=options.threads)
            row |= {"MB values": nbytes(values) / 1e6, "KL values": judge.kl(values)}
            plan = folder / f"{algorithm}-plan"
            start = time.perf_counter()
            kanna.optimize(source, plan, format="onnx", size=size)
            row |= {"MB plan": nbytes(plan) / 1e6, "KL plan": judge.kl(plan), "s plan": time.perf_counter() - start}
            row |= {"s builder": run.seconds, "GB builder": run.anonymous / 1e9}
            rows.append(row)
            print(json.dumps(row), flush=True)
    peers.report(rows, options.json)


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
            text = models.stories_text().read_text()
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
