"""`kanna push hf:OWNER/NAME`, against a stub hub on loopback that takes uploads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import stub_hub
from helpers.stub_hub import Hub

import kanna
from kanna import gate_report
from kanna._util import outgoing
from kanna.cli.main import cli
from kanna.errors import GateError, RefusedError, SourceError, UsageError

REPO = "owner/tiny-GGUF"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stub, asked by this process with a token of its environment."""
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "kanna"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    with stub_hub.serving() as serving:
        stub_hub.use(serving, tmp_path / "hf", monkeypatch)
        yield serving


@pytest.fixture
def proved(tiny_gguf: Path, tmp_path: Path) -> Path:
    """A file with the report of a gate that it passed."""
    path = tmp_path / "tiny-Q8_0.gguf"
    shutil.copyfile(tiny_gguf, path)
    values = {"format": gate_report.FORMAT, "status": "proved", "files": {path.name: digest(path)}}
    values["checks"] = [{"name": "logits", "ok": True, "detail": "KL 0.0012"}]
    gate_report.beside(path).write_text(json.dumps(values))
    return path


def digest(path: Path) -> str:
    from kanna._util.digest import sha256

    return sha256(path)


def test_a_proved_file_goes_with_its_report_and_card(hub: Hub, proved: Path) -> None:
    pushed = kanna.push(f"hf:{REPO}", proved, private=True)
    there = hub.files[REPO, "main"]
    assert set(there) == {proved.name, f"{proved.name}.gate.json", "README.md"}
    assert there[proved.name] == proved.read_bytes()
    assert json.loads(there[f"{proved.name}.gate.json"])["status"] == "proved"
    card = there["README.md"].decode()
    assert card.startswith("---\n") and "KL 0.0012" in card and "intact" in card
    assert hub.private == [REPO] and pushed.digest == hub.commit(REPO, "main")
    assert hub.tokens == {"Bearer hf_of_a_test"}
    pulled = kanna.pull(f"hf:{REPO}:{proved.name}")
    assert Path(pulled.path).read_bytes() == proved.read_bytes()


def test_the_card_of_a_report_goes_along(hub: Hub, proved: Path) -> None:
    proved.with_suffix(".md").write_text("---\nlicense: mit\n---\n# Measured: KL 0.01\n")
    kanna.push(f"hf:{REPO}@next", proved)
    assert "Measured: KL 0.01" in hub.files[REPO, "next"]["README.md"].decode()
    assert hub.files[REPO, "main"] == {}


def test_what_is_there_is_not_sent_again(hub: Hub, proved: Path) -> None:
    hub.refuses.append("/commit/")
    with pytest.raises(SourceError, match="refuses to take"):
        kanna.push(f"hf:{REPO}", proved)
    assert len(hub.objects) == 1 and hub.files[REPO, "main"] == {}
    hub.refuses.clear()
    hub.asked.clear()
    kanna.push(f"hf:{REPO}", proved)
    assert not [what for method, what, _ in hub.asked if method == "PUT"], "it was kept"
    assert proved.name in hub.files[REPO, "main"]


def test_only_what_was_proved_goes(hub: Hub, proved: Path) -> None:
    gate_report.beside(proved).unlink()
    with pytest.raises(GateError, match="no gate report"):
        kanna.push(f"hf:{REPO}", proved)
    assert not hub.asked
    assert kanna.push(f"hf:{REPO}", proved, unproved=True).notes
    assert "not checked" in hub.files[REPO, "main"]["README.md"].decode()


def test_a_dry_run_asks_nobody(hub: Hub, proved: Path) -> None:
    run = CliRunner().invoke(cli, ["push", f"hf:{REPO}", str(proved), "--dry-run"])
    assert run.exit_code == 0 and "README.md" in run.output and proved.name in run.output
    assert not hub.asked
    planned = kanna.push("oci://127.0.0.1:9/a:v1", proved, dry_run=True)
    assert planned.files == {proved.name: proved.stat().st_size}
    assert "would be pushed" in planned.headline()


def test_what_does_not_serve_is_refused(
    hub: Hub, proved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ({"sign_key": proved}, {"revision": "b"}):
        with pytest.raises(UsageError):
            kanna.push(f"hf:{REPO}@a", proved, **options)
    with pytest.raises(UsageError, match="no repository of the hub"):
        kanna.push("hf:name", proved)
    with pytest.raises(UsageError, match="of the hub"):
        kanna.push("oci://127.0.0.1:9/a:v1", proved, private=True)
    monkeypatch.setenv(outgoing.VARIABLE, "1")
    with pytest.raises(RefusedError, match="forbids"):
        kanna.push(f"hf:{REPO}", proved)
    assert not hub.asked
