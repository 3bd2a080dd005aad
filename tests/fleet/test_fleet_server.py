"""The server as a process and its routes: keys, bad requests, the page, metrics, kill -9."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from helpers import engine_artefacts, fleets, needs
from helpers.fleets import HereFleet, ServerProcess
from self_testing.test_selftest import SERVER

import kanna
from kanna import fleet
from kanna.cli.main import cli
from kanna.errors import KannaError, OutputError, UsageError
from kanna.fleet import manifest, page
from kanna.self_testing import runner

ANY = "0" * 64


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory, new_place: Callable[[Path], str | Path]
) -> Iterator[HereFleet]:
    folder = tmp_path_factory.mktemp("server")
    with fleets.here(folder, place=new_place(folder)) as running:
        running.add("pi")
        yield running


def client(here: HereFleet, key: str = "operator") -> httpx.Client:
    text = (here.folder / f"{key}.key").read_text().strip()
    return httpx.Client(base_url=here.url, headers={"authorization": f"Bearer {text}"})


OPERATOR = [
    ("GET", "/v1/status"), ("GET", "/v1/devices"), ("POST", "/v1/devices"), ("GET", "/metrics"),
    ("POST", "/v1/devices/pi/key"), ("DELETE", "/v1/devices/pi"), ("GET", f"/v1/uploads/{ANY}"),
    ("PUT", f"/v1/uploads/{ANY}?size=1&offset=0"), ("POST", "/v1/artefacts"),
    ("POST", "/v1/rollouts"), ("POST", "/v1/rollouts/1/rollback"), ("GET", "/v1/rollouts/1"),
]  # fmt: skip
DEVICE = [
    ("POST", "/v1/poll"), ("POST", "/v1/reports"), ("GET", f"/v1/artefacts/{ANY}"),
    ("GET", f"/v1/blobs/{ANY}"),
]  # fmt: skip


def test_every_route_wants_the_key_that_it_is_for(here: HereFleet) -> None:
    with httpx.Client(base_url=here.url) as anybody:
        for method, path in OPERATOR + DEVICE:
            assert anybody.request(method, path).status_code == 401, path
        assert anybody.get("/health").status_code == 200
    with client(here, "pi") as device, client(here) as operator, client(here, "viewer") as viewer:
        for method, path in OPERATOR:
            assert device.request(method, path).status_code == 403, path
            looks = method == "GET" and not path.startswith("/v1/uploads")
            assert (viewer.request(method, path).status_code == 403) is not looks, path
        for method, path in DEVICE:
            assert operator.request(method, path).status_code == 403, path


def test_keys_are_stored_as_hashes_in_files_for_their_owner(here: HereFleet) -> None:
    secrets = [(here.folder / f"{name}.key").read_text().strip() for name in ("operator", "pi")]
    data = b"".join(path.read_bytes() for path in here.folder.glob("f.sqlite*"))
    for text in secrets:
        assert text.split("-", 2)[2].encode() not in data
    assert (here.folder / "operator.key").stat().st_mode & 0o077 == 0


BAD: list[tuple[str, str, str, Any]] = [
    ("operator", "POST", "/v1/devices", b"{"),
    ("operator", "POST", "/v1/devices", {"id": "../x"}),
    ("operator", "POST", "/v1/devices", {"id": "x", "ring": 0}),
    ("operator", "POST", "/v1/devices", {"id": "x", "days": 1e999}),
    ("operator", "POST", "/v1/devices", {"id": "x", "extra": 1}),
    ("operator", "POST", "/v1/devices", {"id": "pi"}),
    ("operator", "POST", "/v1/devices", b" " * 300_000),
    ("operator", "POST", "/v1/devices/nobody/key", {}),
    ("operator", "DELETE", "/v1/devices/nobody", None),
    ("operator", "GET", "/v1/devices?most=0", None),
    ("operator", "GET", "/v1/uploads/..%2f..%2fx", None),
    ("operator", "PUT", f"/v1/uploads/{ANY}?size=1&offset=1", b"x"),
    ("operator", "PUT", f"/v1/uploads/{ANY}?size=-1&offset=0", b"x"),
    ("operator", "PUT", f"/v1/uploads/{ANY}?size={1 << 43}&offset=0", b"x"),
    ("operator", "PUT", f"/v1/uploads/{ANY}?size=1&offset=0", b"x"),
    ("operator", "PUT", f"/v1/uploads/{ANY}?size=1&offset=0", b"x" * (9 << 20)),
    ("operator", "POST", "/v1/artefacts", {"manifest": "{}"}),
    ("operator", "POST", "/v1/artefacts", {"manifest": "\ud800"}),
    ("operator", "POST", "/v1/rollouts", {"model": ANY, "rings": [{"percent": 100}]}),
    ("operator", "POST", "/v1/rollouts", {"model": ANY, "rings": [{"percent": 50}]}),
    ("operator", "POST", "/v1/rollouts", {"model": ANY, "rings": []}),
    ("operator", "POST", "/v1/rollouts", {"model": "x", "rings": [{"percent": 100}]}),
    ("operator", "POST", "/v1/rollouts/0/pause", {}),
    ("operator", "POST", "/v1/rollouts/99/pause", {}),
    ("operator", "POST", "/v1/rollouts/1/explode", {}),
    ("operator", "GET", "/v1/rollouts/99", None),
    ("operator", "GET", "/nothing", None),
    ("pi", "POST", "/v1/poll", {"current": "x"}),
    ("pi", "POST", "/v1/poll", {"number": -1}),
    ("pi", "POST", "/v1/poll", {"outcome": "done"}),
    ("pi", "POST", "/v1/reports", {}),
    ("pi", "POST", "/v1/reports", {"number": 1, "digest": ANY, "outcome": "passed", "seconds": -1}),
    ("pi", "POST", "/v1/reports", b'{"number":1,"outcome":"passed","digest":"'
     + ANY.encode() + b'","selftest":{"a":NaN}}'),
    ("pi", "GET", f"/v1/blobs/{ANY}", None),
    ("pi", "GET", "/v1/blobs/..%2f..%2foperator.key", None),
    ("pi", "GET", f"/v1/artefacts/{ANY}", None),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(BAD)))
def test_what_is_wrong_is_refused_with_words(here: HereFleet, case: int) -> None:
    key, method, path, body = BAD[case]
    before = here.store.count_devices(0)[0]
    with client(here, key) as asking:
        given: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {}
        if isinstance(body, dict):
            given = {"content": json.dumps(body).encode()}
        answer = asking.request(method, path, **given)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"]
    assert here.store.count_devices(0)[0] == before


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "state", "--port", "0")
    try:
        run = CliRunner().invoke(
            cli, ["fleet", "serve", "--state", str(tmp_path / "state"), "--port", "0"]
        )
        assert run.exit_code == 1 and "is being written by process" in run.output
        with pytest.raises(OutputError, match=f"process {server.process.pid}"):
            fleet.serve(tmp_path / "state", listener=fleet.FleetListener(port=0))
    finally:
        server.stop()
    assert server.process.returncode == 130
    with pytest.raises(UsageError, match="no loopback"):
        everywhere = fleet.FleetListener(host="0.0.0.0")  # noqa: S104
        fleet.serve(tmp_path / "state", listener=everywhere)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    about = ["-nodes", "-days", "2", "-subj", "/CN=fleet", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*make, *about, *files], check=True, capture_output=True)
    return cert, key


def test_https_is_held_to_the_certificates_that_were_named(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "ours")
    other, _ = certificate(tmp_path, "other")
    server = ServerProcess(
        tmp_path / "state", "--port", "0", "--tls-cert", str(cert), "--tls-key", str(key)
    )
    try:
        assert server.url.startswith("https://")
        at: dict[str, Any] = {"url": server.url, "key_file": tmp_path / "state" / "operator.key"}
        assert fleet.status(server=fleet.FleetServer(**at, ca_file=cert)).status["devices"] == 0
        for wrong in (other, None):
            with pytest.raises(KannaError, match="the certificate of .* does not hold"):
                fleet.status(server=fleet.FleetServer(**at, ca_file=wrong))
        with pytest.raises(UsageError, match="holds no certificates"):
            fleet.status(server=fleet.FleetServer(**at, ca_file=key))
        plain = fleet.FleetServer(**at | {"url": server.url.replace("https", "http")})
        with pytest.raises(KannaError, match="does not answer"):
            fleet.status(server=plain)
    finally:
        server.stop()


def test_the_page_shows_text_as_text(here: HereFleet) -> None:
    files = page.files()
    with httpx.Client(base_url=here.url) as anybody:
        for path, (kind, content) in files.items():
            answer = anybody.get(path)
            assert answer.content == content and answer.headers["content-type"].startswith(kind)
            assert "script-src 'self'" in answer.headers["content-security-policy"]
    script = files["/page/fleet.js"][1].decode()
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script
    assert b"<script>" not in files["/"][1] and b"style=" not in files["/"][1]


def test_metrics_count_devices_and_reports(here: HereFleet) -> None:
    here.add("metered")
    with client(here, "viewer") as viewer, client(here, "metered") as device:
        assert device.post("/v1/poll", content=b"{}").status_code == 200
        report = {"number": 0, "digest": ANY, "outcome": "failed", "detail": "<b>"}
        assert device.post("/v1/reports", json=report).status_code == 204
        text = viewer.get("/metrics").text
    assert 'kanna_fleet_reports_total{outcome="failed"} 1.0' in text
    assert "kanna_fleet_poll_seconds_bucket" in text and "<b>" not in text


def test_the_name_of_a_self_test_is_the_runners() -> None:
    assert manifest.SELFTEST == runner.NAME


def test_what_has_no_self_test_is_not_published(here: HereFleet, tmp_path: Path) -> None:
    path = fleets.model(tmp_path / "m", b"good")
    path.with_name("m.gguf.selftest.json").unlink()
    with pytest.raises(UsageError, match="has no self-test"):
        fleet.publish(path, server=here.server)


def words(*given: object, state: Path, url: str, key: str = "operator") -> list[str]:
    at = ["--server", url, "--key-file", str(state / f"{key}.key")]
    return [str(one) for one in given] + at


def run(*given: str, code: int = 0) -> Any:
    done = CliRunner().invoke(cli, [*given, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_a_real_model_from_the_command_line(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """A server in a process, a GGUF, its real self-test; then one that answers something else."""
    needs.llama_cpp()
    pytest.importorskip("xllamacpp")
    state = tmp_path / "state"
    tiny = tmp_path / "tiny.gguf"
    tiny.write_bytes(engine_artefacts.shared("gguf", tmp_path_factory).read_bytes())
    kanna.selftest(tiny, write=True, threads=1)
    server = ServerProcess(state, "--port", "0", "--poll", "1")
    try:
        at: dict[str, Any] = {"state": state, "url": server.url}
        key = run(*words("fleet", "add-device", "pi", **at))["key"]
        (state / "pi.key").write_text(key)
        digest = run(*words("fleet", "publish", tiny, **at))["digest"]
        made = run(*words("fleet", "rollout", digest[:10], "--ring", "100%", **at))
        assert made["state"] == "running" and made["model"] == digest
        home = ["agent", "--state", str(tmp_path / "pi"), "--once"]
        result = run(*words(*home, **at, key="pi"))
        assert result["outcome"] == "passed" and result["current"] == digest
        assert Path(result["model"]).read_bytes() == tiny.read_bytes()
        status = words("fleet", "status", **at)
        fleets.wait_for(lambda: run(*status)["rollouts"][0]["state"] == "done")
        expected = tiny.with_name("tiny.gguf.selftest.json")
        values = json.loads(expected.read_text())
        values["positions"][0]["token"] ^= 1
        expected.write_text(json.dumps(values))
        run(*words("fleet", "publish", tiny, "--name", "other", **at))
        run(*words("fleet", "rollout", "--ring", "100%", **at))
        program = tmp_path / "llama-server"
        program.write_text(SERVER.format(python=sys.executable))
        program.chmod(0o755)
        runner_alone = ["--llama-server", str(program)]
        result = run(*words(*home, *runner_alone, **at, key="pi"), code=1)
        assert result["outcome"] == "failed" and "tokens" in result["detail"]
        assert result["current"] == digest
        assert run(*status, code=1)["rollouts"][0]["state"] == "stopped"
        [listed] = run(*words("fleet", "devices", **at))["devices"]
        assert json.loads(listed["selftest"])["tokens_per_second"] > 0
        assert listed["wanted"] == listed["reported"] == digest
    finally:
        server.stop()
