"""How `ps`, `swap` and the like reach a gateway, and what they say when it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.gateways import local

from kanna.errors import KannaError, UsageError
from kanna.serving import gateway_client


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("https://models.example/kanna/v1/", "https://models.example/kanna"),
        ("localhost:8000", "http://localhost:8000"),
        ("localhost:8000/v1", "http://localhost:8000"),
        (" models.example ", "http://models.example"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_as_people_type_it(typed: str, address: str) -> None:
    assert gateway_client.address(typed) == address


@pytest.mark.parametrize(
    "typed",
    [
        "http://[::1",
        "[::1",
        "http://[a]]:1",
        "",
        "ftp://x",
        "http://",
        "localhost:x",
        "localhost:99999999",
        "http://a?b=c",
        "/v1",
    ],
)
def test_what_is_no_address(typed: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        gateway_client.address(typed)


def test_a_refusal_says_how_to_make_the_key(tiny_gguf: Path, tmp_path: Path) -> None:
    """Loopback asks for a key to swap a model, though for nothing else."""
    with local(tiny_gguf, tmp_path) as gateway:
        assert gateway_client.request(f"{gateway.url}/v1", "/status", None)[0]["name"] == "m"
        with pytest.raises(KannaError) as refused:
            gateway_client.request(gateway.url, "/admin/models", None, scope="admin")
    assert "kanna keys create --name admin --scope admin" in refused.value.todo


def test_quiet_prints_the_key_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kanna", "keys", "create", "--name", "me", "--quiet"]
    environment = os.environ | {"KANNA_STATE": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.startswith("kanna-") and len(run.stdout.splitlines()) == 1
    assert run.stderr == ""
