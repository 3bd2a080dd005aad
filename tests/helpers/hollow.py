"""Models of real shapes without weights, and what llama.cpp's log says it allocates for them."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from helpers.headers import tensors_of
from kanna import families
from kanna.conversion import ConversionRequest
from kanna.conversion.gguf import GGUFConversion
from kanna.families._config import Config
from kanna.formats.gguf.layout import layout
from kanna.formats.memory import BATCH
from kanna.libllama.functions import LOG_CALLBACK
from kanna.model import Model
from kanna.runtimes import llamacpp
from kanna.runtimes._llama_log import LOG
from kanna.runtimes.llama_model import model_parameters
from kanna.sources import open_source


@dataclass(frozen=True)
class Allocation:
    """Bytes of what llama.cpp allocates, as its log has them: to a hundredth of a MiB each."""

    cache: float
    state: float
    compute: float


def folder(family: str, config: dict[str, Any], out: Path) -> Path:
    """A Hugging Face folder in the shape of a model of `family`, whose weights take no disk."""
    from helpers.tiny_models import write_tokenizer

    known = families.get(family)
    config = {"architectures": [known.architectures[0]], "bos_token_id": 1, "eos_token_id": 2} | (
        config
    )
    headers = tensors_of(known, Config(config, known.defaults))
    if config.get("tie_word_embeddings", known.defaults.get("tie_word_embeddings")):
        headers.pop("lm_head.weight", None)
    out.mkdir(parents=True)
    write_tokenizer("qwen2", out, 512)
    (out / "config.json").write_text(json.dumps(config))
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in headers.items():
        start, end = end, end + 2 * math.prod(tensor.shape)
        entries[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    with (out / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return out


def as_gguf(source: Path, out: Path, preset: str = "BF16") -> Model:
    """Write the header of the GGUF that a conversion of `source` makes, above a hole."""
    opened = open_source(source)
    model = families.load_for_gguf(opened)
    conversion = GGUFConversion(opened, model, out, ConversionRequest(preset=preset))
    plan = layout(conversion.metadata, conversion.resolved.entries)
    with out.open("wb") as file:
        file.write(plan.header)
        file.truncate(plan.total_bytes)
    return model


_CACHE = re.compile(r"llama_kv_cache: size = +([0-9.]+) MiB")
_STATE = re.compile(r"llama_memory_recurrent: size = +([0-9.]+) MiB")
_COMPUTE = re.compile(r"compute buffer size (?:=|of|is) +([0-9.]+) MiB")


def allocation(path: Path, context: int) -> Allocation:
    """What llama.cpp would allocate for a context of a GGUF; no weight is read."""
    library = llamacpp.library()
    lines: list[str] = []

    def receive(_level: int, text: bytes, _data: object) -> None:
        lines.append(text.decode("utf-8", "replace"))

    callback = LOG_CALLBACK(receive)
    library.llama_log_set(callback, None)
    try:
        parameters = model_parameters(library, gpu_layers=0, mmap=False)
        parameters.no_alloc = True
        model = library.llama_model_load_from_file(str(path).encode(), parameters)
        assert model, "".join(lines[-5:])
        made = library.llama_init_from_model(model, _context(library, context))
        assert made, "".join(lines[-5:])
        library.llama_free(made)
        library.llama_model_free(model)
    finally:
        LOG.attach(library)
    log = "".join(lines)
    return Allocation(
        *(sum(map(float, p.findall(log))) * 2**20 for p in (_CACHE, _STATE, _COMPUTE))
    )


def _context(library: Any, context: int) -> Any:
    """Parameters of a context as llama-server and llama-cli have them."""
    parameters = library.llama_context_default_params()
    parameters.n_ctx, parameters.swa_full = context, False
    parameters.n_threads = parameters.n_threads_batch = 1
    return parameters


def resident(path: Path, context: int) -> int:
    """Bytes by which a process grows that loads a GGUF and reads a batch of tokens."""
    command = [sys.executable, "-c", _CHILD, str(path), str(context)]
    tests = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


_CHILD = "import sys; from helpers import hollow; hollow.grow(sys.argv[1], int(sys.argv[2]))"


def grow(path: str, context: int) -> None:
    """Load a GGUF, read a batch of tokens, and print by how many bytes this process grew."""
    library = llamacpp.library()
    before = psutil.Process().memory_info().rss
    model = library.llama_model_load_from_file(
        path.encode(), model_parameters(library, gpu_layers=0)
    )
    made = library.llama_init_from_model(model, _context(library, context))
    batch = library.llama_batch_init(BATCH, 0, 1)
    for i in range(BATCH):  # one token: rows of tables that are read one by one take no memory
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = 3, i, 1, 1
        batch.seq_id[i][0] = 0
    batch.n_tokens = BATCH
    assert library.llama_decode(made, batch) == 0
    print(psutil.Process().memory_info().rss - before)
