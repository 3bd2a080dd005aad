"""A tokenizer as transformers reads it, in a process of its own.

`python -m kanna.tokenizer.reference_worker` answers a task per line. Tokenizers need no torch:
without it transformers loads in a fraction of the time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from kanna._util import outgoing
from kanna._util.hidden_packages import hide
from kanna._util.kept_process import limited, serve
from kanna.errors import KannaError, TemplateLimitError
from kanna.tokenizer.chat import render

_SKIPPED = ("torch", "tensorflow", "jax", "flax")
"""Packages that models alone need."""
_SECONDS, _MEMORY = 20.0, 1 << 30
"""Processor time and bytes in which transformers renders every conversation."""


def read(
    folder: str, texts: list[str], conversations: list[list[dict[str, str]]]
) -> dict[str, Any]:
    """Ids, rendered conversations and special tokens of the tokenizer in a folder.

    Args:
        folder: Of a model, or of tokenizer files alone.
        texts: What is tokenized, framed as the tokenizer frames a text.
        conversations: What its chat template renders, with and without a prompt for the answer.
    """
    import transformers

    try:
        loaded: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever a tokenizer's class raises
        return {"failure": f"{type(error).__name__}: {error}"[:300]}
    rendered = _all_rendered(loaded, conversations)
    chats = [r["text"] for r in rendered if "text" in r]
    return {
        "name": f"transformers {transformers.__version__}",
        "kind": type(loaded).__name__,
        "ids": [loaded.encode(text) for text in texts],
        "rendered": rendered,
        "chat_ids": {c: loaded.encode(c, add_special_tokens=False) for c in chats},
        "tokenizer_json": _made(loaded, folder),
        "bos": loaded.bos_token_id,
        "eos": loaded.eos_token_id,
    }


def _made(loaded: Any, folder: str) -> str:
    """tokenizer.json of a folder that has none."""
    backend = getattr(loaded, "backend_tokenizer", None)
    return "" if backend is None or Path(folder, "tokenizer.json").exists() else backend.to_str()


def _all_rendered(loaded: Any, conversations: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
    """Every conversation with and without a prompt for the answer, or the errors."""
    cases = [(messages, prompt) for messages in conversations for prompt in (True, False)]
    if not loaded.chat_template:
        return [{} for _ in cases]
    try:
        for messages, prompt in cases:
            _vet(loaded, messages, prompt)
    except TemplateLimitError as error:  # transformers would render it without limits
        return [{"error": error.found} for _ in cases]
    with limited(_SECONDS, _MEMORY):
        return [_rendered(loaded, messages, prompt) for messages, prompt in cases]


def _vet(loaded: Any, messages: list[dict[str, str]], prompt: bool) -> None:
    """Render in kanna's sandbox first; raises TemplateLimitError."""
    try:
        render(
            loaded.get_chat_template(),
            messages,
            bos=loaded.bos_token or "",
            eos=loaded.eos_token or "",
            add_generation_prompt=prompt,
        )
    except TemplateLimitError:
        raise
    except (KannaError, ValueError):
        return  # transformers says what it thinks of it


def _rendered(loaded: Any, messages: list[dict[str, str]], prompt: bool) -> dict[str, Any]:
    try:
        text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # whatever a template raises
        return {"error": str(error)[:300]}
    return {"text": text}


if __name__ == "__main__":  # for the whole process, so not in `read`: tests call that in theirs
    os.environ.update(outgoing.LIBRARIES)
    hide(*_SKIPPED)
    sys.exit(serve(read))
