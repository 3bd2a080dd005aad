"""`kanna package`: what it writes holds before the programs it is written for."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import needs
from helpers.packing import ALL, command_of, mlx_folder, run, shell

from kanna.cli.main import cli
from kanna.errors import GateError, OutputError, RefusedError, UsageError
from kanna.formats import mlx
from kanna.formats.memory import resident_buffer_bytes
from kanna.packaging import bom, check, package
from kanna.packaging.artefact import open_artefact, slug
from kanna.sizing import cache_bytes


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key pair on P-256."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, key = tmp_path_factory.mktemp("keys"), ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "key.pem", folder / "key.pub.pem"
    private.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


# What it takes


def test_memory_is_counted_as_fit_counts(packable: Path, tmp_path: Path) -> None:
    found = package(packable, tmp_path / "a", to=["systemd"], context=512, parallel=3)
    model = open_artefact(packable).model
    told = found.resources
    assert told["weight_bytes"] == packable.stat().st_size
    assert told["kv_bytes"] == 3 * cache_bytes(model, 512) == 3 * 512 * 2 * 2 * (16 + 16) * 2
    assert told["buffer_bytes"] == resident_buffer_bytes(model, 512)
    parts = told["weight_bytes"] + told["kv_bytes"] + told["buffer_bytes"] + told["process_bytes"]
    assert (
        0 <= told["memory_bytes"] - parts * 1.1 < 1 << 20 and told["memory_bytes"] % (1 << 20) == 0
    )


def test_a_folder_is_counted_the_same(packable: Path, tmp_path: Path) -> None:
    of_file = package(packable, tmp_path / "a", to=["docker"], context=256).resources
    of_folder = package(
        mlx_folder(tmp_path / "tiny-mlx"), tmp_path / "b", to=["docker"], context=256
    )
    assert of_folder.kind == "mlx"
    # mlx keeps float32 on a CPU, llama.cpp float16.
    assert of_folder.resources["kv_bytes"] == (2 if mlx.ON_CPU else 1) * of_file["kv_bytes"]
    assert {f for f in of_folder.files if f.startswith("models/")} == {
        f"models/tiny-mlx/{n}" for n in ("chat_template.jinja", "config.json", "model.safetensors")
    }
    assert ".whl[serve,mlx]" in (tmp_path / "b" / "Dockerfile").read_text()
    check(tmp_path / "b")


def test_an_onnx_folder_is_read_by_its_own_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "phi-onnx"
    folder.mkdir()
    decoder = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_size": 16,
    }
    told = {"model": {"type": "phi3", "context_length": 300, "vocab_size": 64, "decoder": decoder}}
    (folder / "genai_config.json").write_text(json.dumps(told))
    (folder / "model.onnx").write_bytes(b"x")
    found = package(folder, tmp_path / "out", to=["compose"])
    assert (found.kind, found.resources["context"]) == ("onnx", 300)
    # Requests, tokens, layers, heads, keys and values, float32.
    assert found.resources["kv_bytes"] == 4 * 512 * 2 * 2 * 32 * 4


GRAPH = (
    '<net name="tiny" version="11"><layers>'
    '<layer name="model.embed_tokens.weight" type="Const" version="opset1">'
    '<data element_type="{}" shape="64,64" offset="0" size="{}"/></layer></layers></net>'
)


@pytest.mark.parametrize(("kind", "size", "value_bytes"), [("f16", 2, 1 + 8 / 16), ("f32", 4, 4)])
def test_an_openvino_folder_is_read_by_its_graph(
    kind: str, size: int, value_bytes: float, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny-openvino"
    folder.mkdir()
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 300, "vocab_size": 64}
    (folder / "config.json").write_text(json.dumps(sizes | {"model_type": "llama"}))
    (folder / "openvino_model.bin").write_bytes(bytes(64 * 64 * size))
    (folder / "openvino_model.xml").write_text(GRAPH.format(kind, 64 * 64 * size))
    found = package(folder, tmp_path / "out", to=["docker", "systemd"])
    assert (found.kind, found.resources["context"]) == ("openvino", 300)
    assert found.resources["kv_bytes"] == 4 * 512 * 2 * 2 * 32 * value_bytes
    assert ".whl[serve,openvino]" in (tmp_path / "out" / "Dockerfile").read_text()


# Each target before its own program


def test_dockerfile_before_dockers_parser(packaged: Path) -> None:
    import dockerfile as parser

    lines = parser.parse_file(str(packaged / "Dockerfile"))
    by_name = {line.cmd.upper(): line for line in lines}
    assert set(by_name) <= {
        "FROM",
        "ARG",
        "COPY",
        "RUN",
        "LABEL",
        "WORKDIR",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert by_name["USER"].value == ("10001:10001",), "not root, by number: Kubernetes can tell"
    assert by_name["ENTRYPOINT"].json and by_name["CMD"].json, "no shell between"
    assert by_name["HEALTHCHECK"].value[0] == "CMD"
    labels = by_name["LABEL"].value
    assert any("\\$HOME" in word for word in labels), "a name is data: no variable of it is put in"
    for line in lines:
        if line.cmd.upper() == "COPY" and not line.flags:
            for source in line.value[:-1]:
                assert (packaged / source).exists(), f"COPY {source}"


def test_compose_before_docker_compose(packaged: Path) -> None:
    program = needs.program("docker-compose", install="docker-compose")
    done = shell(program, "-f", packaged / "compose.yaml", "config")
    assert done.returncode == 0, done.stderr
    gateway = yaml.safe_load(done.stdout)["services"]["gateway"]
    assert (
        gateway["read_only"] is True
        and gateway["user"] == "10001:10001"
        and gateway["cap_drop"] == ["ALL"]
    )
    limit = gateway["deploy"]["resources"]["limits"]["memory"]
    memory = open_memory(packaged)
    assert limit in (f"{memory}M", str(memory << 20))
    ports = yaml.safe_load((packaged / "compose.yaml").read_text())["services"]["gateway"]["ports"]
    assert all(p.startswith("127.0.0.1:") for p in ports), "loopback only"


def open_memory(packaged: Path) -> int:
    """MiB as the page says."""
    found = re.search(r"\| memory \| (\d+) MiB", (packaged / "README.md").read_text())
    assert found
    return int(found[1])


def test_units_before_systemd(packaged: Path, tmp_path: Path) -> None:
    program = needs.program("systemd-analyze", install="systemd")
    (tmp_path / "bin").mkdir()
    for name in ("kanna", "python"):  # only what it starts is not installed here
        shutil.copy(shutil.which("true") or "/bin/true", tmp_path / "bin" / name)
    units = [tmp_path / p.name for p in sorted((packaged / "systemd").iterdir())]
    assert len(units) == 4
    for unit in units:
        unit.write_text(
            (packaged / "systemd" / unit.name).read_text().replace("/opt/kanna", str(tmp_path))
        )
    env = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = shell(program, "verify", "--man=no", *units, env=env)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stderr, done.stderr
    main = next(u for u in units if u.name.count("-") == min(x.name.count("-") for x in units))
    # 0 is sealed, 10 is open; 25 is 2.5.
    exposed = shell(
        program, "security", "--offline=true", "--threshold=25", "--no-pager", main, env=env
    )
    assert exposed.returncode == 0, exposed.stdout[-400:]
    text = main.read_text()
    assert "Description=Tiny $HOME %%n {{ x }} served by kanna" in text
    assert f"MemoryMax={open_memory(packaged)}M" in text


def test_manifests_before_the_schemas_of_kubernetes(packaged: Path) -> None:
    import kubernetes_validate as validator

    parts = list(yaml.safe_load_all(next((packaged / "kubernetes").iterdir()).read_text()))
    assert [p["kind"] for p in parts] == [
        "ServiceAccount",
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "NetworkPolicy",
    ]
    for part in parts:
        validator.validate(part, "1.31", strict=True)
    pod = parts[2]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (
        pod["securityContext"]["runAsNonRoot"]
        and container["securityContext"]["readOnlyRootFilesystem"]
    )
    granted = container["resources"]
    assert (
        granted["requests"] == granted["limits"]
        and granted["limits"]["memory"] == f"{open_memory(packaged)}Mi"
    )
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    with pytest.raises(validator.ValidationError):
        validator.validate(parts[2] | {"spec": {"replicas": "one"}}, "1.31", strict=True)


def test_the_command_is_one_that_kanna_takes(packaged: Path) -> None:
    """The words after `kanna`, held against the command line."""
    import click

    told = command_of(packaged)
    command = cli.get_command(click.Context(cli), told[0])
    assert command is not None
    given = command.make_context("serve", told[1:]).params
    assert (
        given["context"] == 256
        and given["host"] == "0.0.0.0"
        and given["state"] == Path("/var/lib/kanna")
    )


def test_every_service_asks_for_keys_and_can_be_given_its_first(packaged: Path) -> None:
    """In Kubernetes that is done inside a pod, which has to be there without one."""
    unit = next(
        p
        for p in (packaged / "systemd").iterdir()
        if "ExecStart=/opt/kanna/bin/kanna" in p.read_text()
    )
    assert re.search("^ExecStart=.* --keys$", unit.read_text(), re.M)
    pod = list(yaml.safe_load_all(next((packaged / "kubernetes").iterdir()).read_text()))[2][
        "spec"
    ]["template"]["spec"]
    assert pod["containers"][0]["args"] == [*command_of(packaged), "--wait-for-key"]
    text = (packaged / "README.md").read_text()
    assert text.count("keys create --name first") == 4, "docker, compose, systemd, kubernetes"


# What it is packaged of, and whether it still is


def test_bill_of_materials_says_what_the_file_says(packable: Path, packaged: Path) -> None:
    told = json.loads((packaged / bom.FILE).read_text())
    model = told["metadata"]["component"]
    assert (told["bomFormat"], told["specVersion"], model["type"]) == (
        "CycloneDX",
        "1.6",
        "machine-learning-model",
    )
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert model["hashes"][0]["content"] == open_artefact(packable).digest
    (source,) = model["pedigree"]["ancestors"]
    assert source["name"] == "someone/tiny"
    assert {c["name"]: c["hashes"][0]["content"] for c in source["components"]} == {
        "model.safetensors": "ab" * 32,
        "config.json": "cd" * 32,
    }
    properties = {p["name"]: p["value"] for p in model["properties"]}
    assert (
        properties["kanna:plan"] == "Q4_K_M"
        and properties["kanna:plan.encodings:f16"] == "3 tensors"
    )
    assert model["pedigree"]["notes"] == "kanna convert someone/tiny --preset Q4_K_M"
    assert model["modelCard"]["modelParameters"]["modelArchitecture"] == "llama"
    told["metadata"]["component"]["modelCard"]["taste"] = "sweet"
    with pytest.raises(GateError, match="taste"):
        bom.validate(json.dumps(told))


def test_the_same_artefact_gives_the_same_package(
    packable: Path, packaged: Path, tmp_path: Path
) -> None:
    package(packable, tmp_path / "again", to=ALL, context=256)
    assert (tmp_path / "again" / "SHA256SUMS").read_bytes() == (
        packaged / "SHA256SUMS"
    ).read_bytes()


def test_checksums_before_sha256sum(packaged: Path) -> None:
    program = needs.program("sha256sum", install="coreutils")
    done = shell(program, "--check", "--strict", "--quiet", "SHA256SUMS", cwd=packaged)
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ", 1)[1] for line in (packaged / "SHA256SUMS").read_text().splitlines()}
    assert listed == {
        p.relative_to(packaged).as_posix() for p in packaged.rglob("*") if p.is_file()
    } - {"SHA256SUMS"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "Dockerfile").write_text("FROM evil"), "Dockerfile was changed"),
        (lambda f: next((f / "models").iterdir()).open("ab").write(b"x"), "was changed"),
        (lambda f: (f / "Modelfile").unlink(), "Modelfile is missing"),
        (lambda f: (f / "models" / "more.gguf").write_bytes(b""), "models/more.gguf was added"),
        (lambda f: (f / "link").symlink_to("/etc/passwd"), "link was added"),
        (
            lambda f: (f / "SHA256SUMS").write_text("0" * 64 + "  ../../etc/passwd\n"),
            "names '../../etc/passwd'",
        ),
        (lambda f: (f / "SHA256SUMS").write_text("nonsense\n"), "line 1"),
    ],
)
def test_a_changed_package_is_told(change: Any, said: str, packaged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(packaged, folder)
    assert run("package", folder, "--check").exit_code == 0
    change(folder)
    done = run("package", folder, "--check")
    assert done.exit_code == 1 and said in done.output


def test_signature(packable: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    folder = tmp_path / "signed"
    package(packable, folder, sign_key=private, context=256)
    assert check(folder).signature == "not checked"
    assert check(folder, key=public).signature == "good"
    # Also after a move, and with the sums written again by who changed a file.
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert check(moved, key=public).signature == "good"
    (moved / "Dockerfile").write_text("FROM evil\n")
    from kanna._util.digest import sha256

    lines = (moved / "SHA256SUMS").read_text().splitlines()
    told = [
        f"{sha256(moved / 'Dockerfile')}  Dockerfile" if x.endswith("  Dockerfile") else x
        for x in lines
    ]
    (moved / "SHA256SUMS").write_text("\n".join(told) + "\n")
    assert check(moved).signature == "not checked", "sums alone can be written by anybody"
    with pytest.raises(GateError, match="Dockerfile"):
        check(moved, key=public)


def test_a_signature_of_somebody_else(
    packable: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    other = tmp_path / "other.pem"
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    package(packable, tmp_path / "signed", sign_key=keys[0], context=256)
    with pytest.raises(GateError, match="does not hold"):
        check(tmp_path / "signed", key=other)
    package(packable, tmp_path / "bare", context=256)
    with pytest.raises(GateError, match="not signed"):
        check(tmp_path / "bare", key=keys[1])
    for broken in (b"", b"{}", b"\xff"):
        (tmp_path / "signed" / "model.sig").write_bytes(broken)
        with pytest.raises(GateError):
            check(tmp_path / "signed", key=keys[1])


def test_what_model_signing_itself_says(
    packable: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The signature is one that its own command line takes."""
    package(packable, tmp_path / "p", sign_key=keys[0], context=256)
    done = shell(
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        tmp_path / "p",
        "--signature",
        tmp_path / "p/model.sig",
        "--public_key",
        keys[1],
    )
    assert done.returncode == 0, done.stdout + done.stderr


# What is refused


def test_nothing_is_overwritten_and_nothing_half_done_stays(
    packable: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists"):
        package(packable, tmp_path / "there")
    with pytest.raises(OutputError, match="mkdir"):
        package(packable, tmp_path / "no" / "where")
    with pytest.raises(UsageError, match="cannot sign"):
        package(packable, tmp_path / "out", sign_key=keys[1])
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "stale").write_text("")
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("shutil.copyfile", full)
        with pytest.raises(OutputError, match="full"):
            package(packable, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "stale").write_text("")
    package(packable, tmp_path / "out", context=256)
    assert not (tmp_path / "out" / "stale").exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--to", "docker"], 2, "no output"),
        (["-o", "OUT", "--to", "moon"], 1, "moon"),
        (["-o", "OUT", "--context", "100000"], 2, "trained for 512"),
        (["-o", "OUT", "--key", "k"], 2, "--check"),
        (["--check", "-o", "OUT"], 2, "--key alone"),
        (["-o", "OUT", "--sign-key", "nowhere.pem"], 2, "openssl"),
        (["-o", "OUT", "--wheel", "kanna.zip"], 2, "wheel"),
    ],
)
def test_options_that_do_not_fit(
    words: list[str], code: int, said: str, packable: Path, tmp_path: Path
) -> None:
    done = run("package", packable, *[str(tmp_path / "out") if w == "OUT" else w for w in words])
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert not (tmp_path / "out").exists()


def test_what_is_no_artefact(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("package", tmp_path / "empty", "-o", tmp_path / "out").exit_code == 1
    assert run("package", tmp_path / "nothing.gguf", "-o", tmp_path / "out").exit_code == 2
    folder = mlx_folder(tmp_path / "m")
    (folder / "extra.pkl").write_bytes(b"")
    with pytest.raises(RefusedError, match=r"extra\.pkl"):
        package(folder, tmp_path / "out")
    (folder / "extra.pkl").unlink()
    (folder / "broken").symlink_to("nowhere")
    assert run("package", folder, "-o", tmp_path / "out").exit_code == 1


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Tiny Model-Q4_K_M", "tiny-model-q4-k-m"),
        ("1.5B", "m-1-5b"),
        ("a" * 60, "a" * 40),
        ("--x--", "x"),
    ],
)
def test_slugs_are_dns_labels(name: str, wanted: str) -> None:
    assert slug(name) == wanted


def test_json(packable: Path, tmp_path: Path) -> None:
    done = run(
        "package",
        packable,
        "-o",
        tmp_path / "out",
        "--to",
        "docker,ollama",
        "--context",
        256,
        "--json",
    )
    told = json.loads(done.stdout)
    assert told["targets"] == ["docker", "ollama"] and "Modelfile" in told["files"]
    assert sorted(told["files"]) == sorted(
        p.relative_to(tmp_path / "out").as_posix()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file()
    )
