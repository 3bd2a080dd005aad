"""Text cut into the windows that llama-perplexity scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kanna.errors import UsageError
from kanna.evaluation.stats import MIN_WINDOWS
from kanna.runtimes.base import Engine

_MIN_TOKENS = 32
_DEFAULT_WINDOWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Token ids of each window.

    Positions from `first` on are scored, each against the token after it.
    """

    ids: list[list[int]]
    first: int
    notes: list[str]

    @property
    def positions(self) -> int:
        return sum(len(w) - 1 - self.first for w in self.ids)


def read_text(text: str | Path | None, *, offline: bool = False) -> tuple[str, str]:
    """The text to score and what to call it.

    None is the WikiText-2 test set. Raises UsageError when unreadable.
    """
    if text is None:
        from kanna.sources import packages

        path = packages.wikitext()
    else:
        path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: {error}", expected="a plain text file"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", expected="a plain text file"
        ) from error
    # llama-perplexity drops one newline at the end of a file.
    return content.removesuffix("\n"), "WikiText-2 test" if text is None else path.name


def cut(engine: Engine, text: str, *, context: int, windows: int | None, default: bool) -> Windows:
    """Cut `text` as llama-perplexity does.

    Tokenized whole, whole windows only, the first token of each replaced by BOS where the model
    adds one, the second half scored. Raises UsageError when the text is too short.
    """
    ids = engine.tokenize(text, add_bos=True)
    notes: list[str] = []
    if 0 < engine.trained_context < context:
        notes.append(
            f"the model was trained on {engine.trained_context} tokens: windows of that length"
        )
        context = engine.trained_context
    if len(ids) < context:
        if len(ids) < _MIN_TOKENS:
            expected = f"at least {_MIN_TOKENS}, better 16 × {context}"
            raise UsageError(f"the text has {len(ids)} tokens", expected=expected)
        notes.append(f"the text has only {len(ids)} tokens: one window of that length")
        context = len(ids)
    count = len(ids) // context
    if windows is None and default and count > _DEFAULT_WINDOWS:
        windows = _DEFAULT_WINDOWS
        notes.append(f"the first {windows} of {count} windows of the text; --windows for more")
    if windows is not None and windows > count:
        notes.append(f"the text has {count} windows, not {windows}")
    made = [ids[i * context : (i + 1) * context] for i in range(min(count, windows or count))]
    if len(made) < MIN_WINDOWS:
        what = "1 window is" if len(made) == 1 else f"{len(made)} windows are"
        notes.append(
            f"{what} too few for intervals, which take {MIN_WINDOWS}: the figures are rough"
        )
    if engine.adds_bos and engine.bos is not None:
        for window in made:
            window[0] = engine.bos
    return Windows(ids=made, first=context // 2, notes=notes)
