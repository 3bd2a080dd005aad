"""Push and pull of a large file through a registry on loopback, beside skopeo.

    python -m benchmarks.registry.transfer --megabytes 1000 --pairs 5

The registry is Debian's docker-registry, anew for every push. kanna and skopeo take turns, command
beside command, each first in every other pair, so that what else the machine does falls on both.
skopeo pushes a folder that names the digests of its files; kanna knows them, too, as it does after
`kanna verify --gate`, unless `--unknown` is given. Printed are the median of the ratios of each
pair, and seconds, processor seconds and peak memory of each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}", secret: of-a-benchmark}}
"""
KANNA = [sys.executable, "-m", "kanna"]
PUSH = [*KANNA, "push", "--quiet", "--unproved"]
HASH = (
    "import sys, pathlib; from kanna._util import verified; "
    "verified.digest(pathlib.Path(sys.argv[1]))"
)
PULL = [*KANNA, "pull", "--quiet"]
PORT = 5995


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one transfer took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


@contextmanager
def registry(folder: Path) -> Generator[str]:
    """A registry with its files in a folder, which is removed with it; yields HOST:PORT."""
    folder.mkdir()
    config = folder / "registry.yml"
    config.write_text(CONFIG.format(root=folder / "files", port=PORT))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        env=os.environ | {"OTEL_TRACES_EXPORTER": "none"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v2/", timeout=2).close()
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{PORT}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def measured(words: list[str], cache: Path) -> Cost:
    """Run a program to its end."""
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        process = subprocess.Popen(
            words, env=os.environ | {"KANNA_CACHE": str(cache)}, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begin
        if process.returncode:
            said.seek(0)
            sys.exit(f"{words}: {said.read().decode()}")
    return Cost(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
    )


def pairs(count: int, sides: dict[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """Costs of both, in turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(count):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            costs[name].append(sides[name]())
    return costs


def shown(what: str, costs: dict[str, list[Cost]]) -> dict[str, object]:
    """A row as it is printed."""
    ours, theirs = costs["kanna"], costs["skopeo"]
    row: dict[str, object] = {
        "what": what,
        "ratio": round(
            statistics.median(a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)), 3
        ),
        "cpu_ratio": round(
            statistics.median(
                a.cpu_seconds / b.cpu_seconds for a, b in zip(ours, theirs, strict=True)
            ),
            3,
        ),
    }
    for name, values in costs.items():
        row[name] = {
            "seconds": [round(v.seconds, 2) for v in values],
            "cpu_seconds": [round(v.cpu_seconds, 2) for v in values],
            "peak_mb": round(max(v.peak_bytes for v in values) / 1e6),
        }
    return row


def pulls(folder: Path, model: Path, count: int) -> dict[str, list[Cost]]:
    """Costs of pulling a model; leaves it in the layout that skopeo pushes from."""
    with registry(folder / "registry") as host:
        measured([*PUSH, f"oci://{host}/team/model:v1", str(model)], folder)

        def ours() -> Cost:
            cache = folder / "cache"
            try:
                return measured([*PULL, f"oci://{host}/team/model:v1"], cache)
            finally:
                shutil.rmtree(cache)

        def theirs() -> Cost:
            shutil.rmtree(folder / "dir", ignore_errors=True)
            words = ["skopeo", "copy", "--src-tls-verify=false"]
            return measured(
                [*words, f"docker://{host}/team/model:v1", f"dir:{folder / 'dir'}"], folder
            )

        return pairs(count, {"kanna": ours, "skopeo": theirs})


def pushes(folder: Path, model: Path, count: int, unknown: bool) -> dict[str, list[Cost]]:
    """Costs of pushing it to a registry that has nothing yet."""

    def ours() -> Cost:
        with registry(folder / "registry") as host:
            cache = folder / "cache"
            for file in [] if unknown else model.iterdir():
                measured([sys.executable, "-c", HASH, str(file)], cache)
            try:
                return measured([*PUSH, f"oci://{host}/team/model:v1", str(model)], cache)
            finally:
                shutil.rmtree(cache, ignore_errors=True)

    def theirs() -> Cost:
        with registry(folder / "registry") as host:
            # It notes which registry has a blob, and would ask this one to take it from there.
            with suppress(FileNotFoundError):
                Path("/var/lib/containers/cache/blob-info-cache-v1.boltdb").unlink()
            words = ["skopeo", "copy", "--dest-tls-verify=false", f"dir:{folder / 'dir'}"]
            return measured([*words, f"docker://{host}/team/model:v1"], folder)

    return pairs(count, {"kanna": ours, "skopeo": theirs})


def main() -> None:
    """Measure both, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--unknown", action="store_true", help="digests are to be computed, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = folder / "model"
        model.mkdir()
        (model / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
        with (model / "model.safetensors").open("wb") as file:
            for _ in range(options.megabytes):
                file.write(os.urandom(10**6))
        print(json.dumps(shown("pull", pulls(folder, model, options.pairs))), flush=True)
        costs = pushes(folder, model, options.pairs, options.unknown)
        print(json.dumps(shown("push", costs)), flush=True)


if __name__ == "__main__":
    main()
