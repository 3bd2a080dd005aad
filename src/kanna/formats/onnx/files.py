"""An ONNX folder, checked before any runtime maps it: its files, and that all lie inside it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.typed import (
    FLAG,
    IDS,
    LAYERS,
    OBJECT,
    FieldKind,
    TypedObject,
    listed,
    shown,
    text,
    whole,
)
from kanna.errors import FormatError
from kanna.formats import folder_files
from kanna.formats.onnx import graph_sizes
from kanna.formats.onnx.constants import check_texts, model_tensors, place
from kanna.formats.text_files import read_object

GENAI = "genai_config.json"
ADAPTER = ".onnx_adapter"
"""How the name of an adapter for onnxruntime ends."""
_AGAIN = "convert again"
_MODEL: Mapping[str, FieldKind[Any]] = {
    "bos_token_id": IDS,
    "context_length": whole(1),
    "eos_token_id": IDS,
    "pad_token_id": IDS,
    "type": text(64),
    "vocab_size": whole(1),
}
_DECODER: Mapping[str, FieldKind[Any]] = {
    "head_size": whole(1),
    "hidden_size": whole(1),
    "inputs": OBJECT,
    "num_attention_heads": whole(1),
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": whole(1),
    "outputs": OBJECT,
}
_MOST_GRAPH = 2 << 30
_MOST_STAGES = 64
_DIGITS = 10
"""Fewer than these in the number of tokens of a context."""
_LIBRARIES = ("custom_ops_library",)
OLDEST = 13
"""The first opset with the operators of artefacts: QuantizeLinear by column, Cast to bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The files of an ONNX folder.

    Attributes:
        graph: The model's file; of graphs of fixed shapes, the one that reads a token.
        data: Files of its external data.
        model: That part of genai_config.json, {} of an encoder.
        prefill: Of graphs of fixed shapes, the one that reads a chunk of a prompt.
    """

    graph: Path
    data: list[Path]
    model: dict[str, Any]
    prefill: Path | None = None

    @property
    def decoder(self) -> dict[str, Any]:
        """That part of genai_config.json, {} of an encoder."""
        return self.model.get("decoder", {})

    @property
    def nbytes(self) -> int:
        """Bytes of the graph and its data."""
        graphs = {self.graph, *([self.prefill] if self.prefill else [])}
        return sum(p.stat().st_size for p in {*graphs, *self.data})


def is_onnx(path: Path) -> bool:
    """Whether a folder is one of ours to open: onnxruntime-genai's, or a lone model.onnx."""
    return path.is_dir() and ((path / GENAI).is_file() or (path / "model.onnx").is_file())


def is_encoder(path: Path) -> bool:
    """Whether an ONNX folder holds a model that makes vectors, not text."""
    return is_onnx(path) and not (path / GENAI).is_file()


def read_folder(path: Path) -> Folder:
    """The files of an ONNX folder.

    Raises FormatError when one is missing, too short, or outside the folder.
    """
    model: dict[str, Any] = {}
    names = ["model.onnx"]
    if (path / GENAI).is_file():
        described = genai_model(path)
        model, names = dict(described.values), graph_names(described.part("decoder"))
    check_names(path)
    graphs = [folder_files.named(path, name) for name in names]
    data = sorted({file for graph in graphs for file in _external(graph)})
    prefill = graphs[1] if len(graphs) > 1 else None
    return Folder(graph=graphs[0], data=data, model=model, prefill=prefill)


def graph_names(decoder: TypedObject) -> list[str]:
    """The file of a decoder's graph; of a pipeline, that for one token, then that for a chunk.

    Raises:
        FormatError: It is a pipeline of other stages.
    """
    if "pipeline" not in decoder:
        return [decoder.need("filename", text(255))]
    stages = [
        TypedObject.of(stage, decoder.file, _AGAIN)
        for stages in decoder.need("pipeline", listed(OBJECT, _MOST_STAGES))
        for stage in stages.values()
    ]
    by_use = {s.get("run_on_prompt", FLAG, True): s.need("filename", text(255)) for s in stages}
    if len(stages) != len(by_use) or len(by_use) < len((True, False)):
        raise FormatError(
            f"{decoder.file} has a pipeline of other stages than one for a prompt and one for a"
            " token",
            expected="a folder that `kanna convert --static` wrote",
        )
    return [by_use[False], by_use[True]]


def genai_model(path: Path) -> TypedObject:
    """The model that a folder's genai_config.json describes, its numbers checked.

    Raises:
        FormatError: A field is absent that every decoder has, or of the wrong kind.
    """
    try:
        model = read_object(path / GENAI, _AGAIN).part("model")
        decoder = model.part("decoder")
        if "pipeline" not in decoder:
            decoder.need("filename", text(255))
        for part, kinds in ((model, _MODEL), (decoder, _DECODER)):
            for key, kind in kinds.items():
                part.get(key, kind, None)
    except FormatError as error:
        raise FormatError(
            f"{path / GENAI} does not describe a decoder: {error.found}",
            expected=error.expected,
            todo=_AGAIN,
        ) from None
    return model


def check_names(path: Path, *, graphs: bool = False) -> None:
    """Refuse a folder whose genai_config.json names a file outside it, or a library to load.

    Args:
        path: The folder.
        graphs: Also look at what its graph names, where the library that reads one is here.

    Raises:
        FormatError: A name or a link leads out of the folder, or the folder brings code along.
    """
    for key, value in _members(_genai(path)):
        if key in _LIBRARIES and value:
            raise FormatError(
                f"{path / GENAI} names a library to load, {value!r:.200}",
                expected="operators that onnxruntime has",
                todo=f"remove {key!r} where you trust the graph without it",
            )
        if key == "filename" and value:
            folder_files.meant(path, value)
    if graphs and importlib.util.find_spec("onnx") is not None:
        for graph in path.glob("*.onnx"):
            for location in _locations(graph):
                folder_files.meant(path, location)


def _genai(path: Path) -> Any:
    """genai_config.json as it is; None where there is none that can be read."""
    try:
        return json.loads((path / GENAI).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _locations(graph: Path) -> set[str]:
    """The files that a graph names for its values; none where it is no graph."""
    try:
        model = _parse(graph)
    except FormatError:
        return set()
    check_texts(model, graph)
    entries = (e for t in model_tensors(model) if t.data_location == 1 for e in t.external_data)
    return {e.value for e in entries if e.key == "location"}


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a parsed JSON text with its value, at any depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _external(graph: Path) -> list[Path]:
    """Files with the values of initializers; each is long enough for what the graph reads of it."""
    if graph.stat().st_size > _MOST_GRAPH:
        raise FormatError(
            f"{graph} has {graph.stat().st_size} bytes", expected="a graph below 2 GiB"
        )
    return _data_files(graph, load(graph))


def check_sizes(graph: Path) -> None:
    """Refuse a graph that would take far more memory than its weights are.

    Before a runtime has it, in a process that nobody else needs: shapes are found by a library.

    Raises:
        FormatError: It would, or something of it is absent or too short.
    """
    model = load(graph)
    files = {graph, *_data_files(graph, model)}
    graph_sizes.check(graph, model, sum(path.stat().st_size for path in files))


def _data_files(graph: Path, model: Any) -> list[Path]:
    needed: dict[str, int] = {}
    for tensor in model_tensors(model):
        if tensor.data_location == 1:
            name, stop = place(graph, tensor)
            needed[name] = max(needed.get(name, 0), stop)
    paths: list[Path] = []
    for name, stop in needed.items():
        path = folder_files.named(graph.parent, name)
        if path.stat().st_size < stop:
            raise FormatError(
                f"{path} has {path.stat().st_size} bytes",
                expected=f"at least {stop}",
                todo="copy or convert it again",
            )
        paths.append(path)
    return paths


def load(graph: Path) -> Any:
    """The graph as onnx's protobuf, external data left where it is.

    Raises FormatError for anything else, and for a graph older than `OLDEST`.
    """
    model = _parse(graph)
    check_texts(model, graph)
    opset = max(
        (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=OLDEST
    )
    if opset < OLDEST:
        raise FormatError(
            f"{graph} is in opset {opset}",
            expected=f"opset {OLDEST} or newer",
            todo="convert the model again; onnx.version_converter lifts a graph of your own",
        )
    return model


def _parse(graph: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(graph), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise FormatError(f"{graph} is no ONNX graph: {error}", todo=_AGAIN) from None


def rope_edge(graph: Path) -> int:
    """Tokens beyond which the graph uses the long factors of rope; 0 where it has one set."""
    nodes = load(graph).graph.node
    edges = [n for n in nodes if n.name == "/model/rope_caches_subgraph/Greater"]
    longest = 0
    for node in edges:
        name = node.input[1] if len(node.input) > 1 else ""
        edge = name.rpartition("/")[2]
        if not (edge.isascii() and edge.isdigit() and len(edge) < _DIGITS):
            raise FormatError(
                f"{graph} compares the length of a text with {shown(name)}",
                expected="a constant named by its number of tokens",
                todo=_AGAIN,
            )
        longest = max(longest, int(edge))
    return longest
