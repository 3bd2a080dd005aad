"""The last error, kept for a report, without what identifies or lets in."""

from __future__ import annotations

import json
import re
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from kanna._util.folders import state_folder

FILE = "last-error.json"
_SECRETS = (
    (re.compile(r"\bkanna-[0-9a-f]{8}-[\w-]+"), "kanna-…"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_…"),
    (re.compile(r"\b(sk|ghp|gho|github_pat|AKIA)[-_A-Za-z0-9]{12,}"), "…"),
    (re.compile(r"(?i)(bearer\s+)\S+"), r"\1…"),
    (re.compile(r"[^/\s:@]+:[^/\s:@]+@"), "…@"),
    (re.compile(r"(?i)\b((?:token|key|secret|password)\s*[=:]\s*)[^\s,;]+"), r"\1…"),
)


def redacted(text: str) -> str:
    """A text without keys, tokens, passwords and the path of the home folder."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def remember(error: BaseException, command: str) -> None:
    """Keep an error for `kanna bug-report`; never raises."""
    entry = {
        "command": command,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "kind": type(error).__name__,
        "message": redacted(str(error)),
        "traceback": redacted("".join(traceback.format_exception(error))),
    }
    with suppress(OSError):
        folder = state_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(entry), encoding="utf-8")


def last() -> dict[str, Any] | None:
    """The error that was kept, or None."""
    try:
        entry = json.loads((state_folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None
