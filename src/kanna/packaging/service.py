"""The service every target describes.

One command line, its ports and folders, the same in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kanna import __version__
from kanna.packaging.artefact import Artefact
from kanna.packaging.resources import Resources

PORT = 8000
# An unprivileged user that no base image has.
UID = 10001
ROOT = "/srv/kanna"
STATE = "/var/lib/kanna"
HEALTH, READY, METRICS = "/health", "/ready", "/metrics"
# Which extras of kanna an artefact needs to be served.
EXTRAS = {"gguf": "serve", "onnx": "serve,onnx", "mlx": "serve,mlx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An artefact as a service.

    Attributes:
        image: Reference of the container image, with a tag that changes with the artefact.
        wheel: Whether a wheel of kanna lies in `wheels/` and is installed before the index is
            asked.
    """

    artefact: Artefact
    resources: Resources
    image: str
    wheel: str | None = None

    @property
    def name(self) -> str:
        return f"kanna-{self.artefact.slug}"

    @property
    def requirement(self) -> str:
        return f"kanna[{EXTRAS[self.artefact.kind]}]=={__version__}"

    def arguments(
        self, *, root: str = ROOT, state: str = STATE, host: str = "0.0.0.0"
    ) -> list[str]:
        """Words after `kanna`: the model under `root`, keys and usage under `state`."""
        told = self.resources
        return [
            "serve",
            f"{root}/{self.artefact.place}",
            "--alias",
            self.artefact.slug,
            "--host",
            host,
            "--port",
            str(PORT),
            "--context",
            str(told.context),
            "--parallel",
            str(told.parallel),
            "--threads",
            str(told.cpus),
            "--state",
            state,
        ]


def image_of(artefact: Artefact, given: str | None) -> str:
    """The image as given, else one of this artefact's name.

    The tag is the artefact's hash unless given.
    """
    reference = given or f"kanna-{artefact.slug}"
    tagged = ":" in reference.rsplit("/", 1)[-1] or "@" in reference
    return reference if tagged else f"{reference}:{artefact.digest[:12]}"


def probe(path: str, *, python: str, tries: int = 1) -> list[str]:
    """A command that fails unless the gateway answers; needs nothing but Python."""
    code = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}{path}', timeout=3)"
    if tries > 1:
        code = (
            "import sys, time, urllib.request as r\n"
            f"for _ in range({tries}):\n"
            "    try:\n"
            f"        sys.exit(r.urlopen('http://127.0.0.1:{PORT}{path}', timeout=3).status != 200)\n"
            "    except OSError:\n"
            "        time.sleep(2)\n"
            "sys.exit(1)"
        )
    return [python, "-c", code]
