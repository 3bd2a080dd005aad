"""What the library `tokenizers` does with files of strangers, with errors as kanna raises them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from kanna.errors import FormatError

_PANIC = "PanicException"


def is_failure(error: BaseException) -> bool:
    """Whether the library failed: by a bare Exception, or a panic of Rust, which is none.

    It panics where a regular expression backtracks beyond its limit, among others; that must not
    be taken for Ctrl-C.
    """
    return isinstance(error, Exception) or type(error).__name__ == _PANIC


@contextmanager
def refusals(what: str) -> Generator[None]:
    """Turn a failure of the library into a FormatError.

    Args:
        what: What it was asked for, such as "tokenizer.json cannot split a text".

    Raises:
        FormatError: The library failed.
    """
    try:
        yield
    except FormatError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise FormatError(
            f"{what}: {reason}",
            expected="a tokenizer that the library tokenizers can run",
            todo="fetch tokenizer.json again; a pattern of it that takes too long is among the "
            "reasons",
        ) from error
