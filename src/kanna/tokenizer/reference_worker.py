"""A tokenizer as transformers reads it, in a process of its own.

`python -m kanna.tokenizer.reference_worker JSON`. Tokenizers need no torch: without it transformers
loads in a fraction of the time.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from kanna._util.processes import answer

_SKIPPED = ("torch", "tensorflow", "jax", "flax")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def _without_torch() -> None:
    """Let transformers find none of the packages that models alone need."""
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in _SKIPPED else find(name, package)

    importlib.util.find_spec = found


def read(
    folder: str, texts: list[str], conversations: list[list[dict[str, str]]]
) -> dict[str, Any]:
    """Ids, rendered conversations and special tokens of the tokenizer in a folder.

    Args:
        folder: Of a model, or of tokenizer files alone.
        texts: What is tokenized, framed as the tokenizer frames a text.
        conversations: What its chat template renders, with and without a prompt for the answer.
    """
    os.environ.update(_OFFLINE)
    _without_torch()
    import transformers

    try:
        loaded: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever a tokenizer's class raises
        return {"failure": f"{type(error).__name__}: {error}"[:300]}
    rendered = [
        _rendered(loaded, messages, prompt)
        for messages in conversations
        for prompt in (True, False)
    ]
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


def _rendered(loaded: Any, messages: list[dict[str, str]], prompt: bool) -> dict[str, Any]:
    if not loaded.chat_template:
        return {}
    try:
        text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # whatever a template raises
        return {"error": str(error)[:300]}
    return {"text": text}


if __name__ == "__main__":
    sys.exit(answer(read))
