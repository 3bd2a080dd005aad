"""Text cut into the windows that llama-perplexity scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kanna._util.nearest import unreadable
from kanna.errors import UsageError
from kanna.evaluation.stats import MIN_WINDOWS
from kanna.evaluation.trained_length import shorter_windows
from kanna.runtimes.base import Engine
from kanna.sources import Source, packages

_MIN_TOKENS = 32
DEFAULT_WINDOWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationWindows:
    """Text as windows of tokens.

    Attributes:
        ids: Token ids of each window.
        first: Positions from here on are scored, each against the token after it.
        notes: Remarks on how the text was cut.
    """

    ids: list[list[int]]
    first: int
    notes: list[str]

    @property
    def positions(self) -> int:
        """Positions that are scored, over all windows."""
        return sum(len(w) - 1 - self.first for w in self.ids)


def text_for(source: Source, text: str | Path | None) -> str | Path | None:
    """The text that a source is measured on: a built-in model may have one of its own."""
    return packages.own_text(source.path) if text is None else text


def read_text(text: str | Path | None, *, offline: bool = False) -> tuple[str, str]:
    """The text to score and its name; None is the WikiText-2 test set.

    Raises UsageError when it cannot be read.
    """
    if text is None:
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
        raise unreadable(path, error, UsageError, expected="a plain text file") from error
    # llama-perplexity drops one newline at the end of a file.
    return content.removesuffix("\n"), "WikiText-2 test" if text is None else path.name


def cut(
    engine: Engine,
    text: str,
    *,
    context: int,
    windows: int | None,
    default: bool,
    tokenize: Callable[[str], list[int]] | None = None,
    trained: int | None = None,
) -> EvaluationWindows:
    """Cut `text` as llama-perplexity does.

    It is tokenized whole and cut into whole windows; the first token of each is replaced by BOS
    where the model adds one, and the second half is scored. Raises UsageError for too short a text.

    Args:
        engine: Whose tokenizer is used.
        text: The text.
        context: Tokens of a window.
        windows: Windows at most; None: all of a given text.
        default: Whether the text is the default one, of which the first windows are enough.
        tokenize: Ids of a text, framed; None: those of the engine.
        trained: Tokens that the model was trained on, 0 if it does not say; None: asks the engine.
    """
    ids = tokenize(text) if tokenize else engine.tokenize(text, add_bos=True)
    notes: list[str] = []
    longest = engine.trained_context if trained is None else trained
    if 0 < longest < context:
        notes.append(shorter_windows(longest))
        context = longest
    if len(ids) < context:
        if len(ids) < _MIN_TOKENS:
            expected = f"at least {_MIN_TOKENS}, better 16 × {context}"
            raise UsageError(f"the text has {len(ids)} tokens", expected=expected)
        notes.append(f"the text has only {len(ids)} tokens: one window of that length")
        context = len(ids)
    count = len(ids) // context
    if windows is None and default and count > DEFAULT_WINDOWS:
        windows = DEFAULT_WINDOWS
        notes.append(
            f"at most the first {windows} of {count} windows of the text; --windows for more"
        )
    if windows is not None and windows > count:
        notes.append(f"the text has {count} windows, not {windows}")
    cut_ids = [ids[i * context : (i + 1) * context] for i in range(min(count, windows or count))]
    if len(cut_ids) < MIN_WINDOWS:
        count_text = "1 window is" if len(cut_ids) == 1 else f"{len(cut_ids)} windows are"
        notes.append(
            f"{count_text} too few for intervals, which take {MIN_WINDOWS}: the figures are rough"
        )
    if engine.adds_bos and engine.bos is not None:
        for window in cut_ids:
            window[0] = engine.bos
    return EvaluationWindows(ids=cut_ids, first=context // 2, notes=notes)
