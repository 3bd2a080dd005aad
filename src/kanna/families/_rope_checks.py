"""Every parameter of a rotary embedding accounted for, as `_accounting` does with config keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna._util.typed import real, shown
from kanna.families._config import Config
from kanna.families._rope import LAYER_TYPES, Rope, given_parameters
from kanna.families.base import Family, Problem

_BASE = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_YARN = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
PARAMETERS: Mapping[str, frozenset[str]] = {
    "default": _BASE,
    "proportional": _BASE,
    "linear": _BASE | {"factor"},
    "dynamic": _BASE | _YARN | {"alpha", "factor"},
    "yarn": _BASE | _YARN | {"factor", "original_max_position_embeddings"},
    "llama3": _BASE
    | {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "longrope": _BASE
    | {
        "attention_factor",
        "factor",
        "long_factor",
        "original_max_position_embeddings",
        "short_factor",
    },
}
"""What each rope type reads of its parameters."""
YARN_FIXED: Mapping[str, Any] = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
"""llama.cpp reads these of two other architectures alone."""
_LONGROPE = ("su", "longrope")
_ALL = frozenset(key for keys in PARAMETERS.values() for key in keys)


def problems(family: Family, config: Config) -> list[Problem]:
    """What llama.cpp cannot compute of the rotary embedding of a config, and what it ignores.

    Args:
        family: The family of the model.
        config: Its config.
    """
    kinds = family.rope_types
    if not kinds:
        return []
    rope = config.rope()
    sliding = config.rope("sliding_attention") if family.sliding else None
    unknown = {r.kind for r in (rope, sliding) if r is not None} - kinds
    if unknown:
        return [
            Problem(f"rope scaling {kind!r} is not known", ", ".join(sorted(kinds)))
            for kind in sorted(unknown)
        ]
    wrong = _two_spellings(config)
    if sliding is not None and sliding.kind != "default":
        wrong.append(
            Problem(
                "config.json scales the rotary embedding of sliding layers",
                "rope_type default for sliding_attention",
                "no stock runtime computes this model",
            )
        )
    part = rope.params.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if "partial_rotary_factor" not in family.reads and real(part) != 1.0:
        wrong.append(
            Problem(
                f"config.json has partial_rotary_factor = {shown(part)}",
                "1.0: every value of a head rotates",
                "no stock runtime computes this model",
            )
        )
    return wrong + _parameters(rope, family.rope_reads, longrope="longrope" in kinds)


def _parameters(rope: Rope, own: frozenset[str], *, longrope: bool) -> list[Problem]:
    """Parameters that the rope type does not read, and values llama.cpp has not."""
    kind = "longrope" if rope.kind in _LONGROPE or (longrope and rope.kind != "default") else ""
    kind = kind or rope.kind
    given = {
        k: v
        for k, v in rope.params.items()
        if v is not None and k not in LAYER_TYPES and k not in own
    }
    wrong = [
        Problem(
            f"the rotary embedding has the parameter {key} = {shown(given[key])}",
            ", ".join(sorted(PARAMETERS.get(kind, _ALL))),
            "no stock runtime computes this model",
        )
        for key in sorted(given.keys() - _ALL)
    ]
    for key, only in YARN_FIXED.items() if kind == "yarn" else ():
        if given.get(key, only) != only:
            wrong.append(
                Problem(
                    f"rope scaling 'yarn' has {key} = {shown(given[key])}",
                    f"{only}, which llama.cpp computes whatever the file says",
                    "no stock runtime computes this model",
                )
            )
    idle = sorted((given.keys() & _ALL) - PARAMETERS.get(kind, _ALL))
    if idle:
        wrong.append(
            Problem(
                f"rope type {kind!r} does not read {', '.join(idle)}: left out, as transformers "
                "does",
                fatal=False,
            )
        )
    return wrong


def _two_spellings(config: Config) -> list[Problem]:
    """Where rope_scaling and rope_parameters are both given, and which of them counts."""
    old: Any = config.get("rope_scaling")
    new: Any = config.get("rope_parameters")
    if not old or not new or old == new:
        return []
    params = given_parameters(config.values)
    theta = config.rope().theta
    lost = new.get("rope_theta") if isinstance(new, Mapping) else None
    if params is old and lost is not None and real(lost) != theta:
        return [
            Problem(
                f"config.json has rope_scaling, and rope_parameters with rope_theta {shown(lost)}: "
                f"transformers takes the first alone, with a rope_theta of {theta:g}",
                "one of the two",
                f"put rope_type, rope_theta {shown(lost)} and the numbers of rope_scaling into "
                "rope_parameters, and leave rope_scaling out",
            )
        ]
    return [
        Problem(
            "config.json has rope_scaling and rope_parameters, which differ: rope_scaling counts, "
            "as in transformers",
            fatal=False,
        )
    ]
