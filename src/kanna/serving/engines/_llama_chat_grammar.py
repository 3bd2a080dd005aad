"""The grammars that llama.cpp makes of a chat's tools and schemas, asked of its own server.

Its form depends on the chat template, in which the model writes its calls. A file with the
vocabulary and the template of the artefact, and one layer of zeros, is enough to ask.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from kanna.errors import KannaError
from kanna.formats.gguf import read
from kanna.serving.engines.chat_check import PLAIN, ChatCheck

_WIDTH, _CONTEXT = 32, 8192
_SHOWS_SETTINGS = 10
"""The verbosity from which on an answer has the settings that it was made with."""
_HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}


class ChatGrammars:
    """llama.cpp's server with a model of zeros.

    Args:
        artefact: A GGUF file.
        check: Whether its chat template can be used.

    Raises:
        KannaError: The file has no vocabulary, or llama.cpp takes it not.
    """

    def __init__(self, artefact: str, check: ChatCheck) -> None:
        library: Any = importlib.import_module("xllamacpp")
        params: Any = library.CommonParams()
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.api_keys = ["none but this process asks"]
        params.n_ctx, params.n_parallel, params.n_threads_http = _CONTEXT, 1, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.use_jinja, params.ui, params.verbosity = True, False, _SHOWS_SETTINGS
        params.fit_params, params.cache_ram_mib, params.warmup = False, 0, False
        params.n_gpu_layers = 0
        if check.problem:
            params.chat_template = PLAIN  # as the engine is started
        with tempfile.TemporaryDirectory(prefix="kanna-") as folder:
            params.model.path = str(_write_zeros(artefact, Path(folder) / "vocabulary.gguf"))
            try:
                self._server: Any = library.Server(params)
            except (RuntimeError, ValueError) as error:
                raise KannaError(f"llama.cpp takes no vocabulary of {artefact}: {error}") from error

    def of(self, fields: dict[str, Any]) -> str:
        """The grammar of a chat; empty where it has none, or llama.cpp refuses it.

        Args:
            fields: Of the chat, those that hold its answer to something.
        """
        with suppress(RuntimeError, ValueError, TypeError, KeyError):
            answer = self._server.handle_chat_completions(_HELLO | fields)
            answer = answer if isinstance(answer, dict) else json.loads(answer)
            return str(answer["__verbose"]["generation_settings"]["grammar"])
        return ""


def _write_zeros(artefact: str, path: Path) -> Path:
    """A llama of one layer with the tokenizer of another file."""
    metadata = read(Path(artefact)).metadata
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise KannaError(f"{artefact} has no vocabulary")
    count = len(tokens.value)
    writer = gguf.GGUFWriter(path, "llama")
    for key, entry in metadata.items():
        if key.startswith("tokenizer."):
            item = None if entry.item is None else gguf.GGUFValueType(entry.item)
            value = list(entry.value) if item is not None else entry.value
            writer.add_key_value(key, value, gguf.GGUFValueType(entry.type), item)
    writer.add_block_count(1)
    writer.add_embedding_length(_WIDTH)
    writer.add_head_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_context_length(_CONTEXT)
    writer.add_layer_norm_rms_eps(1e-5)
    square = np.zeros((_WIDTH, _WIDTH), np.float16)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((count, _WIDTH), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
