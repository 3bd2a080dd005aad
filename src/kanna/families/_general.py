"""`general.*` metadata.

Name, size label, licence and origin from the model card, sampling from generation_config.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util.typed import LARGEST_COUNT, FieldKind, number, text, whole
from kanna.errors import KannaError
from kanna.formats.text_files import read_object
from kanna.model import MetaValue, ValueType, string

if TYPE_CHECKING:
    from collections.abc import Generator

    from kanna.sources import Source

# generation_config.json → general.sampling.*; the first name found wins.
_SAMPLING: dict[str, tuple[tuple[str, ...], ValueType]] = {
    "sequence": (("sequence",), ValueType.STR),
    "top_k": (("top_k",), ValueType.I32),
    "top_p": (("top_p",), ValueType.F32),
    "min_p": (("min_p",), ValueType.F32),
    "xtc_probability": (("xtc_probability",), ValueType.F32),
    "xtc_threshold": (("xtc_threshold",), ValueType.F32),
    "temp": (("temperature",), ValueType.F32),
    "penalty_last_n": (("penalty_last_n",), ValueType.I32),
    "penalty_repeat": (("penalty_repeat", "repetition_penalty"), ValueType.F32),
    "mirostat": (("mirostat",), ValueType.I32),
    "mirostat_tau": (("mirostat_tau",), ValueType.F32),
    "mirostat_eta": (("mirostat_eta",), ValueType.F32),
}
_KINDS: dict[ValueType, FieldKind[Any]] = {
    ValueType.STR: text(4096),
    ValueType.I32: whole(-LARGEST_COUNT),
    ValueType.F32: number(),
}


def general(
    source: Source, num_parameters: int, arch: str
) -> tuple[dict[str, MetaValue], list[str]]:
    """Metadata and notes (an unreadable model card is a note, not an error)."""
    keys: dict[str, MetaValue] = {
        "general.architecture": string(arch),
        "general.type": string("model"),
    }
    notes: list[str] = []
    keys |= sampling(source.files.get("generation_config.json"), notes)
    keys |= _origin(source, num_parameters, notes)
    return keys, notes


def sampling(path: Path | None, notes: list[str]) -> dict[str, MetaValue]:
    """`general.sampling.*` from generation_config.json; nothing when it is absent or not JSON."""
    if path is None or not path.is_file():
        return {}
    try:
        config = read_object(path).values
    except KannaError:
        notes.append(
            "generation_config.json is not readable JSON: no sampling defaults are carried over"
        )
        return {}
    keys: dict[str, MetaValue] = {}
    for key, (names, kind) in _SAMPLING.items():
        value = next(
            (config[n] for n in names if config.get(n) is not None),
            None,
        )
        typed = _KINDS[kind].convert(value)
        if typed is not None:
            keys[f"general.sampling.{key}"] = MetaValue(typed, kind)
    return keys


def _origin(source: Source, num_parameters: int, notes: list[str]) -> dict[str, MetaValue]:
    """Name, size label, licence, base models … by the rules of the gguf package's reader."""
    import gguf  # imports slowly, and only a conversion needs it

    name = source.name.strip("/") or "model"
    # A hub id is the name; a folder's name is read for its parts (base, size, fine-tune, version).
    folder = source.path if source.path.is_dir() else source.path.parent
    with _quiet("metadata"):
        try:
            card = gguf.Metadata.load_model_card(folder)
        except (
            Exception
        ) as error:  # hand-written YAML breaks in many ways, none of them our user's concern
            card = {}
            notes.append(
                f"the model card's header is not valid YAML ({type(error).__name__}): "
                "licence and tags are lost"
            )
        try:
            read = gguf.Metadata.apply_metadata_heuristic(
                gguf.Metadata(),
                card,
                gguf.Metadata.load_hf_parameters(folder),
                Path(name),
                num_parameters,
            )
        except Exception as error:
            read = gguf.Metadata()
            notes.append(
                f"the model card's header has unexpected values ({type(error).__name__}): "
                "it is left out"
            )
        read.name = read.name or name.split("/")[-1]
        if read.size_label is None and num_parameters > 0:
            read.size_label = gguf.size_label(num_parameters, 0, 0, 0)
        writer = gguf.GGUFWriter(None, "")
        read.set_gguf_meta_model(writer)
    values = {k: v for part in writer.kv_data for k, v in part.items() if k.startswith("general.")}
    values.pop("general.architecture", None)
    keys: dict[str, MetaValue] = {}
    for key, value in values.items():
        if not re.fullmatch(r"[a-z0-9_.]+", key) or value.value is None:
            continue
        item = None
        if value.type == gguf.GGUFValueType.ARRAY:
            if not value.value:
                continue
            item = (
                ValueType.STR
                if isinstance(value.value[0], str)
                else ValueType(_number(value.sub_type))
            )
        keys[key] = MetaValue(value.value, ValueType(_number(value.type)), item)
    return keys


def _number(kind: Any) -> int:
    """The number of a value type of the gguf package, which is that of ValueType too."""
    return int(kind.value)


@contextmanager
def _quiet(name: str) -> Generator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
