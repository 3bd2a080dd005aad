"""Added tokens that swallow the whitespace next to them, which llama.cpp reads from a model's name.

It has no metadata for it. A general.name with `phi-3` or `phi3` in it makes every special token but
three swallow the whitespace after it, and makes loading fail where those tokens are not there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

_NAME = re.compile(r"phi-?3", re.IGNORECASE)
_KEPT = {"<unk>", "<s>", "<|endoftext|>"}
_NEEDED = _KEPT | {"</s>"}


def stripping(tokenizer: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Texts of the added tokens that swallow whitespace before them, and after them."""
    added = [a for a in tokenizer.get("added_tokens") or [] if isinstance(a, dict)]
    left, right = (
        {str(a["content"]) for a in added if a.get(side)} for side in ("lstrip", "rstrip")
    )
    return left, right


def runtime_name(name: str, tokens: Collection[str], right: set[str]) -> str:
    """`name`, changed only where llama.cpp's reading of it would tokenize wrongly or not load."""
    present = set(tokens) if right or _NAME.search(name) else set[str]()
    like_phi3 = present >= _NEEDED and bool(right) and not right & _KEPT
    if like_phi3 and not _NAME.search(name):
        spaced = re.sub(r"phi 3", "Phi-3", name, count=1, flags=re.IGNORECASE)
        return spaced if spaced != name else f"{name} (Phi-3)"
    return name if like_phi3 else _NAME.sub("Phi 3", name)


def strip_notes(name: str, left: set[str], right: set[str]) -> list[str]:
    """What the user must know: whitespace that transformers removes and llama.cpp keeps."""
    lost = sorted(left | (set[str]() if _NAME.search(name) else right))
    if not lost:
        return []
    shown = ", ".join(lost[:4]) + (", …" if len(lost) > 4 else "")
    return [
        f"transformers removes whitespace beside {shown}; llama.cpp keeps it, and then gives other "
        "token ids"
    ]
