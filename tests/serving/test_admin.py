"""What an operator does to a running gateway: look, swap, switch adapters, TLS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.gateway_process import MESSAGES, Running, kanna, start, stop
from helpers.gateways import until

ASK: Any = {"model": "small", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}


def lora(path: Path) -> Path:
    """A random LoRA adapter for SmolLM2-135M."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    rng = np.random.default_rng(0)
    for layer in range(30):
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", rng.standard_normal((4, 576)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", rng.standard_normal((576, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    state = tmp_path_factory.mktemp("state")
    options = ["--name", "admin", "--scope", "admin", "--json"]
    made = kanna("keys", "create", *options, state=state)
    return json.loads(made.stdout)["key"], state


@pytest.fixture(scope="module")
def server(smollm2: Path, admin: tuple[str, Path]) -> Iterator[Running]:
    running = start(smollm2, admin[1], "--adapter", str(lora(admin[1] / "lora.gguf")))
    until(lambda: running.get("/ready")[0] == 200, 60)
    yield running
    stop(running)


def answer(server: Running, **more: Any) -> str:
    # Without the prompt cache, whose rounding a random adapter makes visible.
    extra = {"cache_prompt": False, **more}
    return (
        server.client().chat.completions.create(**ASK, extra_body=extra).choices[0].message.content
        or ""
    )


def test_ps_shows_what_runs(server: Running, admin: tuple[str, Path]) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "kanna", "ps", "--url", server.url]
    listed = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    [model] = json.loads(listed.stdout)["models"]
    assert (model["name"], model["engine"], model["state"]) == ("small", "gguf", "ready")
    drawn = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "small" in drawn.stdout and "ready" in drawn.stdout
    absent = subprocess.run(
        [*command[:-1], "http://127.0.0.1:9"], capture_output=True, text=True, check=False
    )
    assert absent.returncode == 1 and "kanna serve" in absent.stderr


def test_adapters_are_listed_and_switched(server: Running, admin: tuple[str, Path]) -> None:
    status, text = server.get("/admin/models/small/adapters", admin[0])
    assert status == 200
    [adapter] = json.loads(text)["adapters"]
    assert adapter["scale"] == 1 and adapter["path"].endswith("lora.gguf")
    bent = answer(server)
    assert answer(server, lora=[{"id": 0, "scale": 0}]) != bent, "a request may bring its own scale"
    assert answer(server, lora=[]) != bent, "none is named: all are off"
    assert put(server, admin[0], [{"id": 0, "scale": 0.0}])[0] == 200
    plain = answer(server)
    assert plain != bent
    assert put(server, admin[0], [{"id": 0, "scale": 1.0}])[0] == 200
    assert answer(server) == bent
    assert put(server, admin[0], [{"id": 7, "scale": 1.0}])[0] == 404
    assert put(server, admin[0], [{"id": 0, "scale": "much"}])[0] == 400
    assert put(server, "", [])[0] == 401
    assert put(server, admin[0], [])[0] == 200
    assert answer(server) == plain, "what is not named is off"


def put(server: Running, key: str, adapters: list[dict[str, Any]]) -> tuple[int, str]:
    import urllib.request

    data = json.dumps({"adapters": adapters}).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return server.send(
        urllib.request.Request(
            f"{server.url}/admin/models/small/adapters", data, headers, method="PUT"
        )
    )


def test_a_swap_drops_no_request(
    server: Running, admin: tuple[str, Path], smollm2: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.symlink_to(smollm2)
    answers, ended = list[bool](), threading.Event()

    def ask() -> None:
        while not ended.is_set():
            answers.append(bool(server.client().chat.completions.create(**ASK).choices))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    options = ("--url", server.url, "--key", admin[0])
    try:
        done = run("swap", "small", other, *options)
        assert done.returncode == 0 and str(other) in done.stdout, done.stderr
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert answers and all(answers)
    assert json.loads(server.get("/status")[1])[0]["path"] == str(other)
    refused = run("swap", "small", other, *options[:2])
    assert refused.returncode == 1 and "--key" in refused.stderr
    for wrong in (tmp_path / "absent.gguf", Path(__file__)):
        failed = run("swap", "small", wrong, *options)
        assert failed.returncode == 1 and str(wrong) in failed.stderr
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2.read_bytes()[:5_000_000])
    assert run("swap", "small", broken, *options).returncode == 1
    assert answer(server)
    assert json.loads(server.get("/status")[1])[0]["path"] == str(other), (
        "what failed changed nothing"
    )


def run(*arguments: object) -> Any:
    import subprocess
    import sys

    environment = {k: v for k, v in os.environ.items() if k != "KANNA_KEY"}
    command = [sys.executable, "-m", "kanna", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kanna")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


def test_tls(tiny_gguf: Path, smollm2: Path, tmp_path: Path) -> None:
    import ssl
    import urllib.request

    cert, key = certificate(tmp_path)
    for pair in ([cert], [cert, cert]):
        options = [
            o
            for name, file in zip(("--tls-cert", "--tls-key"), pair, strict=False)
            for o in (name, str(file))
        ]
        assert kanna("serve", smollm2, *options, state=tmp_path).returncode == 2
    running = start(tiny_gguf, tmp_path, "--tls-cert", str(cert), "--tls-key", str(key))
    try:
        assert running.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(cert))
        with urllib.request.urlopen(running.url + "/health", context=trust) as answer:
            assert answer.status == 200
        with pytest.raises(OSError):
            urllib.request.urlopen(running.url + "/health")
        with pytest.raises(OSError):
            urllib.request.urlopen(running.url.replace("https", "http") + "/health", timeout=5)
    finally:
        stop(running)
