"""The tokenizer of onnxruntime-genai, which is code of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from kanna._util import library_answers
from kanna._util.digest import sha256
from kanna._util.kept_process import ask_kept
from kanna.formats.onnx.build import GENAI
from kanna.sources.packages import cache_dir
from kanna.tokenizer.files import side_files
from kanna.verification.folder_tokenizer.readings import TokenIds

PACKAGE = "onnxruntime-genai"
_WORKER = "kanna.verification.folder_tokenizer.genai_worker"
_KEPT = 64


def read(files: Mapping[str, Path], texts: Sequence[str]) -> TokenIds | str:
    """Ids of `texts`, not framed; see `Reader`. They are asked for once per set of files."""
    if importlib.util.find_spec("onnxruntime_genai") is None:
        return f"{PACKAGE} is not installed"
    digests = {n: sha256(p) for n, p in sorted({**side_files(files), GENAI: files[GENAI]}.items())}
    task = {"folder": str(files[GENAI].parent), "texts": list(texts)}
    return library_answers.answer(
        cache_dir() / "genai-readings",
        [importlib.metadata.version(PACKAGE), digests, task["texts"]],
        lambda: ask_kept(_WORKER, task, PACKAGE),
        lambda answer: TokenIds(**answer, framed=False),
        most=_KEPT,
    )


READER = read
