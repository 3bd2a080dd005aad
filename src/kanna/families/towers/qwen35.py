"""The tower of Qwen3.5, 3.6 and 3.8: Qwen3-VL's, whose last layer alone the text sees."""

from __future__ import annotations

from dataclasses import replace

from kanna.families.towers import qwen3vl

_STACKED = "deepstack_visual_indexes"

TOWER = replace(
    qwen3vl.TOWER,
    summary="Qwen3.5, 3.6 and 3.8: patches of two frames, states of the last layer in squares",
    architectures=("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
    defaults=dict(qwen3vl.TOWER.defaults) | {_STACKED: []},
    fixed=dict(qwen3vl.TOWER.fixed) | {_STACKED: ([],)},
)
