"""Where on the Hugging Face hub a push goes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kanna.errors import UsageError

FORM = "hf:OWNER/NAME"
_NAME = re.compile(r"hf:(?://)?([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubBranch:
    """A branch of a repository on the hub.

    Attributes:
        id: Owner and name.
        revision: The branch.
    """

    id: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf:{self.id}" + ("" if self.revision == "main" else f"@{self.revision}")


def destination(text: str, revision: str | None) -> HubBranch | None:
    """The branch that a destination names; None where it is none of the hub.

    Args:
        text: As the user wrote it.
        revision: Of the option `--revision`.

    Raises:
        UsageError: It names none, or two revisions.
    """
    if not text.startswith("hf:"):
        return None
    match = _NAME.fullmatch(text)
    if match is None:
        raise UsageError(f"{text} names no repository of the hub", expected=FORM)
    if match[2] and revision not in (None, match[2]):
        raise UsageError(f"{text} names a revision, --revision {revision}", expected="one of them")
    return HubBranch(id=match[1], revision=revision or match[2] or "main")
