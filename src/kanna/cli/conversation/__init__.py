"""A conversation in the terminal: what is said, the lines people type, and the commands in them."""

from __future__ import annotations

from kanna.cli.conversation.commands import run_command
from kanna.cli.conversation.line_reader import LineReader
from kanna.cli.conversation.state import Conversation

__all__ = ["Conversation", "LineReader", "run_command"]
