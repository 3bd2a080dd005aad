"""Write docs/config.md from the code: `python tools/config_keys.py`. A test compares the two."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kanna import families
from kanna.errors import KannaError
from kanna.families import _config_keys, _rope_checks
from kanna.families._config import Config
from kanna.families.base import Family

PAGE = Path(__file__).parent.parent / "docs" / "config.md"
HEAD = """\
# Keys of config.json

Every key of a source's `config.json` is one of these: carried into the file, known to change
nothing, accepted with some values alone, or unknown. An unknown key is said in a note, as the class
of transformers does not read it either. A key that changes the computation of some models is
refused where the family does not compute it. Null is as good as absent, but where it says that
something is off.

This page is made from the code by `make docs`. MLX and ONNX folders get the same keys as
`config.json`, from which their runtimes read them.
"""
_WIDE = {"hidden_size", "num_attention_heads"}
"""Sizes that others follow from."""


def page() -> str:
    """The text of docs/config.md."""
    parts = [HEAD, *(_family(name) for name in families.names()), _rope(), _only(), _neutral()]
    return "\n".join(parts)


def _family(name: str) -> str:
    family = families.get(name)
    lines = [f"## {name}", "", "| key | default | becomes |", "|---|---|---|"]
    keys = (_config_keys.READ | family.reads | family.defaults.keys()) - family.fixed.keys()
    for key in sorted(keys - family.bias_flags.keys()):
        default = family.defaults.get(key)
        shown = "" if default is None else f"`{default}`"
        lines.append(f"| `{key}` | {shown} | {_becomes(family, key, default)} |")
    for key, parts in sorted(family.bias_flags.items()):
        lines.append(f"| `{key}` | `False` | {_codes(f'blk.N.{p}.bias' for p in parts)} |")
    for key, values in sorted(family.fixed.items()):
        only = " or ".join(f"`{v}`" for v in values) or "absent"
        lines.append(f"| `{key}` | | only {only} |")
    lines.append(f"| rope types | | only {_codes(sorted(family.rope_types))} |")
    return "\n".join([*lines, ""])


def _becomes(family: Family, key: str, default: Any) -> str:
    """The metadata that another value of a key changes."""
    if not isinstance(default, int | float) or isinstance(default, bool):
        return _WORDS.get(key, "read")
    plain = Config({}, family.defaults)
    changed = Config({key: default * 2}, family.defaults)
    try:
        before, after = family.metadata(plain), family.metadata(changed)
    except KannaError:
        return "read"
    names = [k for k in after if after[k] != before.get(k)]
    if key in _WIDE:
        names = [n for n in names if n.endswith(("embedding_length", "head_count"))]
    return _codes(names) or _WORDS.get(key, "checked")


_WORDS = {
    "architectures": "the family",
    "hidden_act": "nothing: `hidden_activation` counts",
    "layer_types": "the pattern of layers with a window",
    "model_type": "the family, where no architecture is named",
    "num_key_value_heads": "heads of keys and values",
    "head_dim": "length of keys and values, the shapes of q, k and v",
    "partial_rotary_factor": "values of a head that rotate; all of them unless said here",
    "quantization_config": "how packed weights are read",
    "rope_parameters": "the rotary embedding, see below",
    "rope_scaling": "the rotary embedding, see below",
    "rope_theta": "the rotary embedding, see below",
    "original_max_position_embeddings": "the rotary embedding, see below",
    "text_config": "its keys, before those around it",
    "tie_word_embeddings": "whether there is an `output.weight`; one that differs is kept",
    "vocab_size": "rows of the embedding",
}


def _rope() -> str:
    lines = [
        "## Rope parameters",
        "",
        _wrapped(
            "Of `rope_parameters` (transformers 5), or `rope_scaling`, which counts where both are "
            "given. Others are refused; those that a type does not read are said."
        ),
        "",
        "| type | parameters |",
        "|---|---|",
    ]
    for kind, keys in _rope_checks.PARAMETERS.items():
        lines.append(f"| `{kind}` | {_codes(sorted(keys))} |")
    fixed = ", ".join(f"`{k}` {v}" for k, v in _rope_checks.YARN_FIXED.items())
    return "\n".join([*lines, "", f"Of yarn llama.cpp computes only {fixed}.", ""])


def _only() -> str:
    lines = ["## Refused unless they change nothing", "", "| key | accepted |", "|---|---|"]
    for key, values in _config_keys.ONLY.items():
        lines.append(f"| `{key}` | {_codes(map(str, values)) or 'null'} |")
    return "\n".join([*lines, "", "Families that read such a key carry it instead.", ""])


def _neutral() -> str:
    lines = ["## Change nothing", ""]
    for reason, keys in _config_keys.NEUTRAL.items():
        lines += [_wrapped(f"- {reason}: {_codes(keys)}", "  ")]
    return "\n".join([*lines, ""])


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
