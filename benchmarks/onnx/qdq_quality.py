"""QDQ graphs for NPUs, beside onnxruntime's own static quantizer with the same types.

    python -m benchmarks.onnx.qdq_quality                # stories15M
    PYTHONPATH=DIR python -m benchmarks.onnx.qdq_quality # with onnxruntime-qnn in DIR: the share

Weights of 8 and 4 bits, symmetric, with a scale per column; activations uint16; calibrated on 3072
tokens of the built-in text. `products`: codes around all matrix products but the head, in the graph
of any length. `all nodes`: the graph that reads chunks of 64 tokens, head included, everything that
the quantizer takes. `4, 8`: the plan of `kanna optimize --static --provider qnn`, beside theirs
with no more bytes of codes: 8 bits for the head and as many matrices as there is room for, in the
order of llama.cpp's Q4_K_M, which the builder of onnxruntime-genai has as `k_quant_mixed`. KL in
nats from the float32 graph, every position, on 1024 other tokens of that text and on stories of the
model's own; in onnxruntime on the CPU, with its products in float32 (`exact`) and as it comes
(`CPU`), which rounds what products read to 8 bits. `QNN`: the share of nodes that Qualcomm's
compiler takes, by onnxruntime's own record.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import tokenizers
from benchmarks.common import arguments, models, processes, tables
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import kanna
from kanna import families
from kanna.calibration import texts, windows
from kanna.conversion.onnx_derived import DerivedConversion
from kanna.evaluation.divergence import compare
from kanna.formats.onnx import qdq
from kanna.formats.onnx.float_graph import FloatGraph
from kanna.formats.onnx.static_shapes import PREFILL
from kanna.formats.onnx.static_shapes.positions import PAST, TOTAL
from kanna.hardware import providers
from kanna.runtimes import onnx_session
from kanna.sources import open_source

CHUNK, CONTEXT = 64, 256
SHAPE = f"{CHUNK}x{CONTEXT}"
SIZE = "17.2MB"
"""Of the folder of `kanna optimize`: between those of 4 and of 8 bits."""
TYPES = {8: QuantType.QInt8, 4: QuantType.QInt4}
Feed = dict[str, Any]


class Feeds(CalibrationDataReader):
    """What the quantizer calibrates on."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Any:
        """The inputs of one call; None at the end."""
        return next(self._left, None)


class Work:
    """The model, its text, and its float32 graphs in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.source = models.as_gguf("stories")
        source = open_source(self.source)
        model = families.load_decoder(source)
        documents, _ = texts.documents(None, model)
        cut = windows.cut(documents, model, tokens=4096).ids.astype(np.int64)
        order = np.random.default_rng(0).permutation(len(cut))
        self.calibration = cut[order[: len(cut) * 3 // 4]]
        file = families.to_hf(model)[2]["tokenizer.json"].decode()
        text = models.stories_text().read_text(encoding="utf-8")
        stories = np.array(tokenizers.Tokenizer.from_str(file).encode(text).ids, np.int64)
        self.texts = {
            "text": list(cut[order[len(cut) * 3 // 4 :]]),
            "stories": list(stories[: 4 * CONTEXT].reshape(4, CONTEXT)),
        }
        self.folder, self.path = folder, folder / "dynamic" / "model.onnx"
        if not self.path.is_file():
            kanna.convert(source, self.path.parent, preset="onnx:fp32", threads=1)
        self.fixed = self.preset("fp32")
        genai = json.loads((self.path.parent / "genai_config.json").read_text(encoding="utf-8"))
        decoder = genai["model"]["decoder"]
        empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        inputs = session(self.path, True).get_inputs()
        self.empty = {i.name: empty for i in inputs if i.name.startswith("past_key")}
        self.exact = {kind: self.dynamic(self.path, ids) for kind, ids in self.texts.items()}

    def preset(self, name: str) -> Path:
        """The graph that reads a chunk, of a preset."""
        out = self.folder / name
        if not out.is_dir():
            with self.calibrated():
                kanna.convert(self.source, out, preset=f"onnx:{name}", static=SHAPE, threads=1)
        return out / PREFILL

    def calibrated(self) -> Any:
        """A context in which ranges and values come from the text that is not scored."""

        def ids(_: DerivedConversion) -> Any:
            return self.calibration

        return mock.patch.object(DerivedConversion, "calibration_ids", ids)

    def feed(self, ids: Any) -> Feed:
        """One window as the inputs of the graph of any length."""
        feed = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
        return feed | self.empty

    def dynamic(self, path: Path, ids: Sequence[Any], exact: bool = True) -> list[np.ndarray]:
        """Logits of windows, by a graph of any length."""
        graph = session(path, exact)
        return [graph.run(["logits"], self.feed(window))[0][0] for window in ids]

    def chunked(self, path: Path, ids: Sequence[Any], exact: bool = True) -> list[np.ndarray]:
        """Logits of windows, by a graph that reads chunks."""
        graph = session(path, exact)
        return [np.concatenate([out[0] for _, out in chunks(graph, window)]) for window in ids]

    def kl(self, path: Path, *, exact: bool = True) -> dict[str, float]:
        """KL from the float32 graph, by kind of text."""
        read = self.dynamic if path.name != PREFILL else self.chunked
        result: dict[str, float] = {}
        for kind, ids in self.texts.items():
            pairs = zip(self.exact[kind], read(path, ids, exact), strict=True)
            scores = [compare(a, [b], np.zeros(len(a), np.int64))[1][0].kl for a, b in pairs]
            result[kind] = float(np.concatenate(scores).mean())
        return result


def session(path: Path, exact: bool) -> Any:
    """A session on the CPU; not `exact`: as onnxruntime comes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in qdq.EXACT_PRODUCTS.items() if exact else ():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def chunks(graph: Any, ids: Any) -> Iterator[tuple[Feed, np.ndarray]]:
    """The inputs of each chunk of a window, and its logits."""
    types = {"tensor(uint16)": np.uint16, "tensor(float)": np.float32}
    given = {i.name: i for i in graph.get_inputs()}
    caches = {
        n: np.zeros(i.shape, types[i.type]) for n, i in given.items() if n.startswith("past_key")
    }
    names = [o.name for o in graph.get_outputs()]
    for start in range(0, len(ids) - CHUNK + 1, CHUNK):
        feed: Feed = {"input_ids": ids[None, start : start + CHUNK].astype(np.int32)}
        feed |= {PAST: np.array([[start + CHUNK - 1]], np.int32)} | caches
        feed |= {TOTAL: np.array([CONTEXT], np.int32)} if TOTAL in given else {}
        values = dict(zip(names, graph.run(None, feed), strict=True))
        yield feed, values["logits"]
        caches = {n: values[n.replace("past_key_values", "present")] for n in caches}


def peer(
    path: Path,
    out: Path,
    feeds: Sequence[Feed],
    bits: int,
    nodes: Sequence[str] = (),
    wide: Sequence[str] = (),
) -> Path:
    """Onnxruntime's quantize_static: QDQ, per channel, uint16; of all nodes where none is named.

    Args:
        path: The float graph.
        out: The graph that is written.
        feeds: Calibration text.
        bits: Of a weight.
        nodes: Products that are quantized alone.
        wide: Initializers that have 8 bits all the same.
    """
    if out.is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    more = {name: [{"quant_type": QuantType.QInt8, "axis": 1}] for name in wide}
    quantize_static(
        str(path),
        str(out),
        Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt16,
        weight_type=TYPES[bits],
        nodes_to_quantize=list(nodes) or None,
        op_types_to_quantize=["MatMul"] if nodes else None,
        extra_options={
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            "TensorQuantOverrides": more,
        },
    )
    return out


def ours(work: Work, bits: int) -> Path:
    """Our products of the graph of any length, but for the head."""
    graph = FloatGraph(work.path)
    feeds = [work.feed(ids) for ids in work.calibration]
    model = qdq.quantize(graph, feeds, qdq.widths(graph.products(["lm_head"], ()), bits))
    out = work.folder / f"ours-{bits}" / "model.onnx"
    out.parent.mkdir(exist_ok=True)
    onnx.save(model, str(out))
    return out


def optimized(work: Work) -> Path:
    """The graph of `kanna optimize` with codes between all nodes."""
    out = work.folder / "optimized"
    with work.calibrated():
        kanna.optimize(
            work.source, out, format="onnx", static=SHAPE, provider="qnn", size=SIZE, windows=1
        )
    return next(out.glob("*-optimized-onnx")) / PREFILL


def widened(work: Work, plan: Path) -> list[str]:
    """Initializers that Q4_K_M would give more bits first, with no more bytes than those of a plan.

    The head; then `down_proj` and what holds `v_proj` in the first and the last eighth of all
    layers and in every third one between; then these of other layers; then what is left.
    """
    graph = FloatGraph(work.path)
    names = [node.input[1] for node in graph.products((), ())]
    weights = {name: int(np.prod(graph.values[name].dims)) for name in names}
    held = {
        t.name: t.data_type for t in onnx.load(plan, load_external_data=False).graph.initializer
    }
    room = sum(weights[n] for n in names if held[qdq.codes_name(n)] == onnx.TensorProto.INT8)
    layers = 1 + max(int(n.split(".")[2]) for n in names if n.startswith("model.layers"))

    def rank(name: str) -> int:
        if name.startswith("lm_head"):
            return 0
        layer, first = int(name.split(".")[2]), layers // 8
        outer = layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2
        felt = any(part in name for part in ("down_proj", "qkv_proj", "v_proj"))
        return 2 - outer if felt else 3

    wide: list[str] = []
    for name in sorted(names, key=rank):
        if weights[name] <= room:
            room -= weights[name]
            wide.append(name)
    return wide


def share(path: Path) -> str:
    """Nodes that Qualcomm's compiler takes, and all, in a process of its own; "": it is not here.

    A process holds one graph of QNN's on x86-64.
    """
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        return ""
    command = processes.python_module("benchmarks.onnx.qdq_quality", "--share", path)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def print_share(path: Path) -> None:
    """Print what `share` gives."""
    graph = onnx_session.open_session(onnxruntime, path, providers.get("qnn"))
    counts: dict[str, int] = {}
    for part in graph.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    print(f"{counts.get('QNNExecutionProvider', 0)} of {sum(counts.values())}")


def row(work: Work, name: str, bits: int | str, codes: str, path: Path) -> Mapping[str, Any]:
    """The row of one graph."""
    exact, plain = work.kl(path), work.kl(path, exact=False)
    return {
        "by": name,
        "weights": bits,
        "codes": codes,
        "KL text": exact["text"],
        "KL stories": exact["stories"],
        "KL text, CPU": plain["text"],
        "KL stories, CPU": plain["stories"],
        "QNN": share(path) if path.name == PREFILL else "",
    }


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--bits", type=int, nargs="*", default=[8, 4])
    parser.add_argument("--share", type=Path, help="print the share of one graph, and end")
    parser.add_argument("--folder", type=Path, help="keep graphs here, and begin with those there")
    options = parser.parse_args()
    if options.share:
        return print_share(options.share)
    rows: list[Mapping[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Work(options.folder or Path(folder))
        names = [n.name for n in FloatGraph(work.path).products(["lm_head"], ())]
        feeds = [work.feed(ids) for ids in work.calibration]
        fixed = work.fixed
        read = [feed for ids in work.calibration for feed, _ in chunks(session(fixed, True), ids)]
        for bits in options.bits:
            there = work.folder / f"peer-{bits}"
            theirs = peer(work.path, there / "some" / "model.onnx", feeds, bits, names)
            rows.append(row(work, "onnxruntime", bits, "products", theirs))
            rows.append(row(work, "kanna", bits, "products", ours(work, bits)))
            theirs = peer(fixed, there / "all" / PREFILL, read, bits)
            rows.append(row(work, "onnxruntime", bits, "all nodes", theirs))
            full = work.preset(f"w{bits}a16-full")
            rows.append(row(work, "kanna", bits, "all nodes", full))
        plan = optimized(work)
        mixed = work.folder / "peer-mixed" / PREFILL
        theirs = peer(fixed, mixed, read, 4, wide=widened(work, plan))
        rows.append(row(work, "onnxruntime", "4, 8", "all nodes", theirs))
        rows.append(row(work, "kanna", "4, 8", "all nodes", plan))
    tables.print_rows(rows, options.json)


if __name__ == "__main__":
    main()
