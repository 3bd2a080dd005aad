"""A container image: built in two stages, run by an unprivileged user on a read-only root."""

from __future__ import annotations

import json

from kanna.escaping import shell_word, visible
from kanna.packaging import locked
from kanna.packaging.service import HEALTH, PORT, ROOT, STATE, UID, Service, probe
from kanna.packaging.targets.base import Target

PYTHON = "3.12"
# Patterns of .dockerignore: the build sees these files and no others.
_IGNORED = ("*", "!models", "!wheels", f"!{locked.FILE}", "!SHA256SUMS", "!bom.cdx.json")


def files(service: Service) -> dict[str, str]:
    """Returns the Dockerfile, what it ignores and the packages it installs."""
    return {
        "Dockerfile": _dockerfile(service),
        ".dockerignore": "\n".join(_IGNORED) + "\n",
        locked.FILE: locked.requirements(service.extras),
    }


def _dockerfile(service: Service) -> str:
    labels = {
        "org.opencontainers.image.title": service.artefact.slug,
        "org.opencontainers.image.licenses": service.artefact.licence or "",
        "org.opencontainers.image.description": f"{service.artefact.name} served by kanna",
        "kanna.artefact.sha256": service.artefact.digest,
    }
    wheel = service.shipped
    label_lines = " \\\n      ".join(f"{k}={_quoted(v)}" for k, v in labels.items() if v)
    health = json.dumps(probe(HEALTH, python="/opt/kanna/bin/python"))
    python = f"python:{wheel.python or PYTHON}"
    pip = "/opt/kanna/bin/pip install --no-cache-dir --only-binary :all:"
    return f"""\
FROM {python}-bookworm AS build
COPY {wheel.place} {locked.FILE} /wheels/
# What kanna needs is installed by hash. kanna itself comes from the wheel of this package, and no
# index is asked for it.
RUN echo "{wheel.digest}  /wheels/{wheel.path.name}" | sha256sum --check --strict \\
 && python -m venv /opt/kanna \\
 && {pip} --require-hashes -r /wheels/{locked.FILE} \\
 && {pip} --no-index "/wheels/{wheel.path.name}[{service.extras}]"

FROM {python}-slim-bookworm
LABEL {label_lines}
RUN apt-get update \\
 && apt-get install -y --no-install-recommends libgomp1 \\
 && rm -rf /var/lib/apt/lists/* \\
 && groupadd --system --gid {UID} kanna \\
 && useradd --system --uid {UID} --gid {UID} --home-dir {STATE} --shell /usr/sbin/nologin kanna \\
 && install -d -o {UID} -g {UID} -m 0700 {STATE}
COPY --from=build /opt/kanna /opt/kanna
WORKDIR {ROOT}
COPY models/ models/
COPY SHA256SUMS bom.cdx.json ./
# A model that changed on its way here is not served.
RUN grep '  models/' SHA256SUMS | sha256sum --check --strict --quiet
ENV PATH=/opt/kanna/bin:$PATH \\
    HOME={STATE} \\
    KANNA_STATE={STATE} \\
    PYTHONDONTWRITEBYTECODE=1 \\
    PYTHONUNBUFFERED=1
USER {UID}:{UID}
VOLUME {STATE}
EXPOSE {PORT}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 CMD {health}
ENTRYPOINT ["kanna"]
CMD {json.dumps(service.arguments())}
"""


def _quoted(text: str) -> str:
    """Returns a string of a Dockerfile in which no variable is expanded."""
    text = visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{text}"'


def usage(service: Service) -> list[str]:
    """Returns the shell lines that start the service."""
    image = shell_word(service.image)
    run = (
        f"docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges "
        f"--memory {service.resources.memory_mib}m --cpus {service.resources.cpus} "
        f"--volume {service.name}:{STATE}"
    )
    return [
        f"docker build --tag {image} .",
        f"{run} {image} keys create --name first",
        f"{run} --publish 127.0.0.1:{PORT}:{PORT} {image}",
    ]


TARGET = Target(
    title="a container image",
    summary="A container image: built in two stages, run by an unprivileged user on a read-only "
    "root",
    files=files,
    usage=usage,
)
