"""Every field of a tokenizer's files, and what becomes of it in a GGUF.

A field is carried, proved to change nothing, named in a note, or a reason to refuse; one that is
not in these tables is named in a note. Folders for other runtimes keep the files as they are.
"""

from __future__ import annotations

from kanna.tokenizer.fields.base import Fate, Field, Finding, Parts
from kanna.tokenizer.fields.judge import TABLES, judge

__all__ = ["TABLES", "Fate", "Field", "Finding", "Parts", "judge"]
