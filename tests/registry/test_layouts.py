"""`kanna push --layout` before a real registry, by the media types that its readers look for."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs

import kanna
from kanna import oci
from kanna.cli.main import cli
from kanna.errors import RefusedError, UnsupportedError, UsageError
from kanna.registry import connection, credentials, layouts, manifests, upload
from kanna.registry.client import RegistryRepository
from kanna.registry.manifests import Descriptor

# github.com/docker/model-spec, spec.md; github.com/docker/model-runner,
# pkg/distribution/types/config.go (the last three are not in the specification).
DOCKER_CONFIG = "application/vnd.docker.ai.model.config.v0.1+json"
DOCKER_GGUF = "application/vnd.docker.ai.gguf.v3"
DOCKER_LICENCE = "application/vnd.docker.ai.license"
DOCKER_TEMPLATE = "application/vnd.docker.ai.chat.template.jinja"
DOCKER_SPEC_TOWER = "application/vnd.docker.ai.gguf.v3.mmproj"
DOCKER_TOWER = "application/vnd.docker.ai.mmproj"
DOCKER_CONFIG_2 = "application/vnd.docker.ai.model.config.v0.2+json"
DOCKER_FILE = "application/vnd.docker.ai.model.file"
# github.com/containers/ramalama, ramalama/transports/oci/spec.py.
CNAI_MODEL = "application/vnd.cnai.model.manifest.v1+json"
CNAI_CONFIG = "application/vnd.cnai.model.config.v1+json"
CNAI_WEIGHT = "application/vnd.cnai.model.weight.v1.raw"
# github.com/modelpack/model-spec, specs-go/v1/mediatype.go.
CNCF_MODEL = "application/vnd.cncf.model.manifest.v1+json"
CNCF_CONFIG = "application/vnd.cncf.model.config.v1+json"
CNCF_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
# github.com/opencontainers/image-spec, media-types.md.
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"

PUBLISHED: dict[str, tuple[str | None, str, str]] = {
    "modelpack": (CNCF_MODEL, CNCF_CONFIG, CNCF_WEIGHT),
    "cnai": (CNAI_MODEL, CNAI_CONFIG, CNAI_WEIGHT),
    "docker": (None, DOCKER_CONFIG, DOCKER_GGUF),
    "image": (None, IMAGE_CONFIG, IMAGE_LAYER),
}
"""Of each layout: the type of the manifest, of its configuration and of a GGUF."""


def get(registry: str, path: str) -> bytes:
    request = urllib.request.Request(
        f"http://{registry}/v2/{path}", headers={"Accept": IMAGE_MANIFEST}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def pushed_manifest(registry: str, layout: str, model: Path) -> dict[str, Any]:
    """The manifest of a model in a layout, pushed once more or for the first time."""
    kanna.push(f"oci://{registry}/layouts/{layout}:v1", model, unproved=True, layout=layout)
    return json.loads(get(registry, f"layouts/{layout}/manifests/v1"))


def config_of(registry: str, layout: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(get(registry, f"layouts/{layout}/blobs/{manifest['config']['digest']}"))


@pytest.mark.parametrize("layout", layouts.names())
def test_media_types_are_the_published_ones(registry: str, tiny_gguf: Path, layout: str) -> None:
    manifest = pushed_manifest(registry, layout, tiny_gguf)
    kind, config, weight = PUBLISHED[layout]
    assert manifest["mediaType"] == IMAGE_MANIFEST
    assert manifest.get("artifactType") == kind
    assert manifest["config"]["mediaType"] == config
    assert {layer["mediaType"] for layer in manifest["layers"]} == {weight}
    title = manifest["layers"][0]["annotations"]["org.opencontainers.image.title"]
    assert title == tiny_gguf.name, "RamaLama and oras take names from titles"


@pytest.mark.parametrize("layout", sorted(set(layouts.names()) - {"image"}))
def test_what_is_pulled_is_what_was_pushed(registry: str, tiny_gguf: Path, layout: str) -> None:
    pushed_manifest(registry, layout, tiny_gguf)
    pulled = Path(kanna.pull(f"oci://{registry}/layouts/{layout}:v1").path)
    assert pulled.name == tiny_gguf.name and pulled.read_bytes() == tiny_gguf.read_bytes()
    assert kanna.inspect(f"oci://{registry}/layouts/{layout}:v1").num_tensors


def test_docker_finds_its_files_by_the_configuration(registry: str, tiny_gguf: Path) -> None:
    manifest = pushed_manifest(registry, "docker", tiny_gguf)
    config = config_of(registry, "docker", manifest)
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert config["rootfs"] == {"type": "rootfs", "diff_ids": digests}
    assert [file["diffID"] for file in config["files"]] == digests
    assert config["config"]["format"] == "gguf" and config["config"]["size"]
    assert config["config"]["gguf"]["architecture"] == "llama"


FOREIGN: dict[str, tuple[str, list[tuple[str, bytes, str]], dict[str, bytes], str]] = {
    "parts in order": (
        DOCKER_CONFIG,
        [(DOCKER_GGUF, b"GGUF 1", ""), (DOCKER_GGUF, b"GGUF 2", ""), (DOCKER_LICENCE, b"L", "")],
        {
            "model-00001-of-00002.gguf": b"GGUF 1",
            "model-00002-of-00002.gguf": b"GGUF 2",
            "LICENSE": b"L",
        },
        "model-00001-of-00002.gguf",
    ),
    "a vision tower, as the program names it": (
        DOCKER_CONFIG,
        [(DOCKER_TOWER, b"GGUF tower", ""), (DOCKER_GGUF, b"GGUF", "")],
        {"mmproj.gguf": b"GGUF tower", "model.gguf": b"GGUF"},
        "model.gguf",
    ),
    "a vision tower, as the specification names it": (
        DOCKER_CONFIG,
        [(DOCKER_GGUF, b"GGUF", ""), (DOCKER_SPEC_TOWER, b"GGUF tower", "")],
        {"mmproj.gguf": b"GGUF tower", "model.gguf": b"GGUF"},
        "model.gguf",
    ),
    "a template and two licences": (
        DOCKER_CONFIG,
        [
            (DOCKER_GGUF, b"GGUF", ""),
            (DOCKER_LICENCE, b"a", ""),
            (DOCKER_LICENCE, b"b", ""),
            (DOCKER_TEMPLATE, b"{{ x }}", ""),
        ],
        {
            "model.gguf": b"GGUF",
            "LICENSE": b"a",
            "LICENSE-2": b"b",
            "chat_template.jinja": b"{{ x }}",
        },
        "model.gguf",
    ),
    "files with names": (
        DOCKER_CONFIG_2,
        [(DOCKER_GGUF, b"GGUF", "deep/it-Q4_0.gguf"), (DOCKER_FILE, b"{}", "deep/config.json")],
        {"deep/it-Q4_0.gguf": b"GGUF", "deep/config.json": b"{}"},
        "deep/it-Q4_0.gguf",
    ),
}
"""What Docker packages: config, layers (type, bytes, name), files by path, the one opened."""


def put(host: str, repository: str, config: str, layers: list[tuple[str, bytes, str]]) -> str:
    """A manifest as another program writes it; returns its name."""
    name = oci.parse(f"oci://{host}/{repository}:v1")
    client = RegistryRepository(name, pushes=True)
    descriptors: list[Descriptor] = []
    for kind, data, place in layers:
        blob = upload.push_bytes(client, data, kind)
        named = {"org.cncf.model.filepath": place} if place else {}
        descriptors.append(
            Descriptor(media_type=kind, digest=blob.digest, size=blob.size, annotations=named)
        )
    values = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": upload.push_bytes(client, b"{}", config).to_dict(),
        "layers": [layer.to_dict() for layer in descriptors],
    }
    client.put_manifest(manifests.encoded(values), IMAGE_MANIFEST, name.tag)
    return str(name)


@pytest.mark.parametrize("case", FOREIGN)
def test_what_docker_packages_is_pulled(registry: str, case: str) -> None:
    config, layers, files, opened = FOREIGN[case]
    name = put(registry, f"foreign/a{list(FOREIGN).index(case)}", config, layers)
    path = Path(kanna.pull(name).path)
    root = path.parents[len(Path(opened).parts) - 1]
    assert path == root / opened
    assert {
        p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()
    } == files


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([(DOCKER_LICENCE, b"L", "")], UnsupportedError, "no weights"),
        ([("application/vnd.docker.ai.dir.tar", b"t", "")], UnsupportedError, "dir.tar"),
        ([(DOCKER_FILE, b"{}", ""), (DOCKER_GGUF, b"G", "")], UnsupportedError, "without a name"),
        ([(DOCKER_GGUF, b"G", "../../x.gguf")], RefusedError, "plain path"),
        ([(DOCKER_GGUF, b"G", "model.gguf"), (DOCKER_GGUF, b"H", "")], RefusedError, "two files"),
    ],
)
def test_odd_models_of_docker_are_refused(
    registry: str, layers: list[tuple[str, bytes, str]], error: type[Exception], message: str
) -> None:
    name = put(registry, "foreign/odd", DOCKER_CONFIG, layers)
    with pytest.raises(error, match=message):
        kanna.pull(name)


def test_an_image_holds_the_files_below_models(registry: str, tiny_gguf: Path) -> None:
    manifest = pushed_manifest(registry, "image", tiny_gguf)
    config = config_of(registry, "image", manifest)
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert config["rootfs"] == {"type": "layers", "diff_ids": digests}
    labels = config["config"]["Labels"]
    assert labels["com.ramalama.model.file.location"] == f"/models/{tiny_gguf.name}"
    members: dict[str, tuple[bytes, str | bytes]] = {}
    for digest in digests:
        data = get(registry, f"layouts/image/blobs/{digest}")
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                members[member.name] = (member.type, file.read() if file else member.linkname)
                assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
    assert members == {
        "models": (tarfile.DIRTYPE, ""),
        f"models/{tiny_gguf.name}": (tarfile.REGTYPE, tiny_gguf.read_bytes()),
        "models/model.file": (tarfile.SYMTYPE, tiny_gguf.name),
    }


def test_an_image_is_sent_once_and_leaves_no_archive(registry: str, tiny_gguf: Path) -> None:
    name = f"oci://{registry}/layouts/image:again"
    first = kanna.push(name, tiny_gguf, unproved=True, layout="image")
    second = kanna.push(name, tiny_gguf, unproved=True, layout="image")
    assert second.variants[0].sent_bytes == 0 and first.digest == second.digest
    assert not list(oci.folder().rglob("*.tar")) and not [*oci.folder().glob(".layers*")]
    with pytest.raises(UnsupportedError, match="in the layout image, an archive"):
        kanna.pull(name)


def test_other_programs_read_the_image(registry: str, tiny_gguf: Path, tmp_path: Path) -> None:
    """skopeo holds every blob to its digest, and the configuration to the layers."""
    skopeo = needs.program("skopeo", install="skopeo")
    pushed_manifest(registry, "image", tiny_gguf)
    subprocess.run(
        [skopeo, "copy", "--insecure-policy", "--src-tls-verify=false"]
        + [f"docker://{registry}/layouts/image:v1", f"docker-archive:{tmp_path / 'image.tar'}"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (tmp_path / "image.tar").stat().st_size > tiny_gguf.stat().st_size


def test_what_a_layout_does_not_carry_is_a_usage_error(tiny_gguf: Path, tmp_path: Path) -> None:
    name, folder = "oci://127.0.0.1:1/a:v1", str(tmp_path)
    for words in (
        [name, str(tiny_gguf), "--layout", "dockr"],
        [name, str(tiny_gguf), str(tiny_gguf), "--layout", "docker"],
        [f"file://{folder}", str(tiny_gguf), "--layout", "docker"],
        ["hf:a/b", str(tiny_gguf), "--layout", "docker"],
    ):
        run = CliRunner().invoke(cli, ["push", *words, "--unproved"])
        assert run.exit_code == 2, run.output
    with pytest.raises(UsageError, match=r"no layout 'dockr'.*docker"):
        kanna.push(name, tiny_gguf, unproved=True, layout="dockr")


def test_docker_takes_no_folders(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    (folder / "model.safetensors").write_bytes(bytes(100))
    with pytest.raises(UsageError, match="(?s)of the format .*gguf in the layout docker"):
        kanna.push("oci://127.0.0.1:1/a:v1", folder, unproved=True, layout="docker")


def test_docker_hub_by_its_names(tmp_path: Path) -> None:
    assert connection.base_url("docker.io") == "https://registry-1.docker.io"
    assert connection.base_url("ghcr.io") == "https://ghcr.io"
    config = tmp_path / "docker" / "config.json"
    config.parent.mkdir()
    auth = base64.b64encode(b"me:secret").decode()
    config.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": auth}}}))
    header = credentials.authorization("docker.io", "Basic realm=x", "ai/smollm2", "pull")
    assert header == f"Basic {auth}"


def test_a_signature_holds_in_other_layouts(registry: str, tiny_gguf: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    name = f"oci://{registry}/layouts/signed:v1"
    kanna.push(name, tiny_gguf, unproved=True, layout="docker", sign_key=private)
    assert kanna.pull(name, key=public).signature == "good"
