"""What a hub answers, held to what it may say: a mirror, or who sits between, may say anything.

Its library makes paths of names, commits and tags of entities, and reads whatever keeps coming.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from kanna.errors import SourceError

MOST_UNANNOUNCED = 64 << 20
"""Bytes of a file whose size the hub does not say."""
_COMMIT = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
# Headers that the library makes file names of, without a look at them.
_NAMING = ("etag", "x-linked-etag", "x-repo-commit")


def check_names(repo_id: str, files: Iterable[str], commit: str) -> None:
    """Refuse a list of files that would be written elsewhere.

    Args:
        repo_id: The repository.
        files: Names of its files.
        commit: Its commit, or what the user called it.

    Raises:
        SourceError: A name leads out of the repository, or the commit is none.
    """
    for name in files:
        if name.startswith("/") or ".." in name.split("/") or set(name) & {"\\", "\0"}:
            raise SourceError(
                f"the hub says that {repo_id} has the file {name[:100]!r}",
                expected="names inside the repository",
                todo="fetch the model from elsewhere",
            )
    if ".." in commit or not all(_COMMIT.fullmatch(part) for part in commit.split("/")):
        raise SourceError(
            f"the hub says that {repo_id} is at the commit {commit[:100]!r}",
            expected="40 hexadecimal digits",
            todo="fetch the model from elsewhere",
        )


def part(pieces: Iterable[bytes], skipped: int, size: int) -> bytes:
    """`size` bytes of an answer after the first `skipped`; of what comes later nothing is read.

    Args:
        pieces: The answer as it comes.
        skipped: Bytes before the part.
        size: Bytes of the part.
    """
    kept = bytearray()
    for piece in pieces:
        kept += piece[skipped : skipped + size - len(kept)]
        skipped = max(0, skipped - len(piece))
        if len(kept) >= size:
            break
    return bytes(kept)


@contextmanager
def held() -> Generator[None]:
    """For the length of the block, no answer names a file outside the hub's cache."""
    from huggingface_hub.utils import get_session

    client: Any = get_session()
    before = client.event_hooks
    client.event_hooks = before | {"response": [*before.get("response", ()), _check_heads]}
    try:
        yield
    finally:
        client.event_hooks = before


def _check_heads(answer: Any) -> None:
    for header in _NAMING:
        value: str = answer.headers.get(header, "")
        if not value:
            continue
        name = value.removeprefix("W/").strip('"')
        if name in ("", ".", "..") or len(name) > 200 or re.search(r"[/\\\x00-\x1f\x7f]", name):
            raise SourceError(
                f"the hub sent the header {header}: {value[:100]!r}, which would name a file "
                "outside its cache",
                todo="fetch the model from elsewhere",
            )
