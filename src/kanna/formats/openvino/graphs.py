"""Graphs of OpenVINO as strangers may have written them: looked at before any runtime has them.

`check_names` is what every verb and every engine asks, of all graphs of a folder: the decoder's,
and those of its tokenizer that openvino-genai opens. `load` alone hands one to OpenVINO.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any
from xml.parsers import expat

from kanna.errors import FormatError
from kanna.formats import computed_sizes, folder_files
from kanna.formats.computed_sizes import NodeOutput
from kanna.formats.openvino.ir import BITS, Shape, nbytes

MODEL, WEIGHTS = "openvino_model.xml", "openvino_model.bin"
TOKENIZERS = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
"""Graphs that split text, and join it again."""
_PREFIX = "openvino_"
"""What the names begin with of all graphs that openvino-genai opens."""
_MOST_BYTES = 256 << 20
_MOST_LAYERS = 1 << 20
_LONGEST = 255
_VERSIONS = ("10", "11")
_ENCODINGS = ("utf-8", "utf8", "us-ascii", "ascii")
_OPERATION_SET = re.compile(r"opset[0-9]{1,3}")
_EXTENSION = "extension"
"""The set of operations that openvino-tokenizers, a library of its own, brings along."""
_OPTIONS = ("net", "rt_info", "runtime_options")
_TOP = len(("net", "layers", "layer", "data"))
"""How deep attributes of the graph's own layers lie, not of those in the body of one."""
_OF_MODEL = (".weight", ".bias")
_NAMES_FILES = re.compile(r"DIR|FILE|PATH|LIBRAR|EXTENSION|PLUGIN")
_CACHE = "weightlesscacheattribute"
"""Where weights lie for OpenVINO's cache; older releases read there without a look at the end."""
_AGAIN = "convert again"
_GIVEN = ("Parameter", "ReadValue")
"""Operations whose values come with each text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A constant of a graph: element type, shape, and its first byte in the file of weights."""

    kind: str
    shape: Shape
    offset: int


@dataclass(slots=True)
class _Reading:
    """What is found while a graph is read.

    Attributes:
        path: The file.
        constants: By name, those of the graph itself and of the types that kanna writes.
        stop: Where the last byte of all constants lies in the weights, and one more.
        last: The constant that ends there.
    """

    path: Path
    constants: dict[str, Constant] = field(default_factory=dict[str, Constant])
    stop: int = 0
    last: str = ""
    layers: int = 0
    inside: tuple[str, ...] = ()
    name: str = ""
    has_data: list[bool] = field(default_factory=list[bool])

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if not self.inside and (tag != "net" or attributes.get("version") not in _VERSIONS):
            raise _bad(self.path, f"it begins with {tag:.40} {attributes.get('version', '')!r:.40}")
        parent = self.inside[-1] if self.inside else ""
        if self.inside == _OPTIONS or (parent == "rt_info" and tag == "__weights_path"):
            self._option(tag, attributes)
        if tag == "pre-process" or _CACHE in (tag.lower(), attributes.get("name", "").lower()):
            raise _bad(self.path, f"its {tag} names bytes of the weights, as no model file does")
        self.inside = (*self.inside, tag)
        if len(self.inside) > _LONGEST:
            raise _bad(self.path, "its parts are nested too deep")
        if tag == "layer":
            self._layer(attributes)
        elif tag == "data" and parent == "layer":
            # The first counts for OpenVINO: another one would be what somebody else reads.
            if self.has_data[-1]:
                raise _bad(self.path, "a layer has two sets of attributes")
            self.has_data[-1] = True
            if self.name:
                self._constant(attributes)

    def end(self, tag: str) -> None:
        """An element ends."""
        self.inside = self.inside[:-1]
        if tag == "layer":
            self.has_data.pop()
            self.name = ""

    def declared(self, _: str, encoding: str | None, __: int) -> None:
        """The first line of the file."""
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise _bad(self.path, f"it says that it is in {encoding!r:.40}")

    def refuse(self, *_: Any) -> None:
        """A document type or an entity: nothing of OpenVINO has one."""
        raise _bad(self.path, "it declares a document type or entities")

    def _layer(self, attributes: Mapping[str, str]) -> None:
        self.layers += 1
        if self.layers > _MOST_LAYERS:
            raise _bad(self.path, f"it has more than {_MOST_LAYERS} layers")
        self.has_data.append(False)
        kind, version = attributes.get("type", ""), attributes.get("version", "")
        own = version == _EXTENSION and self.path.name.lower() in TOKENIZERS
        if not own and _OPERATION_SET.fullmatch(version) is None:
            raise FormatError(
                f"{self.path} has an operation {kind!r:.60} of {version!r:.60}",
                expected="operations that OpenVINO has; no library is loaded for others",
                todo="export the model without custom operations",
            )
        if kind != "Const" and kind.lower() in ("const", "constant"):
            raise _bad(self.path, f"it has a layer of type {kind}")
        # Unnamed ones are held to the file all the same.
        self.name = (attributes.get("name") or "a constant") if kind == "Const" else ""

    def _option(self, tag: str, attributes: Mapping[str, str]) -> None:
        """A setting that a graph has for the runtime, which may not lead to another file."""
        value = attributes.get("value", "")
        if _NAMES_FILES.search(tag.upper()) or set(value) & {"/", "\\"}:
            raise FormatError(
                f"{self.path} sets {tag:.60} to {value!r:.200}",
                expected="settings that name no file and no library",
                todo="remove it from rt_info",
            )

    def _constant(self, attributes: Mapping[str, str]) -> None:
        kind = attributes.get("element_type", "")
        sizes = [s.strip() for s in attributes.get("shape", "").split(",")]
        shape = tuple(_count(self.path, s) for s in sizes if s)
        offset = _count(self.path, attributes.get("offset", ""))
        size = _count(self.path, attributes.get("size", ""))
        if kind in BITS:
            # OpenVINO itself stores a constant without elements in one byte.
            if size != (nbytes(kind, shape) or size):
                raise _bad(self.path, f"{self.name:.80} has {size} bytes for {shape} of {kind}")
            self._keep(Constant(kind=kind, shape=shape, offset=offset))
        if offset + size > self.stop:
            self.stop, self.last = offset + size, self.name

    def _keep(self, constant: Constant) -> None:
        if len(self.inside) > _TOP:
            return
        if self.name in self.constants and any(part in self.name for part in _OF_MODEL):
            raise _bad(self.path, f"it has two constants {self.name:.80}")
        self.constants[self.name] = constant


def _count(path: Path, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _bad(path, f"it has {text!r:.40} where a number of elements or bytes is expected")
    return int(text)


def _bad(path: Path, what: str) -> FormatError:
    return FormatError(f"{path} is no graph of OpenVINO: {what}", expected="its IR", todo=_AGAIN)


def constants(path: Path) -> dict[str, Constant]:
    """The constants of a graph by name, all of them within the weights beside it.

    Raises:
        FormatError: It is no graph, it has operations of a library that would have to be loaded,
            it names a file, or its weights are absent or too short.
    """
    reading = _read(path)
    if reading.stop:
        weights = folder_files.named(path.parent, path.with_suffix(".bin").name)
        size = weights.stat().st_size
        if reading.stop > size:
            raise FormatError(
                f"{weights} has {size} bytes, and {reading.last:.80} ends at {reading.stop}",
                expected="a complete file",
                todo="copy or convert it again",
            )
    return reading.constants


def _read(path: Path) -> _Reading:
    size = path.stat().st_size if path.is_file() else 0
    if not 0 < size <= _MOST_BYTES:
        raise _bad(path, f"it has {size} bytes")
    data = path.read_bytes()
    if data[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
        raise _bad(path, "it is in UTF-16")
    reading, parser = _Reading(path), expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = reading.start, reading.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reading.refuse
    parser.XmlDeclHandler = reading.declared
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _bad(path, str(error)) from None
    return reading


def check_names(path: Path, *, graphs: bool = False) -> None:
    """Refuse a folder with a graph that no runtime should open.

    Args:
        path: The folder.
        graphs: Graphs are looked at either way: there is no other file that names one.

    Raises:
        FormatError: As of `constants`, or a link leads out of the folder.
    """
    for place, file in folder_files.walked(path):
        if place.suffix.lower() == ".xml" and place.name.lower().startswith(_PREFIX):
            constants(file)


def load(core: Any, folder: Path, name: str = MODEL) -> Any:
    """A graph of a folder, the decoder's by default, as OpenVINO's `core` reads it: checked first.

    Raises:
        FormatError: As of `check_names`, or it asks for far more memory than its weights are.
        RuntimeError: OpenVINO cannot read it.
    """
    folder_files.check(folder)
    check_names(folder)
    path = folder_files.named(folder, name)
    model = core.read_model(path)
    files = (path, path.with_suffix(".bin"))
    stored = sum(file.stat().st_size for file in files if file.exists())
    computed_sizes.check(path, _computed(model), stored)
    return model


def read_made(core: Any, graph: Path) -> Any:
    """A graph that this process has made, with its weights, read into memory: its folder may go."""
    return core.read_model(graph.read_bytes(), graph.with_suffix(".bin").read_bytes())


def _computed(model: Any) -> Iterator[NodeOutput]:
    """What the operations of a graph that OpenVINO has read compute, in their order."""
    constants: set[str] = set()
    for operation in model.get_ordered_ops():
        name, kind = operation.get_name(), operation.get_type_name()
        inputs = {value.get_node().get_name() for value in operation.input_values()}
        constant = kind not in _GIVEN and inputs <= constants
        if constant:
            constants.add(name)
        if kind == "Constant" or operation.get_output_size() == 0:
            continue
        yield NodeOutput(
            name=operation.get_friendly_name(),
            operation=kind,
            nbytes=sum(map(_least_bytes, operation.outputs())),
            constant=constant,
        )


def _least_bytes(output: Any) -> int:
    """Bytes of a tensor in which every size that is not known is the least that it may be."""
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic:
        return 0
    return prod(size.get_min_length() or 1 for size in shape) * output.element_type.bitwidth // 8
