"""ONNX folders for an execution provider: what it refuses, and what it is told of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kanna.encodings.grouped import channel
from kanna.encodings.grouped.nbits import parse
from kanna.errors import PlanError, UsageError
from kanna.formats.onnx import files, opsets
from kanna.formats.onnx.build import GENAI
from kanna.hardware import providers
from kanna.hardware.providers import ProviderProfile, placement
from kanna.plan.onnx_derived import DERIVED

CHANNELS, BYTES = "w8a16", "w8a8"
"""The preset whose activations have the codes of every plan per channel, and that of 8 bits."""
_MOST_NAMED = 4
_CPU = "cpu"


def wanted(name: str | None, static: str | None) -> ProviderProfile | None:
    """The provider of a name, once the shapes are known to be what it wants; None for None.

    Raises:
        UsageError: There is no such provider, or it wants fixed shapes.
    """
    if name is None:
        return None
    profile = providers.get(name)
    if profile.static_shapes.value and static is None:
        raise UsageError(
            f"{profile.name} compiles graphs of fixed shapes alone",
            expected="--static CHUNKxCONTEXT",
            todo="add --static 64x1024: chunks of 64 tokens of a prompt, 1024 tokens in all",
        )
    return profile


def check_encodings(profile: ProviderProfile | None, encodings: Iterable[str]) -> None:
    """PlanError for weights of few bits that a provider does not multiply.

    Args:
        profile: The provider; None: any is right.
        encodings: Names of those in a plan.
    """
    for name in sorted(set(encodings)) if profile is not None else ():
        kind = parse(name)
        if kind is None or profile is None or profile.multiplies(kind.bits, kind.group):
            continue
        if not profile.takes_groups:
            raise PlanError(
                f"{profile.name} multiplies no weights in groups, such as {name} ({profile.table})",
                expected="codes in standard operators (QDQ), or floats",
                todo="--preset onnx:w8a16 or onnx:w4a16, or onnx:fp32",
            )
        bits = profile.bits.value if profile.bits else ()
        sizes = profile.block_sizes.value if profile.block_sizes else ()
        raise PlanError(
            f"{profile.name} does not multiply {name} ({profile.table})",
            expected=f"bits {', '.join(map(str, bits))} in groups of {', '.join(map(str, sizes))}",
            todo=f"name another encoding, or `kanna optimize --format onnx --provider "
            f"{profile.name}`, which takes these alone",
        )


def check_derived(profile: ProviderProfile | None, preset: str) -> None:
    """PlanError for codes of activations that a provider does not read.

    Args:
        profile: The provider; None: any is right.
        preset: A preset of ONNX.
    """
    if profile is None or preset not in DERIVED or not DERIVED[preset].calibrator:
        return
    if not reads_activations(profile, preset):
        taken = _activation_types(profile) or ()
        raise PlanError(
            f"{profile.name} does not read activations of {_activations(preset)}, which "
            f"onnx:{preset} has ({profile.table})",
            expected=f"codes of {', '.join(sorted(taken)) or 'no kind'}",
            todo=f"--preset onnx:{BYTES} has codes of 8 bits"
            if reads_activations(profile, BYTES)
            else "--preset onnx:fp32",
        )


def reads_activations(profile: ProviderProfile, preset: str) -> bool:
    """Whether a provider reads the codes that a preset's activations have.

    Args:
        profile: The provider.
        preset: One of QDQ graphs.
    """
    taken = _activation_types(profile)
    return taken is None or _activations(preset) in taken


def _activations(preset: str) -> str:
    """The type of a preset's activations."""
    return "uint16" if DERIVED[preset].wide else "uint8"


def _activation_types(profile: ProviderProfile) -> frozenset[str] | None:
    """Codes that a provider makes of activations; None: any."""
    return profile.operators.types.get("QuantizeLinear", frozenset[str]())


def check_channels(profile: ProviderProfile | None, encodings: Iterable[str]) -> None:
    """PlanError for codes per channel, or those of their activations, that a provider refuses.

    Args:
        profile: The provider; None: any is right.
        encodings: Names of those in a plan.
    """
    if profile is None:
        return
    check_derived(profile, CHANNELS)
    for bits in sorted(filter(None, map(channel.bits_of, encodings))):
        if not takes_codes(profile, bits):
            raise PlanError(
                f"{profile.name} does not multiply {channel.name_of(bits)} ({profile.table})",
                expected=" or ".join(map(channel.name_of, code_bits(profile))) or "no codes",
                todo="name another encoding, or leave it to `kanna optimize --format onnx "
                f"--static 64x1024 --provider {profile.name}`, which takes these alone",
            )


def code_bits(profile: ProviderProfile) -> list[int]:
    """Bits of the codes per channel that a provider multiplies."""
    return [bits for bits in channel.BITS if takes_codes(profile, bits)]


def takes_codes(profile: ProviderProfile, bits: int) -> bool:
    """Whether a provider multiplies codes of so many bits with a scale per channel."""
    table = profile.operators.types
    if not {"MatMul", "DequantizeLinear"} <= table.keys():
        return False
    taken = table["DequantizeLinear"]
    return taken is None or f"int{bits}" in taken


def check_full(preset: str, static: str | None) -> None:
    """UsageError for codes between all nodes of a graph that has an attention in one node.

    Args:
        preset: A preset of ONNX.
        static: CHUNKxCONTEXT of fixed shapes, or None.
    """
    if static is None and preset in DERIVED and DERIVED[preset].full:
        raise UsageError(
            f"onnx:{preset} has codes inside of attention, which graphs of any length have as one"
            " node",
            expected="--static CHUNKxCONTEXT",
            todo=f"add --static 64x1024, or take onnx:{preset.removesuffix('-full')}",
        )


def fit(model: Any, profile: ProviderProfile) -> None:
    """Bring a graph to the newest opset of a provider, in place.

    Args:
        model: onnx.ModelProto; its external data need not be loaded.
        profile: The provider.

    Raises:
        PlanError: An operator of it is of a newer opset, or reads pictures in another layout.
    """
    newest, version = profile.opset, opsets.version(model)
    if against := opsets.lower(model, newest.value):
        raise PlanError(
            f"the graph is in opset {version} and {profile.name} reads {newest.value} "
            f"({newest.basis}: {newest.source}); newer: {', '.join(against[:_MOST_NAMED])}",
            expected=f"operators and types of opset {newest.value}",
            todo="another preset, or a profile of your own where the provider reads more "
            "(docs/providers.md)",
        )
    pictures = {n.op_type for n in model.graph.node} & set(opsets.PICTURES)
    if pictures and profile.layout.value not in ("any", "NCHW"):
        raise PlanError(
            f"{', '.join(sorted(pictures))} of the graph reads pictures with channels first, and "
            f"{profile.name} reads {profile.layout.value} ({profile.layout.basis})",
            expected="a graph without pictures",
            todo="another provider",
        )


def added_bytes(folder: Path, profile: ProviderProfile | None) -> int:
    """Bytes that genai_config.json grows by when it names a provider.

    Args:
        folder: A folder that names none.
        profile: The provider; None: it stays.
    """
    if profile is None:
        return 0
    return len(_naming(folder, profile).encode()) - (folder / GENAI).stat().st_size


def _naming(folder: Path, profile: ProviderProfile) -> str:
    """genai_config.json of a folder, which names the provider."""
    genai = json.loads((folder / GENAI).read_text(encoding="utf-8"))
    options = [] if profile.name == _CPU else [{profile.genai: dict(profile.options)}]
    genai["model"]["decoder"].setdefault("session_options", {})["provider_options"] = options
    return json.dumps(genai, indent=4)


def tell(folder: Path, profile: ProviderProfile | None) -> list[str]:
    """Name the provider in a finished folder's genai_config.json; notes on what it refuses.

    Graphs are brought to its newest opset.

    Args:
        folder: A folder that is complete.
        profile: The provider; None: nothing is done.

    Raises:
        PlanError: A graph cannot suit it.
    """
    if profile is None:
        return []
    (folder / GENAI).write_text(_naming(folder, profile), encoding="utf-8")
    known = files.read_folder(folder)
    notes: list[str] = []
    for graph in [known.prefill, known.graph] if known.prefill else [known.graph]:
        model = files.load(graph)
        written = opsets.version(model)
        fit(model, profile)
        if opsets.version(model) != written:
            graph.write_bytes(model.SerializeToString())
        table = placement.place(model, profile)
        notes.append(f"{graph.name} on {profile.name}: {table.sentence()} (by {profile.table})")
        kinds = {(node.operator, node.type): node for node in reversed(table.refused)}
        ranked = sorted(kinds.values(), key=lambda node: not node.is_product)
        notes += [f"{profile.name} refuses {n.sentence()}" for n in ranked[:_MOST_NAMED]]
    return notes
