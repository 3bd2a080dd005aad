"""Audits: every link holds, is missing, or is broken, and the verdict follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import tiny_models

import kanna
from kanna import signing
from kanna.auditing import AuditResult
from kanna.cli.main import cli
from kanna.errors import UsageError

pytest.importorskip("model_signing")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, a file of it, and the report of its gate."""
    folder = tmp_path_factory.mktemp("audit")
    tiny_models.make("llama", folder / "source")
    (folder / "source" / "README.md").write_text("---\nlicense: mit\n---\n")
    kanna.convert(folder / "source", folder / "a.gguf", preset="Q8_0")
    kanna.verify(folder / "source", folder / "a.gguf", gate=folder / "a.gguf.gate.json")
    return folder


def verdicts(result: AuditResult) -> dict[str, bool | None]:
    return {check.name: check.ok for check in result.checks}


def test_what_is_there_holds_and_what_is_not_is_named(home: Path) -> None:
    result = kanna.audit(home / "a.gguf", source=home / "source", allow=["MIT", "apache-2.0"])
    assert verdicts(result) == {
        "provenance": True,
        "source": True,
        "plan": True,
        "gate": True,
        "signature": None,
        "licence": True,
    }
    assert result.status == "incomplete" and not result.ok
    assert "not signed" in result.headline()


@pytest.fixture(scope="module")
def signed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder with the file and its report, the key of who signed it, and that of a stranger."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("signed")
    (folder / "package").mkdir()
    public: list[Path] = []
    for name in ("own", "stranger"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
        (folder / f"{name}.pem").write_bytes(private)
        public.append(folder / f"{name}.pub.pem")
        kind = form.PublicFormat.SubjectPublicKeyInfo
        public[-1].write_bytes(key.public_key().public_bytes(form.Encoding.PEM, kind))
    for name in ("a.gguf", "a.gguf.gate.json"):
        shutil.copy(home / name, folder / "package" / name)
    signing.sign(folder / "package", folder / "own.pem")
    return folder / "package" / "a.gguf", public[0], public[1]


def test_a_whole_chain_is_complete(home: Path, signed: tuple[Path, Path, Path]) -> None:
    artefact, key, stranger = signed
    command = ["audit", str(artefact), "--source", str(home / "source"), "--key", str(key)]
    ran = CliRunner().invoke(cli, [*command, "--json"])
    assert ran.exit_code == 0 and json.loads(ran.stdout)["status"] == "complete", ran.output
    shown = CliRunner().invoke(cli, command)
    assert "complete" in shown.stdout and "[green]" not in shown.stdout
    command[-1] = str(stranger)
    assert CliRunner().invoke(cli, command).exit_code == 1


def test_what_was_changed_is_broken(home: Path, tmp_path: Path) -> None:
    source = shutil.copytree(home / "source", tmp_path / "source")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    result = kanna.audit(home / "a.gguf", source=source)
    assert result.status == "broken" and verdicts(result)["source"] is False
    assert "model.safetensors" in result.headline()

    report = json.loads((home / "a.gguf.gate.json").read_text())
    for changes in ({"status": "failed"}, {"files": {"a.gguf": "0" * 64}}):
        (tmp_path / "gate.json").write_text(json.dumps(report | changes))
        result = kanna.audit(home / "a.gguf", gate=tmp_path / "gate.json")
        assert result.status == "broken" and verdicts(result)["gate"] is False

    result = kanna.audit(home / "a.gguf", allow="apache-2.0, bsd-3-clause")
    assert result.status == "broken" and "mit" in result.headline()


def test_encodings_that_the_plan_did_not_give(home: Path, tmp_path: Path) -> None:
    whole = (home / "a.gguf").read_bytes()
    at = whole.index(b'{"f32":')
    stored = whole[at : whole.index(b"}", at) + 1]
    other = stored.replace(b"q8_0", b"q6_k")
    assert len(other) == len(stored) and other != stored
    (tmp_path / "b.gguf").write_bytes(whole.replace(stored, other))
    result = kanna.audit(tmp_path / "b.gguf")
    assert verdicts(result)["plan"] is False and "q6_k" in result.headline()


def test_a_file_of_others_is_incomplete(smollm2: Path) -> None:
    result = kanna.audit(smollm2)
    assert result.status == "incomplete" and verdicts(result)["provenance"] is None
    assert "source" not in verdicts(result)


@pytest.mark.parametrize("option", ["gate", "key"])
def test_what_is_named_and_is_not_there(home: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        absent: dict[str, Any] = {option: tmp_path / "none"}
        kanna.audit(home / "a.gguf", **absent)
