"""QDQ graphs for NPUs, beside onnxruntime's own static quantizer with the same types.

    python -m benchmarks.onnx.qdq_quality                # stories15M
    PYTHONPATH=DIR python -m benchmarks.onnx.qdq_quality # with onnxruntime-qnn in DIR: the share

Weights of 8 and 4 bits, symmetric, with a scale per column; activations uint16; calibrated on 3072
tokens of the built-in text. `products`: codes around all matrix products but the head, in the graph
of any length. `all nodes`: the graph that reads chunks of 64 tokens, head included, everything that
the quantizer takes. KL in nats from the float32 graph, every position, on 1024 other tokens of that
text and on stories of the model's own; in onnxruntime on the CPU, with its products in float32
(`exact`) and as it comes (`CPU`), which rounds what products read to 8 bits. `QNN`: the share of
nodes that Qualcomm's compiler takes, by onnxruntime's own record.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tokenizers
from benchmarks.common import arguments, models, processes, tables
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import kanna
from kanna import families
from kanna.calibration import texts, windows
from kanna.evaluation.divergence import compare
from kanna.formats.onnx import qdq
from kanna.formats.onnx.float_graph import FloatGraph
from kanna.formats.onnx.static_shapes import PREFILL
from kanna.formats.onnx.static_shapes.positions import PAST, TOTAL
from kanna.hardware import providers
from kanna.runtimes import onnx_session
from kanna.sources import open_source

CHUNK, CONTEXT = 64, 256
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
        source = open_source(models.as_gguf("stories"))
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
        kanna.convert(source, self.path.parent, preset="onnx:fp32", threads=1)
        self.static = {name: folder / name for name in ("fp32", "w8a16-full", "w4a16-full")}
        for preset, out in self.static.items():
            shape = f"{CHUNK}x{CONTEXT}"
            kanna.convert(source, out, preset=f"onnx:{preset}", static=shape, threads=1)
        genai = json.loads((self.path.parent / "genai_config.json").read_text(encoding="utf-8"))
        decoder = genai["model"]["decoder"]
        empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        inputs = session(self.path, True).get_inputs()
        self.empty = {i.name: empty for i in inputs if i.name.startswith("past_key")}
        self.exact = {kind: self.dynamic(self.path, ids) for kind, ids in self.texts.items()}

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


def peer(path: Path, out: Path, feeds: Sequence[Feed], bits: int, nodes: Sequence[str]) -> Path:
    """Onnxruntime's quantize_static: QDQ, per channel, uint16; of all nodes where none is named."""
    out.parent.mkdir(parents=True)
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
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    return out


def ours(work: Work, bits: int) -> Path:
    """Our products of the graph of any length, but for the head."""
    graph = FloatGraph(work.path)
    feeds = [work.feed(ids) for ids in work.calibration]
    model = qdq.quantize(graph, feeds, qdq.widths(graph.products(["lm_head"], ()), bits))
    out = work.folder / f"ours-{bits}" / "model.onnx"
    out.parent.mkdir()
    onnx.save(model, str(out))
    return out


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


def row(work: Work, name: str, bits: int, codes: str, path: Path) -> Mapping[str, Any]:
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
    options = parser.parse_args()
    if options.share:
        return print_share(options.share)
    rows: list[Mapping[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder))
        names = [n.name for n in FloatGraph(work.path).products(["lm_head"], ())]
        feeds = [work.feed(ids) for ids in work.calibration]
        fixed = work.static["fp32"] / PREFILL
        read = [feed for ids in work.calibration for feed, _ in chunks(session(fixed, True), ids)]
        for bits in options.bits:
            there = work.folder / f"peer-{bits}"
            theirs = peer(work.path, there / "some" / "model.onnx", feeds, bits, names)
            rows.append(row(work, "onnxruntime", bits, "products", theirs))
            rows.append(row(work, "kanna", bits, "products", ours(work, bits)))
            theirs = peer(fixed, there / "all" / PREFILL, read, bits, [])
            rows.append(row(work, "onnxruntime", bits, "all nodes", theirs))
            full = work.static[f"w{bits}a16-full"] / PREFILL
            rows.append(row(work, "kanna", bits, "all nodes", full))
    tables.print_rows(rows, options.json)


if __name__ == "__main__":
    main()
