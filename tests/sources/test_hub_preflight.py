"""A hub repository in the shape of 30B-A3B: what it is and what fits, from headers alone."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.headers import tensors_of
from helpers.stub_hub import Hub, serving

from kanna import families
from kanna.families._config import Config
from kanna.formats.safetensors.shards import INDEX
from kanna.sources import packages

REPO, SHARDS = "owner/30B-A3B", 16
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "norm_topk_prob": True,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}


def _publish(hub: Hub) -> int:
    """Put the repository on the hub, without its weights; how many bytes these would have."""
    family = families.get("qwen3moe")
    tensors = list(tensors_of(family, Config(CONFIG, family.defaults)).values())
    # The last is as small as a last shard may be: its header has a few hundred bytes.
    share = (len(tensors) - 3) // (SHARDS - 1)
    assert 0 < len(tensors) - share * (SHARDS - 1) <= share
    files: dict[str, bytes] = {"config.json": json.dumps(CONFIG).encode()}
    for file in packages.tokenizer("qwen3").iterdir():
        files[file.name] = file.read_bytes()
    places: dict[str, str] = {}
    total = 0
    for i in range(SHARDS):
        name = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in tensors[i * share : (i + 1) * share]:
            start, end = end, end + tensor.nbytes
            entries[tensor.name] = {
                "dtype": "BF16",
                "shape": tensor.shape,
                "data_offsets": [start, end],
            }
            places[tensor.name] = name
        text = json.dumps(entries).encode()
        files[name] = struct.pack("<Q", len(text)) + text
        hub.holes[name] = end
        total += end
    index = {"metadata": {"total_size": total}, "weight_map": places}
    files[INDEX] = json.dumps(index).encode()
    hub.files[REPO, "main"] = files
    return total


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as served:
        yield served


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(hub: Hub, home: Path, *words: str) -> tuple[dict[str, Any], float]:
    """What a command says, and the processor time it takes."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
    }
    before = _processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "kanna", *words, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), _processor_seconds() - before


YARDSTICK = (
    "import json\nfor _ in range(40): json.loads(json.dumps([str(i) for i in range(60000)]))"
)
"""Some 0.3 s of what takes these commands their time, on a processor of 2024."""
MOST = 12.0
"""Times the yardstick that a command may take; it is some 4, in 1.7 s on that processor."""


@pytest.mark.parametrize("verb", ["inspect", "fit"])
def test_headers_alone_say_what_it_is_and_what_fits(verb: str, hub: Hub, tmp_path: Path) -> None:
    total = _publish(hub)
    assert total > 60e9
    more = ["--memory", "24GB", "--context", "8192"] if verb == "fit" else []
    answer, seconds = _run(hub, tmp_path / "hf", verb, REPO, *more)
    if verb == "fit":
        assert any(row["fits"] for row in answer["rows"])
    else:
        assert answer["bytes"] == total and answer["family"] == "qwen3moe"
    files = hub.files[REPO, "main"]
    assert hub.leaked == 0, "bytes of weights were sent"
    assert hub.sent == sum(map(len, files.values())), "a file was sent twice, or in part"
    asked = [name for method, name, _ in hub.asked if method == "GET" and name in hub.holes]
    assert sorted(asked) == sorted([*hub.holes, *hub.holes])  # how long a header is, and the header
    before = _processor_seconds()
    subprocess.run([sys.executable, "-c", YARDSTICK], check=True)
    assert seconds < MOST * (_processor_seconds() - before)
