"""Alert rules and a dashboard for the gateway's metrics: the same files for every artefact."""

from __future__ import annotations

from pathlib import Path

from kanna.escaping import yaml_text
from kanna.packaging.service import METRICS, PORT, Service

FOLDER = Path(__file__).parent
NAMES = ("alerts.yaml", "alerts.test.yaml", "dashboard.json")


def files(service: Service) -> dict[str, str]:
    """Returns each file's text by its path in the package.

    prometheus.yaml scrapes the gateway at the address that compose and systemd give it.
    """
    texts = {f"watch/{name}": (FOLDER / name).read_text(encoding="utf-8") for name in NAMES}
    job = {
        "job_name": "kanna",
        "metrics_path": METRICS,
        # A key with the scope `metrics` (kanna keys create), alone in this file.
        "authorization": {"credentials_file": "metrics.key"},
        "static_configs": [{"targets": [f"127.0.0.1:{PORT}"], "labels": {"service": service.name}}],
    }
    configuration = {
        "global": {"scrape_interval": "15s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [job],
    }
    return texts | {"watch/prometheus.yaml": yaml_text(configuration, width=120)}
