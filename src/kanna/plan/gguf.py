"""Presets of GGUF: llama.cpp's mixes as plans, which encoding each tensor of a model gets."""

from __future__ import annotations

from functools import partial

from kanna import encodings
from kanna.model import Model, Tensor, columns
from kanna.plan import roles
from kanna.plan.file import Plan, RuleModel
from kanna.plan.gguf_conditions import Place
from kanna.plan.gguf_mixes import MIXES, Mix
from kanna.plan.presets import Preset, for_any_model, rule_for, unknown_preset

DEFAULT = "Q4_K_M"
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
# What a plan gives to tensors it says nothing of.
_UNNAMED = "Q8_0"
_BY_NAME = {mix.name: mix for mix in MIXES}
UNNAMED_FILE_TYPE = 1024
"""llama.cpp's file type of a file that names none (LLAMA_FTYPE_GUESSED)."""


def names() -> list[str]:
    """Names of all presets, from large to small."""
    return list(_BY_NAME)


def get(name: str) -> Mix:
    """The mix called `name` (any case, llama.cpp's aliases too).

    UnknownPresetError names the nearest.
    """
    wanted = name.upper()
    mix = _BY_NAME.get(ALIASES.get(wanted, wanted))
    if mix is None:
        raise unknown_preset(wanted, names())
    return mix


def canonical(name: str) -> str:
    """The name of the preset that `name` means; raises PlanError for none."""
    return get(name).name


def file_type(plan: Plan) -> int:
    """llama.cpp's number for a file of this plan."""
    option, value = plan.origin or ("", "")
    preset = plan.preset or (value if option == "preset" else None)
    if preset is None and plan.encoding is None:
        preset = _UNNAMED
    if preset is not None:
        return get(preset).file_type
    number = encodings.get(plan.encoding or "").file_type
    return UNNAMED_FILE_TYPE if number is None else number


def completed(plan: Plan, model: Model, *, weighted: bool, method: str) -> Plan:
    """The plan with the preset it names spelled out after its own rules.

    Args:
        plan: The plan, with or without a preset.
        model: The model it is meant for.
        weighted: Whether the importance of columns was measured.
        method: How values of tensors without a rule are chosen.
    """
    if plan.preset is None and plan.encoding is not None:
        return plan
    mix = get(plan.preset or _UNNAMED)
    rest = PRESETS[mix.name].plan(model, weighted=weighted).with_method(method)
    own = plan.rules or plan.tuning
    return plan.model_copy(
        update={
            "name": plan.name if own else mix.name,
            "preset": None,
            "encoding": rest.encoding,
            "rules": [*plan.rules, *rest.rules],
        }
    )


def _plan(mix: Mix, model: Model, weighted: bool, _: str) -> Plan:
    """The mix as a plan: a rule for every matrix of `model` that differs from the base."""
    rules: list[RuleModel] = []
    if encodings.get(mix.base).block > 1:
        shape = _Shape(model, weighted)
        for name, tensor in model.tensors.items():
            if roles.quantizable(tensor):
                encoding = shape.encoding(mix, tensor)
                if encoding != mix.base:
                    rules.append(rule_for(name, encoding))
    return Plan(name=mix.name, encoding=mix.base, rules=rules)


class _Shape:
    """What the rules of mixes ask of a model."""

    def __init__(self, model: Model, weighted: bool) -> None:
        self.weighted = weighted
        self.tied = "output.weight" not in model.tensors
        self.num_layers = _first(model.meta("{arch}.block_count", 0))
        heads = _first(model.meta("{arch}.attention.head_count", 0))
        kv_heads = _first(model.meta("{arch}.attention.head_count_kv", heads))
        self.gqa = heads // kv_heads if kv_heads else 1
        self.experts = _first(model.meta("{arch}.expert_count", 0))
        self.is_70b = self.num_layers == 80 and model.family in ("llama", "qwen2") and self.gqa > 1
        ordered = sorted(model.tensors, key=roles.order)
        values = [n for n in ordered if roles.role(n, tied=self.tied) == "attn_v"]
        self.value_index = {name: i for i, name in enumerate(values)}

    def encoding(self, mix: Mix, tensor: Tensor) -> str:
        """What llama.cpp gives a tensor that may be quantized."""
        name = tensor.name
        role = roles.role(name, tied=self.tied)
        if role == "output":
            return "q8_0" if columns(tensor) % encodings.get(mix.base).block else mix.output
        if mix.name == "MXFP4_MOE":
            return "mxfp4" if len(tensor.shape) == 3 else "q8_0"
        if role == "attn_v":
            index, count = self.value_index[name], len(self.value_index)
        else:
            index, count = roles.layer(name) or 0, self.num_layers
        place = Place(
            role=role,
            index=index,
            count=count,
            gqa=self.gqa,
            experts=self.experts,
            imatrix=self.weighted,
        )
        encoding = next((e for r, e, when in mix.rules if r == role and when(place)), mix.base)
        return encoding if mix.low else self._large(role, encoding)

    def _large(self, role: str, encoding: str) -> str:
        """Two exceptions of llama.cpp: small attn_v of 70B models, and models of eight experts."""
        if role == "attn_v" and self.is_70b and encoding in ("q3_k", "q4_k"):
            encoding = "q5_k"
        if role in ("attn_v", "attn_k") and self.experts == 8:
            encoding = "q8_0"
        return encoding


def _first(value: object) -> int:
    """A number that some models give per layer: the first one."""
    if isinstance(value, (int, float)):
        return int(value)
    return int(value[0]) if value is not None and len(value) else 0  # type: ignore[index, arg-type]


def _has_experts(model: Model) -> bool:
    return bool(_first(model.meta("{arch}.expert_count", 0)))


def _preset(mix: Mix) -> Preset:
    return Preset(
        name=mix.name,
        summary=mix.summary,
        make=partial(_plan, mix),
        special=mix.special,
        # Without experts MXFP4_MOE is Q8_0.
        suits=_has_experts if mix.name == "MXFP4_MOE" else for_any_model,
        facts={
            "base": mix.base,
            "file type": mix.file_type,
            "output": mix.output,
            "rules": len(mix.rules),
        },
        where=f"{__name__}:PRESETS",
    )


PRESETS = {mix.name: _preset(mix) for mix in MIXES}
