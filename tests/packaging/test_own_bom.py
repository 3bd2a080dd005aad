"""kanna's own bill of materials names what the locks do, the same for the same locks and wheels."""

from __future__ import annotations

import json
import runpy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_locked_package_and_wheel_is_in_it(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx")
    tool: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "sbom.py"))
    wheel = tmp_path / "kanna_edge-0.1.0-cp310-abi3-linux_x86_64.whl"
    wheel.write_bytes(b"a wheel")
    text = tool["bill"]("0.1.0", [wheel])  # which is held to the schema
    assert text == tool["bill"]("0.1.0", [wheel])
    content = json.loads(text)
    assert content["metadata"]["component"]["name"] == "kanna-edge"
    [held] = content["metadata"]["component"]["components"]
    assert held["hashes"][0]["content"] == sha256(b"a wheel").hexdigest()
    named = {(c["name"], c["version"]) for c in content["components"]}
    for lock in tool["LOCKS"].glob("*.txt"):
        lines = [x for x in lock.read_text().splitlines() if "==" in x and x[:1].isalnum()]
        wanted = {tuple(x.split(" ")[0].split("==")) for x in lines}
        assert len(wanted) > 50 and wanted <= named
    hashes = [p for c in content["components"] for p in c["properties"]]
    assert sum(p["name"] == "kanna:sha256" for p in hashes) > 1000
