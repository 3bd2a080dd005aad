"""A folder's tokenizer as onnxruntime-genai reads it, in a process of its own.

`python -m kanna.verification.folder_tokenizer.genai_worker` answers a task per line.
"""

from __future__ import annotations

import sys
from typing import Any

from kanna._util.kept_process import limited, serve

_SECONDS = 20.0
"""Processor time for all texts of a folder."""


def read(folder: str, texts: list[str]) -> dict[str, Any]:
    """Ids of texts, without the tokens that frame a text.

    Args:
        folder: With genai_config.json and tokenizer files; no graph is loaded.
        texts: What is tokenized.
    """
    import importlib.metadata

    import onnxruntime_genai as genai_module

    genai: Any = genai_module

    name = f"onnxruntime-genai {importlib.metadata.version('onnxruntime-genai')}"
    try:
        with limited(_SECONDS):
            tokenizer = genai.Tokenizer(folder)
            ids = [[int(i) for i in tokenizer.encode(text)] for text in texts]
    except Exception as error:  # whatever the library raises
        return {"failure": f"{name} does not take it: {' '.join(str(error).split())[:200]}"}
    return {"name": name, "ids": ids}


if __name__ == "__main__":
    sys.exit(serve(read))
