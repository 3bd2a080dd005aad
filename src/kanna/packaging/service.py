"""The service that every target describes: one command line, its port and its folders."""

from __future__ import annotations

from dataclasses import dataclass

from kanna.packaging.artefact import Artefact
from kanna.packaging.resources import Resources
from kanna.packaging.wheel import Wheel
from kanna.serving import EXTRA, engines

PORT = 8000
# An unprivileged user that no base image has.
UID = 10001
ROOT = "/srv/kanna"
STATE = "/var/lib/kanna"
HEALTH, READY, METRICS = "/health", "/ready", "/metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An artefact as a service.

    Attributes:
        artefact: What is served.
        resources: Its memory and cores.
        image: Reference of the container image, with a tag that changes with the artefact.
        wheel: The wheel of kanna in the package; None where no target installs it.
    """

    artefact: Artefact
    resources: Resources
    image: str
    wheel: Wheel | None = None

    @property
    def name(self) -> str:
        """Name of the service, a DNS label."""
        return f"kanna-{self.artefact.slug}"

    @property
    def extras(self) -> str:
        """Extras of kanna that the artefact needs, by comma."""
        return extras_of(self.artefact)

    @property
    def shipped(self) -> Wheel:
        """The wheel of kanna in the package; a target that installs it has one."""
        assert self.wheel is not None
        return self.wheel

    def arguments(
        self, *, root: str = ROOT, state: str = STATE, host: str = "0.0.0.0"
    ) -> list[str]:
        """Returns the words after `kanna`.

        Args:
            root: Folder that holds the package.
            state: Folder of keys and usage.
            host: Address to listen on.
        """
        resources = self.resources
        return [
            "serve",
            f"{root}/{self.artefact.place}",
            *(["--mmproj", f"{root}/{self.artefact.mmproj}"] if self.artefact.mmproj else []),
            "--alias",
            self.artefact.slug,
            "--host",
            host,
            "--port",
            str(PORT),
            "--context",
            str(resources.context),
            "--parallel",
            str(resources.parallel),
            "--threads",
            str(resources.cpus),
            "--state",
            state,
        ]


def extras_of(artefact: Artefact) -> str:
    """Extras of kanna that an artefact needs to be served, by comma."""
    return ",".join(dict.fromkeys((EXTRA, engines.get(artefact.kind).extra)))


def image_of(artefact: Artefact, reference: str | None) -> str:
    """Returns the reference of the image, with the artefact's hash as its tag where it has none.

    Args:
        artefact: What the image holds.
        reference: A reference, or None for one of the artefact's name.
    """
    reference = reference or f"kanna-{artefact.slug}"
    tagged = ":" in reference.rsplit("/", 1)[-1] or "@" in reference
    return reference if tagged else f"{reference}:{artefact.digest[:12]}"


def probe(path: str, *, python: str, tries: int = 1) -> list[str]:
    """Returns a command that fails unless the gateway answers; it needs nothing but Python.

    Args:
        path: Path of the request.
        python: The interpreter.
        tries: How often to ask, two seconds apart.
    """
    code = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}{path}', timeout=3)"
    if tries > 1:
        code = (
            "import sys, time, urllib.request as r\n"
            f"for _ in range({tries}):\n"
            "    try:\n"
            f"        sys.exit(r.urlopen('http://127.0.0.1:{PORT}{path}', timeout=3)"
            ".status != 200)\n"
            "    except OSError:\n"
            "        time.sleep(2)\n"
            "sys.exit(1)"
        )
    return [python, "-c", code]
