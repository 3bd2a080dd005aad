"""`kanna package`: what it writes holds before the programs it is written for."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import needs
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from making import gguf_file, metadata_of_a_llama

from kanna.cli.main import cli
from kanna.errors import GateError, OutputError, RefusedError, UnsupportedError, UsageError
from kanna.fit import buffer_bytes, cache_bytes
from kanna.package import bom, check, package, targets, turns
from kanna.package.artefact import open_artefact, slug
from kanna.tokenizer.chat import render

ALL = targets.names()
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if loop.first %}{{ head }}{% endif %}{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no rules') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
QUOTES = (
    "{% for m in messages %}{{ '{{' }}{{ m.role }}\": {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '{{assistant\": ' }}{% endif %}"
)
SHAPED = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF as kanna writes it: with provenance, a licence and a chat template whose texts need care."""
    told = metadata_of_a_llama(layers=2, hidden=64, heads=4, kv_heads=2, feed=128) | {
        "general.name": "Tiny $HOME %n {{ x }}",
        "general.license": "apache-2.0",
        "tokenizer.chat_template": CHATML,
        "kanna.version": "0.1.0",
        "kanna.source": "someone/tiny",
        "kanna.source.sha256": json.dumps({"model.safetensors": "ab" * 32, "config.json": "cd" * 32}),
        "kanna.plan": "Q4_K_M",
        "kanna.plan.encodings": json.dumps({"f16": 3}),
        "kanna.command": "kanna convert someone/tiny --preset Q4_K_M",
    }
    tensors = {"token_embd.weight": np.ones((64, 64), np.float16)}
    return gguf_file(tmp_path_factory.mktemp("small") / "Tiny Model-Q4_K_M.gguf", tensors, told)


@pytest.fixture(scope="module")
def made(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with every target."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    package(small, folder, to=ALL, context=256)
    return folder


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
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words])


def shell(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=120, **options)


def command_of(folder: Path) -> list[str]:
    """What the image runs, after `kanna`."""
    lines = (folder / "Dockerfile").read_text().splitlines()
    return json.loads(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))


def mlx_folder(folder: Path) -> Path:
    folder.mkdir()
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 64, "max_position_embeddings": 512,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


# What it takes


def test_memory_is_counted_as_fit_counts(small: Path, tmp_path: Path) -> None:
    found = package(small, tmp_path / "a", to=["systemd"], context=512, parallel=3)
    model = open_artefact(small).model
    told = found.resources
    assert told["weight_bytes"] == small.stat().st_size
    assert told["kv_bytes"] == 3 * cache_bytes(model, 512) == 3 * 512 * 2 * 2 * (16 + 16) * 2
    assert told["buffer_bytes"] == buffer_bytes(model, 512)
    parts = told["weight_bytes"] + told["kv_bytes"] + told["buffer_bytes"] + told["process_bytes"]
    assert 0 <= told["memory_bytes"] - parts * 1.1 < 1 << 20 and told["memory_bytes"] % (1 << 20) == 0


def test_a_folder_is_counted_the_same(small: Path, tmp_path: Path) -> None:
    of_file = package(small, tmp_path / "a", to=["docker"], context=256).resources
    of_folder = package(mlx_folder(tmp_path / "tiny-mlx"), tmp_path / "b", to=["docker"], context=256)
    assert of_folder.kind == "mlx" and any("no engine for mlx" in n for n in of_folder.notes)
    assert of_folder.resources["kv_bytes"] == of_file["kv_bytes"]
    assert {f for f in of_folder.files if f.startswith("models/")} == {
        f"models/tiny-mlx/{n}" for n in ("chat_template.jinja", "config.json", "model.safetensors")
    }
    assert 'kanna[serve,mlx]' in (tmp_path / "b" / "Dockerfile").read_text()
    check(tmp_path / "b")


def test_an_onnx_folder_is_read_by_its_own_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "phi-onnx"
    folder.mkdir()
    decoder = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
               "head_size": 16}  # fmt: skip
    told = {"model": {"type": "phi3", "context_length": 300, "vocab_size": 64, "decoder": decoder}}
    (folder / "genai_config.json").write_text(json.dumps(told))
    (folder / "model.onnx").write_bytes(b"x")
    found = package(folder, tmp_path / "out", to=["compose"])
    assert (found.kind, found.resources["context"]) == ("onnx", 300)
    assert found.resources["kv_bytes"] == 4 * 512 * 2 * 2 * 32 * 2


# Each target before its own program


def test_dockerfile_before_dockers_parser(made: Path) -> None:
    import dockerfile as parser

    lines = parser.parse_file(str(made / "Dockerfile"))
    by_name = {line.cmd.upper(): line for line in lines}
    assert set(by_name) <= {"FROM", "ARG", "COPY", "RUN", "LABEL", "WORKDIR", "ENV", "USER", "VOLUME", "EXPOSE",
                            "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # fmt: skip
    assert by_name["USER"].value == ("10001:10001",), "not root, by number: Kubernetes can tell"
    assert by_name["ENTRYPOINT"].json and by_name["CMD"].json, "no shell between"
    assert by_name["HEALTHCHECK"].value[0] == "CMD"
    labels = by_name["LABEL"].value
    assert any("\\$HOME" in word for word in labels), "a name is data: no variable of it is put in"
    for line in lines:
        if line.cmd.upper() == "COPY" and not line.flags:
            for source in line.value[:-1]:
                assert (made / source).exists(), f"COPY {source}"


def test_compose_before_docker_compose(made: Path) -> None:
    program = needs.program("docker-compose", install="docker-compose")
    done = shell(program, "-f", made / "compose.yaml", "config")
    assert done.returncode == 0, done.stderr
    gateway = yaml.safe_load(done.stdout)["services"]["gateway"]
    assert gateway["read_only"] is True and gateway["user"] == "10001:10001" and gateway["cap_drop"] == ["ALL"]
    limit = gateway["deploy"]["resources"]["limits"]["memory"]
    memory = open_memory(made)
    assert limit in (f"{memory}M", str(memory << 20))
    ports = yaml.safe_load((made / "compose.yaml").read_text())["services"]["gateway"]["ports"]
    assert all(p.startswith("127.0.0.1:") for p in ports), "loopback only"


def open_memory(made: Path) -> int:
    """MiB as the page says."""
    found = re.search(r"\| memory \| (\d+) MiB", (made / "README.md").read_text())
    assert found
    return int(found[1])


def test_units_before_systemd(made: Path, tmp_path: Path) -> None:
    program = needs.program("systemd-analyze", install="systemd")
    (tmp_path / "bin").mkdir()
    for name in ("kanna", "python"):  # only what it starts is not installed here
        shutil.copy(shutil.which("true") or "/bin/true", tmp_path / "bin" / name)
    units = [tmp_path / p.name for p in sorted((made / "systemd").iterdir())]
    assert len(units) == 4
    for unit in units:
        unit.write_text((made / "systemd" / unit.name).read_text().replace("/opt/kanna", str(tmp_path)))
    env = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = shell(program, "verify", "--man=no", *units, env=env)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stderr, done.stderr
    main = next(u for u in units if u.name.count("-") == min(x.name.count("-") for x in units))
    # 0 is sealed, 10 is open; 25 is 2.5.
    exposed = shell(program, "security", "--offline=true", "--threshold=25", "--no-pager", main, env=env)
    assert exposed.returncode == 0, exposed.stdout[-400:]
    text = main.read_text()
    assert "Description=Tiny $HOME %%n {{ x }} served by kanna" in text
    assert f"MemoryMax={open_memory(made)}M" in text


def test_manifests_before_the_schemas_of_kubernetes(made: Path) -> None:
    import kubernetes_validate as validator

    parts = list(yaml.safe_load_all(next((made / "kubernetes").iterdir()).read_text()))
    assert [p["kind"] for p in parts] == [
        "ServiceAccount", "PersistentVolumeClaim", "Deployment", "Service", "NetworkPolicy"
    ]  # fmt: skip
    for part in parts:
        validator.validate(part, "1.31", strict=True)
    pod = parts[2]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    granted = container["resources"]
    assert granted["requests"] == granted["limits"] and granted["limits"]["memory"] == f"{open_memory(made)}Mi"
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    with pytest.raises(validator.ValidationError):
        validator.validate(parts[2] | {"spec": {"replicas": "one"}}, "1.31", strict=True)


def test_the_command_is_one_that_kanna_takes(made: Path) -> None:
    """The words after `kanna`, held against the command line."""
    import click

    told = command_of(made)
    command = cli.get_command(click.Context(cli), told[0])
    assert command is not None
    given = command.make_context("serve", told[1:]).params
    assert given["context"] == 256 and given["host"] == "0.0.0.0" and given["state"] == Path("/var/lib/kanna")


# Ollama


@pytest.mark.parametrize("name", SHAPED)
def test_the_shape_of_a_template_writes_what_it_writes(name: str) -> None:
    found = turns.turns_of(SHAPED[name], eos="</s>")
    assert found is not None
    assert (found.system is None) == (name in ("gemma", "mistral"))
    stops = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>"}
    assert found.stop == stops[name]
    assert found.default == ("Be kind." if name == "chatml" else "")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}<{{ loop.index }}>{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content.split('2')[0] }}\n{% endfor %}",
        "{{ messages[-1].content }}",
        "{{ nowhere.nothing }}",
        "{% if %}",
    ],
)
def test_a_template_that_does_more_is_not_guessed(template: str) -> None:
    assert turns.turns_of(template) is None


GO = """package main
import ("encoding/json"; "os"; "text/template")
func main() {
  var all []struct{ Template string; Data map[string]any }
  if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil { panic(err) }
  for _, one := range all {
    made := template.Must(template.New("").Parse(one.Template))
    if err := made.Execute(os.Stdout, one.Data); err != nil { panic(err) }
    os.Stdout.Write([]byte{0})
  }
}
"""


def test_templates_in_go_write_what_jinja_writes(tmp_path: Path) -> None:
    """The engine Ollama has, given what Ollama gives it."""
    program = needs.program("go", install="golang-go")
    (tmp_path / "main.go").write_text(GO)
    asked = [{"role": "user", "content": "Is {{ 1 < 2 }} \"so\"?\n"}, {"role": "assistant", "content": "Yes & 'no'."}]
    cases: list[dict[str, Any]] = []
    wanted: list[str] = []
    for name, template in (*SHAPED.items(), ("quotes", QUOTES)):
        shape = turns.turns_of(template, eos="</s>")
        assert shape is not None, name
        for rules in ("", "Say little."):
            if rules and not (shape.system or shape.joined):
                continue
            told = [{"role": "user", "content": "Hello"}, asked[1], {"role": "user", "content": "Again"}]
            if name != "llama3":  # it trims what is said
                told = [asked[0], *told[1:]]
            wanted.append(render(template, [{"role": "system", "content": rules}] * bool(rules) + told, eos="</s>"))
            system = rules or shape.default
            messages = [{"role": "system", "content": system}] * bool(system) + told
            turned = [{"Role": m["role"], "Content": m["content"]} for m in messages]
            cases.append({"Template": shape.go(), "Data": {"System": system, "Messages": turned}})
    env = os.environ | {"GO111MODULE": "off", "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod"}
    done = shell(program, "run", tmp_path / "main.go", input=json.dumps(cases), env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\0")[:-1] == wanted


def test_modelfile(made: Path, tmp_path: Path) -> None:
    text = (made / "Modelfile").read_text()
    model = re.search(r"^FROM (.*)$", text, re.M)
    assert model and (made / model[1]).is_file() and " " not in model[1]
    assert text.count('"""') % 2 == 0 and 'SYSTEM """Be kind."""' in text
    assert "PARAMETER num_ctx 256" in text and 'PARAMETER stop """<|im_end|>"""' in text
    with pytest.raises(UnsupportedError, match="mlx"):
        package(mlx_folder(tmp_path / "m"), tmp_path / "out", to=["ollama"])
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


# What it is made of, and whether it still is


def test_bill_of_materials_says_what_the_file_says(small: Path, made: Path) -> None:
    told = json.loads((made / bom.FILE).read_text())
    model = told["metadata"]["component"]
    assert (told["bomFormat"], told["specVersion"], model["type"]) == ("CycloneDX", "1.6", "machine-learning-model")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert model["hashes"][0]["content"] == open_artefact(small).digest
    (source,) = model["pedigree"]["ancestors"]
    assert source["name"] == "someone/tiny"
    assert {c["name"]: c["hashes"][0]["content"] for c in source["components"]} == {
        "model.safetensors": "ab" * 32, "config.json": "cd" * 32
    }  # fmt: skip
    properties = {p["name"]: p["value"] for p in model["properties"]}
    assert properties["kanna:plan"] == "Q4_K_M" and properties["kanna:plan.encodings:f16"] == "3 tensors"
    assert model["pedigree"]["notes"] == "kanna convert someone/tiny --preset Q4_K_M"
    assert model["modelCard"]["modelParameters"]["modelArchitecture"] == "llama"
    told["metadata"]["component"]["modelCard"]["taste"] = "sweet"
    with pytest.raises(GateError, match="taste"):
        bom.validate(json.dumps(told))


def test_the_same_artefact_gives_the_same_package(small: Path, made: Path, tmp_path: Path) -> None:
    package(small, tmp_path / "again", to=ALL, context=256)
    assert (tmp_path / "again" / "SHA256SUMS").read_bytes() == (made / "SHA256SUMS").read_bytes()


def test_checksums_before_sha256sum(made: Path) -> None:
    program = needs.program("sha256sum", install="coreutils")
    done = shell(program, "--check", "--strict", "--quiet", "SHA256SUMS", cwd=made)
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ", 1)[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert listed == {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()} - {"SHA256SUMS"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "Dockerfile").write_text("FROM evil"), "Dockerfile was changed"),
        (lambda f: next((f / "models").iterdir()).open("ab").write(b"x"), "was changed"),
        (lambda f: (f / "Modelfile").unlink(), "Modelfile is missing"),
        (lambda f: (f / "models" / "more.gguf").write_bytes(b""), "models/more.gguf was added"),
        (lambda f: (f / "link").symlink_to("/etc/passwd"), "link was added"),
        (lambda f: (f / "SHA256SUMS").write_text("0" * 64 + "  ../../etc/passwd\n"), "names '../../etc/passwd'"),
        (lambda f: (f / "SHA256SUMS").write_text("nonsense\n"), "line 1"),
    ],
)
def test_a_changed_package_is_told(change: Any, said: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    assert run("package", folder, "--check").exit_code == 0
    change(folder)
    done = run("package", folder, "--check")
    assert done.exit_code == 1 and said in done.output


def test_signature(small: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    folder = tmp_path / "signed"
    package(small, folder, sign_key=private, context=256)
    assert check(folder).signature == "not checked"
    assert check(folder, key=public).signature == "good"
    # Also after a move, and with the sums written again by who changed a file.
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert check(moved, key=public).signature == "good"
    (moved / "Dockerfile").write_text("FROM evil\n")
    from kanna.digest import sha256

    lines = (moved / "SHA256SUMS").read_text().splitlines()
    told = [f"{sha256(moved / 'Dockerfile')}  Dockerfile" if x.endswith("  Dockerfile") else x for x in lines]
    (moved / "SHA256SUMS").write_text("\n".join(told) + "\n")
    assert check(moved).signature == "not checked", "sums alone can be written by anybody"
    with pytest.raises(GateError, match="Dockerfile"):
        check(moved, key=public)


def test_a_signature_of_somebody_else(small: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    other = tmp_path / "other.pem"
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    package(small, tmp_path / "signed", sign_key=keys[0], context=256)
    with pytest.raises(GateError, match="does not hold"):
        check(tmp_path / "signed", key=other)
    package(small, tmp_path / "bare", context=256)
    with pytest.raises(GateError, match="not signed"):
        check(tmp_path / "bare", key=keys[1])
    for broken in (b"", b"{}", b"\xff"):
        (tmp_path / "signed" / "model.sig").write_bytes(broken)
        with pytest.raises(GateError):
            check(tmp_path / "signed", key=keys[1])


def test_what_model_signing_itself_says(small: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """The signature is one that its own command line takes."""
    package(small, tmp_path / "p", sign_key=keys[0], context=256)
    done = shell(
        sys.executable, "-m", "model_signing", "verify", "key", tmp_path / "p", "--signature", tmp_path / "p/model.sig",
        "--public_key", keys[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# What is refused


def test_nothing_is_overwritten_and_nothing_half_done_stays(
    small: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists"):
        package(small, tmp_path / "there")
    with pytest.raises(OutputError, match="mkdir"):
        package(small, tmp_path / "no" / "where")
    with pytest.raises(UsageError, match="cannot sign"):
        package(small, tmp_path / "out", sign_key=keys[1])
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "stale").write_text("")
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("shutil.copyfile", full)
        with pytest.raises(OutputError, match="full"):
            package(small, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "stale").write_text("")
    package(small, tmp_path / "out", context=256)
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
def test_options_that_do_not_fit(words: list[str], code: int, said: str, small: Path, tmp_path: Path) -> None:
    done = run("package", small, *[str(tmp_path / "out") if w == "OUT" else w for w in words])
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert not (tmp_path / "out").exists()


def test_what_is_no_artefact(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("package", tmp_path / "empty", "-o", tmp_path / "out").exit_code == 1
    assert run("package", tmp_path / "nothing.gguf", "-o", tmp_path / "out").exit_code == 1
    folder = mlx_folder(tmp_path / "m")
    (folder / "extra.pkl").write_bytes(b"")
    with pytest.raises(RefusedError, match=r"extra\.pkl"):
        package(folder, tmp_path / "out")
    (folder / "extra.pkl").unlink()
    (folder / "broken").symlink_to("nowhere")
    assert run("package", folder, "-o", tmp_path / "out").exit_code == 1


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("Tiny Model-Q4_K_M", "tiny-model-q4-k-m"), ("1.5B", "m-1-5b"), ("a" * 60, "a" * 40), ("--x--", "x")],
)
def test_slugs_are_dns_labels(name: str, wanted: str) -> None:
    assert slug(name) == wanted


def test_json(small: Path, tmp_path: Path) -> None:
    done = run("package", small, "-o", tmp_path / "out", "--to", "docker,ollama", "--context", 256, "--json")
    told = json.loads(done.stdout)
    assert told["targets"] == ["docker", "ollama"] and "Modelfile" in told["files"]
    assert sorted(told["files"]) == sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()
    )


# How it is watched


def test_rules_before_promtool(made: Path, tmp_path: Path) -> None:
    program = needs.program("promtool", install="prometheus")
    folder = tmp_path / "watch"
    shutil.copytree(made / "watch", folder)
    (folder / "metrics.key").write_text("secret")
    for words in ("check rules alerts.yaml", "test rules alerts.test.yaml", "check config prometheus.yaml"):
        done = shell(program, *words.split(), cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", (folder / "alerts.test.yaml").read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", (folder / "alerts.yaml").read_text())), "each rule has a test"
    # A rule that is broken is told.
    text = (folder / "alerts.yaml").read_text()
    (folder / "alerts.yaml").write_text(text.replace("> 0.05", "> 0.5"))
    assert shell(program, "test", "rules", "alerts.test.yaml", cwd=folder).returncode != 0


def test_every_metric_is_one_the_gateway_has(made: Path) -> None:
    """Names in rules, in their tests and on the dashboard, with the labels they are asked for."""
    from kanna.serve.metrics import Metrics

    known: dict[str, set[str]] = {}
    for family in Metrics().registry.collect():
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        known |= {family.name + kind: set() for kind in kinds}
    used: set[str] = set()
    for name in ("alerts.yaml", "alerts.test.yaml", "dashboard.json"):
        text = (made / "watch" / name).read_text()
        used |= set(re.findall(r"\bkanna_[a-z_]+", text))
    assert len(used) >= 10 and used <= set(known), used - set(known)
    labels = set(re.findall(r"by \(([a-z, ]+)\)", (made / "watch" / "dashboard.json").read_text()))
    assert {x for group in labels for x in group.split(", ")} <= {"le", "model", "key"}


def test_a_packaged_gateway_is_scraped_by_prometheus(smollm2: Path, tmp_path: Path) -> None:
    """The model, the command and the configuration as packaged, but for ports and folders."""
    pytest.importorskip("xllamacpp")
    program = needs.program("prometheus", install="prometheus")
    folder, state = tmp_path / "tiny", tmp_path / "state"
    package(smollm2, folder, to=["docker"], context=256, parallel=2, cpus=1)
    words = command_of(folder)
    moved = {"/srv/kanna": str(folder), "/var/lib/kanna": str(state)}
    words = [next((w.replace(k, v) for k, v in moved.items() if w.startswith(k)), w) for w in words]
    words[words.index("--port") + 1] = "0"
    # The container listens to all, and so asks for keys.
    words[words.index("--host") + 1 :] = ["127.0.0.1", "--keys", *words[words.index("--host") + 2 :]]
    kanna = [sys.executable, "-m", "kanna"]
    scopes = ["--scope", "metrics", "--scope", "infer"]
    key = shell(*kanna, "keys", "create", "--name", "p", *scopes, "--state", state, "--json")
    watch = folder / "watch"
    (watch / "metrics.key").write_text(json.loads(key.stdout)["key"])
    gateway = subprocess.Popen([*kanna, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    prometheus: subprocess.Popen[str] | None = None
    try:
        assert gateway.stderr
        port = next(found[1] for line in gateway.stderr if (found := re.search(r"at http://\S+:(\d+)/v1", line)))
        threading.Thread(target=gateway.stderr.read, daemon=True).start()
        base = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{base}/health").status_code == 200 and httpx.get(f"{base}/metrics").status_code == 401
        headers = {"Authorization": f"Bearer {json.loads(key.stdout)['key']}"}
        asked = {"model": slug(smollm2.stem), "prompt": "Once", "max_tokens": 4}
        answer = httpx.post(f"{base}/v1/completions", json=asked, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        text = (watch / "prometheus.yaml").read_text()
        (watch / "prometheus.yaml").write_text(text.replace(":8000", f":{port}").replace("15s", "1s"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        prometheus = subprocess.Popen(
            [program, "--config.file=prometheus.yaml", f"--web.listen-address={listen}", "--log.level=error",
             f"--storage.tsdb.path={tmp_path / 'tsdb'}"], cwd=watch, text=True,
        )  # fmt: skip

        def query(what: str) -> Any:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    found = httpx.get(f"http://{listen}/api/v1/query", params={"query": what}).json()["data"]["result"]
                    if found:
                        return found
                except (httpx.HTTPError, ValueError, KeyError):
                    pass
                time.sleep(0.1)
            pytest.fail(f"Prometheus never had {what}")

        (up,) = query('up{job="kanna"} == 1')
        assert up["metric"]["service"].startswith("kanna-smollm2")
        (tokens,) = query('kanna_tokens_total{kind="completion"}')
        assert float(tokens["value"][1]) == 4
        rules = httpx.get(f"http://{listen}/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert len(rules) == 9 and all(r["health"] in ("ok", "unknown") for r in rules)
    finally:
        for one in (prometheus, gateway):
            if one:
                one.terminate()
                one.wait(20)


def test_dashboard_is_one_that_grafana_imports(made: Path) -> None:
    told = json.loads((made / "watch" / "dashboard.json").read_text())
    panels = told["panels"]
    assert len({p["id"] for p in panels}) == len(panels) >= 12
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and panel["targets"]
    cells = [(x, y) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
             for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]  # fmt: skip
    assert len(cells) == len(set(cells)), "no panel lies on another"
