"""What a package says of watching: rules, dashboard, a scrape by Prometheus."""

from __future__ import annotations

import json
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
import pytest
from helpers import needs
from helpers.packing import command_of, shell

from kanna.packaging import package
from kanna.packaging.artefact import slug


def test_rules_before_promtool(packaged: Path, tmp_path: Path) -> None:
    program = needs.program("promtool", install="prometheus")
    folder = tmp_path / "watch"
    shutil.copytree(packaged / "watch", folder)
    (folder / "metrics.key").write_text("secret")
    for words in (
        "check rules alerts.yaml",
        "test rules alerts.test.yaml",
        "check config prometheus.yaml",
    ):
        done = shell(program, *words.split(), cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", (folder / "alerts.test.yaml").read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", (folder / "alerts.yaml").read_text())), (
        "each rule has a test"
    )
    # A rule that is broken is told.
    text = (folder / "alerts.yaml").read_text()
    (folder / "alerts.yaml").write_text(text.replace("> 0.05", "> 0.5"))
    assert shell(program, "test", "rules", "alerts.test.yaml", cwd=folder).returncode != 0


def test_every_metric_is_one_the_gateway_has(packaged: Path) -> None:
    """Names in rules, in their tests and on the dashboard, with the labels they are asked for."""
    from kanna.serving.metrics import Metrics

    known: dict[str, set[str]] = {}
    for family in Metrics().registry.collect():
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
            family.type, ("",)
        )
        known |= {family.name + kind: set() for kind in kinds}
    used: set[str] = set()
    for name in ("alerts.yaml", "alerts.test.yaml", "dashboard.json"):
        text = (packaged / "watch" / name).read_text()
        used |= set(re.findall(r"\bkanna_[a-z_]+", text))
    assert len(used) >= 10 and used <= set(known), used - set(known)
    labels = set(
        re.findall(r"by \(([a-z, ]+)\)", (packaged / "watch" / "dashboard.json").read_text())
    )
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
    words[words.index("--host") + 1 :] = [
        "127.0.0.1",
        "--keys",
        *words[words.index("--host") + 2 :],
    ]
    kanna = [sys.executable, "-m", "kanna"]
    scopes = ["--scope", "metrics", "--scope", "infer"]
    key = shell(*kanna, "keys", "create", "--name", "p", *scopes, "--state", state, "--json")
    watch = folder / "watch"
    (watch / "metrics.key").write_text(json.loads(key.stdout)["key"])
    gateway = subprocess.Popen(
        [*kanna, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    prometheus: subprocess.Popen[str] | None = None
    try:
        assert gateway.stderr
        port = next(
            found[1]
            for line in gateway.stderr
            if (found := re.search(r"at http://\S+:(\d+)/v1", line))
        )
        threading.Thread(target=gateway.stderr.read, daemon=True).start()
        base = f"http://127.0.0.1:{port}"
        assert (
            httpx.get(f"{base}/health").status_code == 200
            and httpx.get(f"{base}/metrics").status_code == 401
        )
        headers = {"Authorization": f"Bearer {json.loads(key.stdout)['key']}"}
        asked = {"model": slug(smollm2.stem), "prompt": "Once", "max_tokens": 4}
        answer = httpx.post(f"{base}/v1/completions", json=asked, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        text = (watch / "prometheus.yaml").read_text()
        (watch / "prometheus.yaml").write_text(
            text.replace(":8000", f":{port}").replace("15s", "1s")
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        prometheus = subprocess.Popen(
            [
                program,
                "--config.file=prometheus.yaml",
                f"--web.listen-address={listen}",
                "--log.level=error",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            ],
            cwd=watch,
            text=True,
        )

        def query(what: str) -> Any:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    found = httpx.get(
                        f"http://{listen}/api/v1/query", params={"query": what}
                    ).json()["data"]["result"]
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


def test_dashboard_is_one_that_grafana_imports(packaged: Path) -> None:
    told = json.loads((packaged / "watch" / "dashboard.json").read_text())
    panels = told["panels"]
    assert len({p["id"] for p in panels}) == len(panels) >= 12
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and panel["targets"]
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "no panel lies on another"
