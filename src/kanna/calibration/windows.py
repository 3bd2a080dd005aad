"""Documents cut into windows of tokens, with some of each kind held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanna import families
from kanna.calibration.texts import Document
from kanna.errors import UsageError
from kanna.model import Model
from kanna.tokenizer import library

WINDOW = 512
HELD_OUT = 8
"""One window in so many is held out of the statistics, and decides their shrinkage."""
_LEAST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationWindows:
    """Calibration text as windows of tokens.

    Attributes:
        ids: Token ids, int32 [windows, tokens].
        domains: The kind of text of each window.
        held: Whether each window is held out of the statistics, bool [windows].
        held_texts: The texts of those that are.
        first: Where these windows begin in those of the whole text; not 0 in a shard.
    """

    ids: NDArray[np.int32]
    domains: list[str]
    held: NDArray[np.bool_]
    held_texts: list[str]
    first: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that count, without those held out."""
        return int((~self.held).sum()) * self.ids.shape[1]

    @property
    def held_text(self) -> str:
        """The text of the windows that are held out."""
        return "".join(self.held_texts)


def cut(documents: Sequence[Document], model: Model, *, tokens: int) -> CalibrationWindows:
    """Windows of about `tokens` tokens in all, the domains in turn, so that few are mixed too.

    The first token of each is the one the model begins texts with, where it has one.
    """
    import tokenizers

    files = families.to_hf(model)[2]
    streams: dict[str, list[int]] = {}
    with library.refusals("tokenizer.json cannot split the calibration text"):
        tokenizer: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(
            files["tokenizer.json"].decode()
        )
        for document in documents:
            streams.setdefault(document.domain, []).extend(
                tokenizer.encode(document.text, add_special_tokens=False).ids
            )
    total = sum(map(len, streams.values()))
    context = model.whole("{arch}.context_length", 0) or WINDOW
    size = min(WINDOW, context, total)
    if size < _LEAST:
        raise UsageError(
            f"the calibration text has {total} tokens",
            expected=f"at least {_LEAST}, better 16,000 of several kinds",
        )
    pieces = {
        name: [s[i : i + size] for i in range(0, len(s) - size + 1, size)]
        for name, s in streams.items()
    }
    if not any(pieces.values()):
        # Many short texts: joined, they make windows.
        joined = [t for s in streams.values() for t in s]
        pieces = {"mixed": [joined[i : i + size] for i in range(0, len(joined) - size + 1, size)]}
    chosen: list[tuple[str, int]] = []
    for turn in range(max(map(len, pieces.values()))):
        chosen += [(name, turn) for name, parts in pieces.items() if turn < len(parts)]
    chosen = chosen[: max(1, round(tokens / size))]
    ids = np.array([pieces[name][turn] for name, turn in chosen], np.int32)
    held = np.array([turn % HELD_OUT == HELD_OUT // 2 for _, turn in chosen])
    held_texts = [
        tokenizer.decode(list(map(int, row)), skip_special_tokens=False) for row in ids[held]
    ]
    begin = model.meta("tokenizer.ggml.bos_token_id")
    if begin is not None and model.meta(
        "tokenizer.ggml.add_bos_token", model.meta("tokenizer.ggml.model") == "llama"
    ):
        ids[:, 0] = int(begin)
    return CalibrationWindows(
        ids=ids, domains=[name for name, _ in chosen], held=held, held_texts=held_texts
    )
