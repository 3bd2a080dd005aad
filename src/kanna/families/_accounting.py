"""Every key of a config.json accounted for: carried, known to change nothing, or said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kanna._util.typed import shown
from kanna.families._config import Config
from kanna.families._config_keys import ONLY, READ, SYNONYMS, neutral
from kanna.families.base import Family, Problem

_SHOWN = 6
_WRAPPERS = ("text_config", "vision_config", "audio_config")


def problems(family: Family, config: Config) -> list[Problem]:
    """What stands against the keys of a config, and those that no part of kanna knows.

    Args:
        family: The family of the model.
        config: Its config.
    """
    given = {k: v for k, v in config.given.items() if v is not None}
    wrong = [
        Problem(
            f"config.json has {key} = {shown(value)}",
            " or ".join(map(repr, family.fixed[key])) or f"no {key}",
            "no stock runtime computes this model",
        )
        for key, value in given.items()
        if key in family.fixed and not _is_one_of(value, family.fixed[key])
    ]
    wrong += [
        Problem(
            f"config.json has {other} = {shown(given[other])} and {key} = {shown(given[key])}",
            "one number: both mean the same",
            "fetch config.json again from where the model was published",
        )
        for other, key in SYNONYMS.items()
        if key in family.reads and given.get(other, given.get(key)) != given.get(key)
    ]
    rest = {k: v for k, v in given.items() if k not in known(family)}
    for key in sorted(rest.keys() & ONLY.keys()):
        if not _is_one_of(value := rest.pop(key), ONLY[key]):
            wrong.append(
                Problem(
                    f"config.json has {key} = {shown(value)}, which stock "
                    f"{family.architectures[0]} does not compute",
                    " or ".join(map(repr, ONLY[key])) or f"no {key}",
                    "the model differs from its class: convert it with the tools of its makers",
                )
            )
    return wrong + _code(rest.pop("auto_map", None), family) + _unknown(rest, family)


def known(family: Family) -> frozenset[str]:
    """Keys that are read for a family, fixed by it, or neutral everywhere."""
    own = READ | family.reads | family.fixed.keys() | family.bias_flags.keys() | neutral()
    return own | {other for other, key in SYNONYMS.items() if key in own}


def _is_one_of(value: Any, allowed: Iterable[Any]) -> bool:
    """Whether a value is allowed; true is not 1 here."""
    return any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed)


def _code(value: Any, family: Family) -> list[Problem]:
    """A note on code of the model's own, which nothing here runs."""
    key = "AutoModel" if family.encodes else "AutoModelForCausalLM"
    if not isinstance(value, Mapping) or key not in value:
        return []
    return [
        Problem(
            f"config.json names code of the model's own ({value[key]!s:.60}): "
            f"it is not run, the model is converted as the stock {family.architectures[0]}",
            fatal=False,
        )
    ]


def _unknown(rest: Mapping[str, Any], family: Family) -> list[Problem]:
    """A note on keys that neither transformers' class nor kanna reads."""
    names = sorted(k for k in rest if k not in _WRAPPERS)
    if not names:
        return []
    first = ", ".join(f"{k} = {shown(rest[k])[:40]}" for k in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [
        Problem(
            f"config.json has keys that stock {family.architectures[0]} does not read, and that "
            f"are left out: {first}{more}",
            todo="`kanna verify` compares the result with transformers",
            fatal=False,
        )
    ]
