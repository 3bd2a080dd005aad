"""Qwen3-VL (dense), its model of text: Qwen3 whose positions have a time, a height and a width."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import TypedObject, listed, read, whole
from kanna.families import qwen3
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, Problem
from kanna.model import Model, ValueType, array, u32

ARCH = "qwen3vl"
SECTIONS = (24, 20, 20)
"""Rotary pairs of time, height and width, where config.json is silent; text turns all alike."""
READS = frozenset(
    {"image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"}
)
ROPE_READS = frozenset({"mrope_section", "mrope_interleaved"})
SKIPPED = (r"(model\.)?visual\..*",)
_COUNTS = listed(whole())
_MOST_STACKED = 64


def stacked(config: dict[str, Any] | Any) -> list[int]:
    """Layers of the vision tower whose states are added to those of the first layers of text.

    Args:
        config: config.json, with its vision part; without one there are none.
    """
    part = TypedObject(config, "config.json").part("vision_config")
    return part.get("deepstack_visual_indexes", listed(whole(), _MOST_STACKED), [])


def metadata(c: Config, arch: str = ARCH) -> Metadata:
    """The keys of `arch`."""
    sections = c.rope().params.get("mrope_section", list(SECTIONS))
    parts = read(sections, _COUNTS, "mrope_section", "config.json")
    return common(arch, c, head_dim=True) | {
        f"{arch}.rope.dimension_sections": array([*parts, 0], ValueType.I32),
        f"{arch}.n_deepstack_layers": u32(len(stacked(c.raw))),
    }


def checks(c: Config) -> list[Problem]:
    """Three sections that make up half a head, taken in turns."""
    params = c.rope().params
    problems: list[Problem] = []
    parts = read(
        params.get("mrope_section", list(SECTIONS)), _COUNTS, "mrope_section", "config.json"
    )
    if len(parts) != 3 or sum(parts) != c.head_dim // 2:
        problems.append(
            Problem(
                f"config.json has mrope_section = {parts} for heads of {c.head_dim}",
                "three counts that make up half a head",
            )
        )
    if params.get("mrope_interleaved") is False:
        problems.append(Problem("config.json has mrope_interleaved = false", "true"))
    if len(stacked(c.raw)) > c.layers:
        problems.append(
            Problem(
                f"{len(stacked(c.raw))} layers of the tower reach {c.layers} layers of text",
                "no more of them than layers of text",
            )
        )
    return problems


def to_config(_: Model) -> dict[str, Any]:
    """Of the text alone Qwen3's: three positions that are the same turn a head as one does."""
    return {
        "architectures": [qwen3.FAMILY.architectures[0]],
        "model_type": qwen3.FAMILY.model_type,
    }


FAMILY = Family(
    arch=ARCH,
    summary="Qwen3-VL (dense), its model of text: Qwen3 with positions of three numbers",
    architectures=("Qwen3VLForConditionalGeneration",),
    model_type="qwen3_vl_text",
    model_types=("qwen3_vl",),
    metadata=metadata,
    names=qwen3.FAMILY.names,
    optional=qwen3.FAMILY.optional,
    defaults=dict(qwen3.FAMILY.defaults) | {"num_key_value_heads": 32, "rope_theta": 5e5},
    fixed=qwen3.FAMILY.fixed,
    bias_flags=qwen3.FAMILY.bias_flags,
    reads=READS,
    rope_types=frozenset({"default"}),
    rope_reads=ROPE_READS,
    skipped=SKIPPED,
    checks=checks,
    to_config=to_config,
)
