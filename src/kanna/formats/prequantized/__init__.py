"""Checkpoints that were quantized before they were published, as lazy matrices.

Packed codes, scales and zeros, decoded exactly.

Each file is a layout, under the `quant_method` of config.json, and exports `unpacked(tensors,
settings)`; and `shapes_need_values(settings)`, where headers alone may not say how large a matrix
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from kanna._util import plugins
from kanna._util.typed import TypedObject
from kanna.errors import FormatError
from kanna.model import Tensor

SETTINGS = "quantization_config"
# What only packed matrices have: ends of names, and types of 8-bit floats.
_PACKED_NAMES = (
    ".qweight",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".quant_map",
    ".SCB",
    "_weight_qdata",
)
_PACKED_TYPES = ("f8_e4m3", "f8_e5m2")


def method_of(config: Mapping[str, Any]) -> str | None:
    """The layout that config.json names, where it is one of these."""
    settings = _place(config).get(SETTINGS)
    name = settings.get("quant_method") if isinstance(settings, dict) else None
    name = name.replace("-", "_") if isinstance(name, str) else ""
    return name if name in plugins.names(__name__, "unpacked") else None


def _place(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where config.json has its settings: at the top, or among those of the text model."""
    inner = config.get("text_config")
    has_own = config.get(SETTINGS) is not None
    return inner if not has_own and isinstance(inner, dict) and SETTINGS in inner else config


def without_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config.json as that of a model that was never quantized."""
    plain = {k: v for k, v in config.items() if k not in ("quantization", SETTINGS)}
    inner = plain.get("text_config")
    if isinstance(inner, dict) and SETTINGS in inner:
        plain["text_config"] = {k: v for k, v in inner.items() if k != SETTINGS}
    return plain


def unpacked(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], method: str
) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one of values.

    Raises UnsupportedError, FormatError.
    """
    decoded: dict[str, Tensor] = plugins.load(__name__, method, "unpacked")(
        tensors, TypedObject.of(_place(config), "config.json").part(SETTINGS)
    )
    if all(tensors.get(name) is tensor for name, tensor in decoded.items()):
        raise FormatError(
            f"config.json says the weights are packed by {method}, and no tensor is",
            todo="fetch the files again",
        )
    return decoded


def shapes_need_values(config: Mapping[str, Any]) -> bool:
    """Whether headers alone do not say how large the matrices of a checkpoint are."""
    method = method_of(config)
    if method is None:
        return False
    asked = getattr(import_module(f"{__name__}.{method}"), "shapes_need_values", None)
    settings = TypedObject.of(_place(config), "config.json").part(SETTINGS)
    return asked is not None and bool(asked(settings))


def notes(config: Mapping[str, Any], method: str) -> list[str]:
    """What the user of a checkpoint packed by `method` must know."""
    lines = [f"the source is already quantized ({method}): its losses stay"]
    if _place(config)[SETTINGS].get("activation_scheme") == "static":
        lines.append(
            "its activations were meant to be rounded to 8 bits by scales measured once "
            "(activation_scheme static): here they stay as they are, and those scales are left out"
        )
    return lines


def refuse_unnamed(tensors: Mapping[str, Tensor]) -> None:
    """Raise FormatError for packed tensors of which no config.json says how they were packed."""
    for name, tensor in tensors.items():
        blocks = tensor.dtype == "u8" and name.endswith("_blocks")
        if tensor.dtype in _PACKED_TYPES or name.endswith(_PACKED_NAMES) or blocks:
            raise FormatError(
                f"{name} holds {tensor.dtype} values of a quantized model, and config.json has no "
                f"{SETTINGS} that says how it was packed",
                expected="config.json and weights of one model",
                todo="fetch config.json again from where the weights were published, or use the "
                "16-bit release of this model",
            )
