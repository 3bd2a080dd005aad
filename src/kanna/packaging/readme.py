"""README.md of a package."""

from __future__ import annotations

from kanna import __version__
from kanna._util.units import format_size
from kanna.escaping import markdown_block, markdown_code, markdown_row, markdown_text
from kanna.packaging import targets
from kanna.packaging.service import METRICS, PORT, Service

_CHECK = (
    "## Check it",
    "",
    "```console",
    "sha256sum --check --strict SHA256SUMS",
    "kanna package --check .",
    "kanna package --check . --key key.pub.pem",
    "```",
    "",
    "The last line needs the public key of who signed the package. "
    "`bom.cdx.json` (CycloneDX) says what the model",
    "is, which files it was made of and how.",
    "",
)
_WATCH = (
    "## Watch it",
    "",
    f"`watch/prometheus.yaml` scrapes `{METRICS}`, "
    "`watch/alerts.yaml` has the alert rules (their tests beside",
    "them), `watch/dashboard.json` is imported into Grafana.",
    "",
)


_GATEWAY = (
    f"Run these here. The gateway listens on http://127.0.0.1:{PORT}; every request needs a key, "
    "which is shown once, when it is made."
)


def readme(service: Service, usage: dict[str, list[str]], *, serves: bool = True) -> str:
    """Returns README.md: what is packaged, what it needs, how it is started, checked and watched.

    Args:
        service: What is packaged.
        usage: Shell lines by target.
        serves: Whether a gateway answers there.
    """
    artefact, resources = service.artefact, service.resources
    lines = [
        f"# {markdown_text(artefact.name)}",
        "",
        f"{markdown_code(artefact.place)}: {artefact.kind}, {format_size(artefact.num_bytes)}, "
        f"{resources.memory_mib} MiB of memory. Packaged by kanna {__version__}.",
        "",
        "## Run it",
        "",
        _GATEWAY if serves else "Run these here.",
        "",
    ]
    for name, shell in usage.items():
        lines += [
            f"### {targets.get(name).title[0].upper()}{targets.get(name).title[1:]}",
            "",
            markdown_block("\n".join(shell), "console"),
            "",
        ]
    lines += [
        "## What it is",
        "",
        "| | |",
        "|---|---|",
        f"| SHA-256 | `{artefact.digest}` |",
        markdown_row(("licence", markdown_text(artefact.licence or "not named by the model"))),
        f"| memory | {resources.memory_mib} MiB: {format_size(resources.weight_bytes)} of weights, "
        f"{format_size(resources.kv_bytes)} of cache "
        f"({resources.parallel} × {resources.context} tokens), "
        f"{format_size(resources.buffer_bytes)} of buffers, "
        + (f"{format_size(resources.process_bytes)} of processes, " if serves else "")
        + "and a tenth more |",
        *([markdown_row(("pictures", markdown_code(artefact.mmproj)))] if artefact.mmproj else []),
        *([f"| cores | {resources.cpus} |"] if serves else []),
        "",
    ]
    return "\n".join([*lines, *_CHECK, *(_WATCH if serves else ())])
