"""Our ONNX folders: one calibration, one table of costs and one float graph for every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.folder_scoring import OnnxScorer
from benchmarks.common.workload import Workload

from kanna._util.progress import Silent
from kanna.calibration import HELD_TEXT, statistics
from kanna.conversion.nbits_sizes import HEAD
from kanna.optimization.adapters.onnx import ONNXAdapter
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.measure import measure
from kanna.optimization.probe import probe
from kanna.optimization.search import search
from kanna.plan import Plan, RuleModel

# Part of a node's name in the builder's graph → the matrices that it holds.
_MATRICES = {
    "qkv_proj": ("attn_q", "attn_k", "attn_v"),
    "q_proj": ("attn_q",),
    "k_proj": ("attn_k",),
    "v_proj": ("attn_v",),
    "o_proj": ("attn_output",),
    "gate_proj": ("ffn_gate",),
    "up_proj": ("ffn_up",),
    "down_proj": ("ffn_down",),
}


class OurOnnx:
    """Makes our folders of one model."""

    def __init__(self, workload_: Workload) -> None:
        self.workload, options = workload_, workload_.options
        self.adapter = ONNXAdapter(workload_.workspace())
        self.adapter.prepare()
        stats = self.adapter.workspace.calibrated
        self.scorer = OnnxScorer(workload_, self.adapter.graph)
        costs = measure(
            workload_.model,
            statistics.read(stats),
            stats / "measure-onnx.json",
            threads=workload_.threads,
            progress=Silent(),
            names=self.adapter.candidates(),
            rounding=self.adapter.rounding,
        )
        scale: dict[str, float] = {}
        held = (stats / HELD_TEXT).read_text()
        if held.strip() and not options.fast:  # of few tokens, none are held out
            prober = self.adapter.prober(costs)
            scale = probe(prober, costs, stats / "probe-onnx.json", Silent())
        self.choices = self.adapter.choices(costs, scale=scale)

    def write(self, plan: Plan | Path, out: Path) -> Path:
        """Write the folder of a plan."""
        self.adapter.conversion(out, plan=plan).write(self.adapter.workspace.context.running())
        return out

    def plan(self, nbytes: int, out: Path) -> Path:
        """Our allocation of no more bytes, all files of the folder counted."""
        file = out.with_suffix(".json")
        search(self.adapter, self.choices, nbytes, file)
        return self.write(file, out)

    def tuned(self, planned: Path, out: Path) -> Path:
        """The planned folder tuned, as `--effort max` does."""
        plan = planned.with_suffix(".json")
        none = HeldOutWindows(trial=[], proof=[], fitted=False)
        return self.workload.tune(self.adapter.tuning_subject(plan, planned, out, none), plan)

    def tied(self, folder: Path) -> bool:
        """Whether head and embedding are one matrix of the source."""
        return HEAD not in self.workload.model.tensors


def plan_of(folder: Path, tied: bool) -> Plan:
    """The plan a folder was made by: every node's bits, group, zero, scale and arithmetic.

    Args:
        folder: A folder of the model builder.
        tied: Head and embedding are one matrix of the source; they stay one where the folder has
            them both in codes.
    """
    import onnx

    graph: Any = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    shared = tied and any(node.op_type == "GatherBlockQuantized" for node in graph.node)
    rules: list[RuleModel] = []
    for node in graph.node:
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        has = {a.name: a.i for a in node.attribute}
        symmetric = "s" if len([i for i in node.input if i]) < 4 else ""
        how: dict[str, Any] = {
            "encoding": f"nbits{has.get('bits', 4)}g{has['block_size']}{symmetric}_f32",
            "method": "gptq",
            "accuracy": 4 if has.get("accuracy_level") == 4 else 0,
        }
        parts = node.name.split("/")
        if parts[1] == "lm_head":
            if not shared:
                rules.append(RuleModel(pattern="^output.weight$", **how))
        elif parts[2] == "embed_tokens":
            rules.append(RuleModel(pattern="^token_embd.weight$", **how))
        else:
            layer = parts[2].removeprefix("layers.")
            rules += [
                RuleModel(pattern=rf"^blk\.{layer}\.{matrix}\.weight$", **how)
                for matrix in _MATRICES[parts[4]]
            ]
    return Plan(name="peer", encoding="f32", rules=rules)
