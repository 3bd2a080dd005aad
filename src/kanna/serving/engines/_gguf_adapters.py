"""LoRA adapters in GGUF, held to the file that they lie beside before a server is started.

llama.cpp says of one that does not fit no more than that its server cannot be started.
"""

from __future__ import annotations

from pathlib import Path

from kanna.errors import UsageError
from kanna.formats import gguf
from kanna.formats.gguf.read import GGUFFile

_PARTS = (".lora_a", ".lora_b")
_EMBEDDING = "token_embd.weight"
"""Whose factors llama.cpp has the other way round."""


def check_adapter(path: Path, adapter: Path) -> None:
    """Hold an adapter to what llama.cpp loads beside a model.

    Args:
        path: The GGUF of the model.
        adapter: The adapter.

    Raises:
        FormatError: One of them is no GGUF.
        UsageError: It is no adapter, or one of another model.
    """
    expected = "an adapter in GGUF beside a GGUF"
    if adapter.is_dir():
        raise UsageError(
            f"{adapter} is a folder",
            expected=expected,
            todo=f"write it: kanna convert SRC --adapter {adapter} -o NAME.gguf",
        )
    lora, base = gguf.read(adapter), gguf.read(path)
    if lora.value("general.type") != "adapter":
        raise UsageError(
            f"{adapter} is a model, not an adapter",
            expected=expected,
            todo="name it as a model, or write the adapter: kanna convert SRC --adapter FOLDER "
            "-o NAME.gguf",
        )
    if (why := _differs(lora, base)) is not None:
        raise UsageError(
            f"the adapter {adapter} is of another model than {path}: {why}",
            expected=f"an adapter that was trained on the model of {path.name}",
            todo="name the file of its own base",
        )


def _differs(lora: GGUFFile, base: GGUFFile) -> str | None:
    """The first thing by which an adapter cannot be of a base; None: nothing."""
    family, own = (file.value("general.architecture") for file in (base, lora))
    if family != own:
        return f"it is of the family {own}, not {family}"
    for name, factor in lora.tensors.items():
        module, part = name[: -len(_PARTS[0])], name[-len(_PARTS[0]) :]
        if part not in _PARTS or module == _EMBEDDING:
            continue
        matrix = base.tensors.get(module)
        if matrix is None:
            if base.value("split.count", 1) > 1:
                continue  # it may be in another part
            return f"it changes {module}, which is not there"
        side = 0 if part == ".lora_b" else -1
        if len(matrix.shape) == 2 and factor.shape[side] != matrix.shape[side]:
            what = "columns" if side else "rows"
            has = f"{factor.shape[side]:,} {what} of {module}"
            return f"it changes {has}, which has {matrix.shape[side]:,}"
    return None
