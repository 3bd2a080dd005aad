"""Conversion to an ONNX folder for onnxruntime-genai.

What a request names decides how the folder is made: nodes with weights of few bits (nbits.py), the
builder's float graph (onnx_float.py), one derived from it (onnx_derived.py; by a plan:
onnx_channel.py), or an encoder's (encoder.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from kanna.conversion import onnx_provider
from kanna.conversion.base import Conversion, ConversionRequest, Converter, SizedPlan
from kanna.conversion.encoder import EncoderConversion
from kanna.conversion.nbits import NBitsConversion
from kanna.conversion.nbits_sizes import NBitsSizes
from kanna.conversion.onnx_channel import ChannelConversion, ChannelSizes
from kanna.conversion.onnx_derived import DerivedConversion
from kanna.conversion.onnx_float import FloatConversion, sized_whole
from kanna.errors import UsageError
from kanna.families import load_decoder
from kanna.formats.onnx import build, encoder
from kanna.formats.onnx.static_shapes import StaticShape
from kanna.plan import Plan
from kanna.plan import onnx as presets
from kanna.plan.onnx_derived import DERIVED
from kanna.sources import Source


class ONNXSizes(NBitsSizes):
    """Bytes of ONNX folders of one model, for every preset and plan."""

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan tensor by tensor, with the bytes of the folder as far as they are known."""
        option, value = plan.origin or ("", "")
        if option == "preset" and value not in presets.NBITS:
            return sized_whole(self.model, self.tensors, value)
        if presets.by_channel(plan):
            return ChannelSizes(self.source, self.model, self.guidance).sized(plan)
        return super().sized(plan)


def begin(source: Source, out: Path | None, request: ConversionRequest) -> Conversion:
    """The conversion that a preset, an encoding or a plan asks for."""
    if encoder.is_encoder(source.config):
        if request.static is not None:
            raise UsageError(
                "--static is for a decoder, which reads a prompt in chunks",
                expected="a model that predicts tokens",
            )
        if request.provider is not None:
            raise UsageError("--provider is for a decoder", expected="a model that predicts tokens")
        return EncoderConversion(source, out, request)
    model = load_decoder(source)
    if request.encoding or request.plan:
        plan = request.as_plan(Plan.of_encoding, "")
        if presets.by_channel(plan):
            return ChannelConversion(source, model, out, request, plan)
    if request.preset in DERIVED:
        return DerivedConversion(source, model, out, request)
    if request.encoding or request.plan or (request.preset or presets.DEFAULT) in presets.NBITS:
        return NBitsConversion(source, model, out, request)
    return FloatConversion(source, model, out, request)


def check(request: ConversionRequest) -> None:
    """UsageError for shapes that are none, and for patterns that no graph is made by."""
    if request.static is not None:
        StaticShape.parse(request.static)
    onnx_provider.check_derived(
        onnx_provider.wanted(request.provider, request.static), request.preset or presets.DEFAULT
    )
    onnx_provider.check_full(request.preset or presets.DEFAULT, request.static)
    patterns = (*request.include, *request.exclude)
    if patterns and (request.preset not in DERIVED or not DERIVED[request.preset].int8):
        able = ", ".join(f"onnx:{name}" for name, derived in DERIVED.items() if derived.int8)
        raise UsageError(
            "--include and --exclude choose the products of an int8 graph",
            expected=f"--preset {able}",
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"{pattern!r} is no pattern: {error}", expected="a regular expression"
            ) from None


CONVERSION = Converter(
    summary="Conversion to an ONNX folder for onnxruntime-genai",
    takes=(
        "preset",
        "encoding",
        "plan",
        "statistics",
        "method",
        "device",
        "include",
        "exclude",
        "static",
        "provider",
    ),
    begin=begin,
    sizes=ONNXSizes,
    extra="onnx",
    modules=build.NEEDED,
    check=check,
)
