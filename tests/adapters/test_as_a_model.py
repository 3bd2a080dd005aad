"""An adapter given where a model is expected: recognised and explained by every verb."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from kanna.adapters import open_adapter
from kanna.cli.main import cli
from kanna.errors import FormatError, UnsupportedError
from kanna.formats import gguf
from kanna.model import string

VERBS = (
    "inspect ADAPTER",
    "fit ADAPTER --memory 1GB",
    "convert ADAPTER -o out",
    "verify ADAPTER ADAPTER",
    "evaluate ADAPTER --reference ADAPTER",
    "bench ADAPTER",
    "compare ADAPTER --presets Q8_0 -o out",
    "calibrate ADAPTER -o out",
    "optimize ADAPTER --like Q4_K_M -o out",
    "adapt ADAPTER --data data.jsonl -o out",
    "merge ADAPTER FOLDER -o out",
    "generate ADAPTER once",
    "embed ADAPTER once",
    "serve ADAPTER",
    "package ADAPTER --to compose -o out",
    "selftest ADAPTER",
    "pull ./ADAPTER",
    "push oci://localhost:1/name:v1 ADAPTER",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter as PEFT saves it in `lora`, and one in GGUF."""
    (tmp_path / "lora").mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "org/base"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    halves = {f"{module}.lora_{h}.weight": np.ones((2, 2), np.float32) for h in "AB"}
    save_file(halves, tmp_path / "lora" / "adapter_model.safetensors")
    metadata = {"general.type": string("adapter"), "general.architecture": string("llama")}
    gguf.write(tmp_path / "lora.gguf", metadata=metadata, tensors=[])
    (tmp_path / "data.jsonl").write_text('{"text": "once"}\n{"text": "a time"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given", ["lora", "lora.gguf"])
@pytest.mark.parametrize("line", VERBS)
def test_every_verb_says_what_it_is(home: Path, line: str, given: str) -> None:
    words = line.replace("ADAPTER", given).replace("FOLDER", "lora").split()
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 1, run.output
    assert f"{given} is a LoRA adapter" in run.stderr and "What to do:" in run.stderr
    assert not (home / "out").exists()


def test_a_folder_of_checkpoints_says_which_hold_an_adapter(home: Path) -> None:
    for step in (20, 100):
        (home / "run" / f"checkpoint-{step}").mkdir(parents=True)
        config = (home / "lora" / "adapter_config.json").read_text()
        (home / "run" / f"checkpoint-{step}" / "adapter_config.json").write_text(config)
    with pytest.raises(UnsupportedError) as error:
        open_adapter("run")
    assert "run is no adapter: it has checkpoint-20, checkpoint-100 inside" in error.value.found
    assert error.value.todo == f"give {Path('run') / 'checkpoint-100'}"


def test_a_damaged_file_says_of_which_adapter(home: Path) -> None:
    path = home / "lora" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match=r"the adapter lora: adapter_model.*truncated"):
        open_adapter("lora")
