"""`kanna push` and `kanna pull oci://…` before a real registry."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, registries

import kanna
from kanna import gate_report, oci
from kanna._util.digest import sha256
from kanna.cli.main import cli
from kanna.errors import GateError, SourceError, UsageError
from kanna.registry import manifests
from kanna.registry.client import RegistryRepository
from kanna.registry.layouts.base import FILEPATH


@pytest.fixture(scope="module")
def proved(llama: Path) -> list[Path]:
    """Two artefacts of one model, with the reports of their gates beside them."""
    made: list[Path] = []
    for preset in ("Q8_0", "F16"):
        path = llama.parent / f"tiny-{preset}.gguf"
        kanna.convert(llama, path, preset=preset, threads=1)
        assert kanna.verify(llama, path, gate=gate_report.beside(path), threads=1)
        made.append(path)
    return made


def get(registry: str, path: str) -> Any:
    request = urllib.request.Request(
        f"http://{registry}/v2/{path}",
        headers={"Accept": f"{manifests.IMAGE_INDEX}, {manifests.IMAGE_MANIFEST}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def files_below(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []


def test_an_artefact_arrives_as_it_was_and_runs(registry: str, proved: list[Path]) -> None:
    needs.llama_cpp()
    name = f"oci://{registry}/team/tiny:v1"
    pushed = kanna.push(name, proved[0])
    assert pushed.variants[0].gate == "proved" and not pushed.signed
    pulled = kanna.pull(name)
    path = Path(pulled.path)
    assert path.name == proved[0].name and path.read_bytes() == proved[0].read_bytes()
    assert (pulled.gate, pulled.signature, pulled.revision) == ("proved", "none", pushed.digest)
    texts = [kanna.generate(p, "hello", max_tokens=4).text for p in (path, proved[0])]
    assert texts[0] == texts[1]
    assert kanna.inspect(name).num_tensors, "every verb takes the name of what was pulled"
    assert [m.reference for m in kanna.list().models] == [name]
    assert kanna.rm(name).num_bytes == proved[0].stat().st_size
    assert kanna.list().models == () and not path.exists()


def test_what_is_pushed_is_a_modelpack(registry: str, proved: list[Path]) -> None:
    kanna.push(f"oci://{registry}/team/pack:v1", proved[0])
    manifest = get(registry, "team/pack/manifests/v1")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert layer["annotations"]["org.cncf.model.filepath"] == proved[0].name
    config = get(registry, f"team/pack/blobs/{manifest['config']['digest']}")
    assert set(config) == {"descriptor", "modelfs", "config"}
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"]]}
    assert config["config"]["format"] == "gguf" and config["descriptor"]["name"]
    digest = kanna.push(f"oci://{registry}/team/pack:v2", proved[0]).digest
    listed = get(registry, f"team/pack/manifests/{digest.replace(':', '-')}")
    kinds = {entry["artifactType"] for entry in listed["manifests"]}
    assert kinds == {manifests.GATE, manifests.BILL, manifests.PIECES}


def test_nothing_is_sent_twice(registry: str, proved: list[Path]) -> None:
    lies = registries.Lies()
    with registries.between(registry, lies) as host:
        first = kanna.push(f"oci://{host}/team/once:a", proved)
        assert sum(v.sent_bytes or 0 for v in first.variants) == sum(
            p.stat().st_size for p in proved
        )
        lies.asked.clear()
        second = kanna.push(f"oci://{host}/team/once:b", proved)
        assert sum(v.sent_bytes or 0 for v in second.variants) == 0
        assert first.digest == second.digest
        assert not [line for line in lies.asked if line.startswith(("PATCH", "POST"))]
        kanna.pull(f"oci://{host}/team/once:a", variant="Q8_0")
        lies.asked.clear()
        kanna.pull(f"oci://{host}/team/once:b", variant="Q8_0")
        layer = get(registry, f"team/once/manifests/{first.variants[0].manifest}")["layers"][0]
        assert not [line for line in lies.asked if layer["digest"] in line]


def test_an_end_behind_the_last_byte_leaves_no_note(
    registry: str, proved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, ask = f"oci://{registry}/team/ended:v1", RegistryRepository.ask
    closing = f"digest=sha256:{sha256(proved[0])}"  # small blobs go in while the file is sent

    def interrupted(repository: RegistryRepository, method: str, url: str, *rest: Any) -> Any:
        answer = ask(repository, method, url, *rest)
        if method == "PUT" and closing in url:
            raise KeyboardInterrupt
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(RegistryRepository, "ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kanna.push(name, proved[0])
    assert files_below(oci.folder() / "uploads")
    again = kanna.push(name, proved[0])
    assert again.variants[0].sent_bytes == 0
    assert not files_below(oci.folder() / "uploads")


def test_the_variant_that_fits_is_taken(registry: str, proved: list[Path]) -> None:
    name = f"oci://{registry}/team/variants:v1"
    pushed = kanna.push(name, proved)
    small, large = pushed.variants
    assert small.memory_bytes < large.memory_bytes
    assert kanna.pull(name, memory=large.memory_bytes).variant == "F16"
    assert kanna.pull(name, memory=large.memory_bytes - 1).variant == "Q8_0"
    assert kanna.pull(name, target="raspberry-pi-5-4gb").variant == "F16"
    with pytest.raises(kanna.KannaError, match="memory"):
        kanna.pull(name, target="raspberry-pi-5-4gb", memory="1GB")
    assert kanna.pull(name).variant == "F16"
    assert Path(kanna.pull(name, variant="Q8_0").path).name == proved[0].name
    with pytest.raises(GateError, match="no variant of .* fits"):
        kanna.pull(name, memory=1000)
    with pytest.raises(UsageError, match="no variant 'Q5'"):
        kanna.pull(name, variant="Q5")


def test_a_folder_goes_as_its_files(registry: str, llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny-mlx"
    kanna.convert(llama, folder, format="mlx", threads=1)
    name = f"oci://{registry}/team/folder:v1"
    kanna.push(name, folder, unproved=True)
    path = Path(kanna.pull(name).path)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")
    }


def test_only_what_was_proved_is_pushed(registry: str, proved: list[Path], tmp_path: Path) -> None:
    name, path = f"oci://{registry}/team/gates:v1", tmp_path / "copy.gguf"
    path.write_bytes(proved[0].read_bytes())
    with pytest.raises(GateError, match="no gate report"):
        kanna.push(name, path)
    with pytest.raises(GateError, match="about other files"):
        kanna.push(name, path, gate=gate_report.beside(proved[1]))
    failed = json.loads(gate_report.beside(proved[0]).read_text()) | {"status": "failed"}
    failed["files"] = {path.name: failed["files"][proved[0].name]}
    gate_report.beside(path).write_text(json.dumps(failed))
    with pytest.raises(GateError, match="is failed"):
        kanna.push(name, path)
    with pytest.raises(SourceError, match="has no team/gates"):
        kanna.pull(name)
    pushed = kanna.push(name, path, unproved=True)
    assert pushed.variants[0].gate == "failed"
    assert kanna.pull(name).gate == "failed"


def test_a_signature_holds_for_one_key_and_these_manifests(
    registry: str, proved: list[Path], tmp_path: Path
) -> None:
    keys = [make_key(tmp_path / str(n)) for n in range(2)]
    name = f"oci://{registry}/team/signed:v1"
    assert kanna.push(name, proved, sign_key=keys[0][0]).signed
    assert kanna.pull(name).signature == "not checked"
    assert kanna.pull(name, key=keys[0][1]).signature == "good"
    with pytest.raises(GateError, match="not signed by the owner"):
        kanna.pull(name, key=keys[1][1])
    other = f"oci://{registry}/team/unsigned:v1"
    kanna.push(other, proved[0])
    with pytest.raises(GateError, match="there is no signature"):
        kanna.pull(other, key=keys[0][1])


def make_key(folder: Path) -> tuple[Path, Path]:
    """A private key on P-256 and its public one."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "key.pem", folder / "key.pub.pem"
    private.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def blob_requests(asked: list[str], path: Path) -> list[str]:
    digest = manifests.digest_of(path.read_bytes())
    return [line for line in asked if line.startswith("GET") and digest in line]


def test_a_pull_that_is_cut_short_goes_on(registry: str, proved: list[Path]) -> None:
    kanna.push(f"oci://{registry}/team/cut:v1", proved[0])
    digest = manifests.digest_of(proved[0].read_bytes())
    lies = registries.Lies(of=f"GET .*blobs/{digest}", dropped_after=20_000, times=2)
    with registries.between(registry, lies) as host:
        path = Path(kanna.pull(f"oci://{host}/team/cut:v1").path)
    assert path.read_bytes() == proved[0].read_bytes()
    assert lies.ranges == ["bytes=20000-", "bytes=40000-"]


def test_another_run_goes_on_too(registry: str, proved: list[Path]) -> None:
    kanna.push(f"oci://{registry}/team/cut:v2", proved[0])
    digest = manifests.digest_of(proved[0].read_bytes())
    lies = registries.Lies(of=f"GET .*blobs/{digest}", dropped_after=0)
    with registries.between(registry, lies) as host:
        partial = oci.folder() / "sha256" / f"{digest[7:]}.part"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(proved[0].read_bytes()[:5000])
        with pytest.raises(SourceError, match="sent 5000 of"):
            kanna.pull(f"oci://{host}/team/cut:v2")
        lies.times = 0
        path = Path(kanna.pull(f"oci://{host}/team/cut:v2").path)
    assert path.read_bytes() == proved[0].read_bytes() and "bytes=5000-" in lies.ranges


def test_a_push_that_is_cut_short_goes_on(
    registry: str, proved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanna.registry import upload

    monkeypatch.setattr(upload, "CHUNK", 50_000)
    lies = registries.Lies(of="^PATCH", edit=lambda status, headers, body: (502, {}, b""), times=2)
    with registries.between(registry, lies) as host:
        kanna.push(f"oci://{host}/team/chunks:v1", proved[1])
    patches = [line for line in lies.asked if line.startswith("PATCH")]
    size = proved[1].stat().st_size
    assert len(patches) >= -(-size // 50_000), "what arrived is not sent again"
    assert Path(kanna.pull(f"oci://{registry}/team/chunks:v1").path).stat().st_size == size


def answer(status: int | None = None, body: bytes | None = None, **headers: str) -> registries.Edit:
    """An edit that replaces parts of an answer."""

    def edit(old: int, own: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        renamed = {name.replace("_", "-"): value for name, value in headers.items()}
        return status or old, own | renamed, data if body is None else body

    return edit


def flipped(status: int, own: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, own, data[:-1] + bytes([data[-1] ^ 1])


def longer(status: int, own: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, own, data + b"more"


def shorter(status: int, own: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, own, data[:-4]


def renamed(place: str) -> registries.Edit:
    """A manifest that names its file otherwise, with a digest that is right."""

    def edit(status: int, own: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        manifest = json.loads(data)
        manifest["layers"][0]["annotations"] = {FILEPATH: place}
        data = json.dumps(manifest).encode()
        own = {k: v for k, v in own.items() if k.lower() != "docker-content-digest"}
        return status, own, data

    return edit


MANIFEST, BLOB = "GET .*manifests/v1", "GET .*blobs/{digest}"
ELSEWHERE = {"Location": "http://127.0.0.2:9/other"}
LIARS = {
    "a manifest of another digest": (MANIFEST, flipped, "manifest with the digest"),
    "a blob of another digest": (BLOB, flipped, "sent other bytes"),
    "a blob that is too long": (BLOB, longer, "announces"),
    "a blob that is too short": (BLOB, shorter, "announces"),
    "a blob elsewhere": (BLOB, answer(307, b"", **ELSEWHERE), "sends .* to 127.0.0.2:9"),
    "a blob in a file": (BLOB, answer(302, b"", Location="file:///etc/passwd"), "sends .* to"),
    "a manifest elsewhere": (MANIFEST, answer(302, b"", **ELSEWHERE), "to 127.0.0.2:9"),
    "a huge manifest": (MANIFEST, answer(body=b" " * (5 << 20)), "more than"),
    "a manifest of no JSON": (MANIFEST, answer(body=b"<html>", Docker_Content_Digest=""), "digest"),
    "a path outside": (MANIFEST, renamed("../../etc/passwd"), "plain path"),
    "an absolute path": (MANIFEST, renamed("/etc/passwd"), "plain path"),
    "a pickle": (MANIFEST, renamed("model.pkl"), "can run code"),
    "no name": (MANIFEST, renamed(""), "plain path"),
    "an error": (BLOB, answer(500, b""), "HTTP 500"),
    "no blob": (BLOB, answer(404, b""), "has no blob"),
}


@pytest.mark.parametrize("case", LIARS)
def test_a_registry_that_lies_is_refused(
    registry: str, proved: list[Path], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanna.registry import download

    monkeypatch.setattr(download, "PATIENCE", 0.0)
    kanna.push(f"oci://{registry}/team/lies:v1", proved[0])
    of, edit, message = LIARS[case]
    digest = manifests.digest_of(proved[0].read_bytes())
    lies = registries.Lies(of=of.format(digest=digest), edit=edit)
    with registries.between(registry, lies) as host:
        run = CliRunner().invoke(cli, ["pull", f"oci://{host}/team/lies:v1"])
    assert run.exit_code == 1
    assert re.search(message, " ".join(run.output.split())), run.output
    assert not files_below(oci.folder() / "models") and not files_below(oci.folder() / "names")
    assert kanna.list().models == ()


@pytest.mark.parametrize("header", ["http://127.0.0.2:9/v2/x", "https://example.invalid/x"])
def test_an_upload_is_sent_nowhere_else(
    registry: str, proved: list[Path], header: str, tmp_path: Path
) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(proved[0].read_bytes())
    lies = registries.Lies(of="^POST", edit=answer(Location=header))
    with registries.between(registry, lies) as host:
        name = f"oci://{host}/team/up{header.count('s')}:v1"
        run = CliRunner().invoke(cli, ["push", name, str(path), "--unproved"])
    assert run.exit_code == 1 and "sends an upload to" in " ".join(run.output.split())


@pytest.mark.parametrize(
    "name",
    ["oci://", "oci://host", "oci://host/Name:v1", "oci://host/a:b:c", "oci://ho st/a", "oci:///a"]
    + ["oci://host/a/../b", "oci://host/a@sha256:12", "oci://host/a:" + "t" * 129, "oci://h@x/a"],
)
def test_odd_names_are_refused(name: str) -> None:
    for words in (["pull", name], ["inspect", name]):
        run = CliRunner().invoke(cli, words)
        assert run.exit_code == 1 and "names nothing in a registry" in run.output


def test_name_and_digest_are_lines_of_their_own(registry: str, tiny_gguf: Path) -> None:
    name = f"oci://{registry}/team/lines:v1"
    run = CliRunner().invoke(cli, ["push", name, str(tiny_gguf), "--unproved"])
    assert run.exit_code == 0, run.output
    at = run.output.splitlines().index(name)
    assert re.fullmatch("sha256:[0-9a-f]{64}", run.output.splitlines()[at + 1])


def test_a_dry_run_asks_no_registry(tiny_gguf: Path) -> None:
    name = f"oci://127.0.0.1:{registries.free_port()}/a:v1"
    planned = kanna.push(name, tiny_gguf, unproved=True, dry_run=True)
    assert planned.dry_run and planned.files == {tiny_gguf.name: tiny_gguf.stat().st_size}
    assert len(planned.notes) == 1 and "without a report" in planned.notes[0]
    with pytest.raises(GateError, match="no gate report"):
        kanna.push(name, tiny_gguf, dry_run=True)


def test_options_of_registries_are_refused_elsewhere(tiny_gguf: Path) -> None:
    for option in ("--variant=x", "--memory=1GB", "--target=mac-m1", "--key=k.pem"):
        assert CliRunner().invoke(cli, ["pull", str(tiny_gguf), option]).exit_code == 2
    with pytest.raises(SourceError, match="cannot be reached"):
        kanna.pull(f"oci://127.0.0.1:{registries.free_port()}/a:v1")
    with pytest.raises(SourceError, match="not on this machine yet"):
        kanna.inspect("oci://127.0.0.1:1/a:v1")


CHILD = """
import resource, sys
import kanna
if sys.argv[2:]:
    kanna.push(sys.argv[1], sys.argv[2], unproved=True)
else:
    kanna.pull(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(registry: str, tmp_path: Path) -> None:
    """400 MB in each direction, in processes of their own."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    (folder / "model.safetensors").write_bytes(os.urandom(1 << 20) * 400)
    name = f"oci://{registry}/team/large:v1"
    for words in ([name, str(folder)], [name]):
        run = subprocess.run(
            [sys.executable, "-c", CHILD, *words],
            env=os.environ | {"KANNA_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        assert int(run.stdout) < 100e6, words
