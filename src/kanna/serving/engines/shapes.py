"""What an answer can be held to, as an engine is asked to try it."""

from __future__ import annotations

SCHEMA, GRAMMAR, CHAT = "schema", "grammar", "chat"
"""A JSON schema, a grammar as it is, and the fields of a chat that hold its answer to something."""
