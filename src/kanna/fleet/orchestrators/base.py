"""The record of an orchestrator, and what a rollout is to each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kanna.fleet.rings import Ring

RUNTIME_IMAGE = "ghcr.io/ggml-org/llama.cpp:full"
"""llama.cpp's server, and Python for the self-test."""
SERVER_IN_IMAGE = "/app/llama-server"
PORT = 8080
RING_LABEL = "kanna.fleet/ring"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRollout:
    """What is rolled out, as every orchestrator gets it.

    Attributes:
        slug: A name of lower case letters, digits and hyphens.
        title: For people.
        digest: Of what was published.
        sequence: Its place in all that was.
        model: Name of the model's file.
        hashes: SHA-256 of the model and of the self-test, by the names of the files.
        rings: Which devices come when.
        image: OCI reference of the model; "" where none was given.
        source: Address of a folder or a repository; "" where none was given.
        group: Which devices, in the orchestrator's words; "" for its default.
        expected: The self-test: what the model must answer.
        runner: The program that asks it.
    """

    slug: str
    title: str
    digest: str
    sequence: int
    model: str
    hashes: dict[str, str]
    rings: tuple[Ring, ...]
    image: str
    source: str
    group: str
    expected: str
    runner: str

    @property
    def version(self) -> str:
        """A semantic version that grows with the sequence."""
        return f"1.0.{self.sequence}"

    def shares(self) -> list[int]:
        """Whole percents of the devices that each ring adds, at least one each."""
        made, before = list[int](), 0
        for ring in self.rings:
            until = max(before + 1, round(ring.percent))
            made.append(until - before)
            before = until
        return made

    def check(self, model: str, test: str, work: str) -> str:
        """A line for a shell that exits with another code than 0 where the model is not as it was.

        Args:
            model: Folder of the model, which is only read.
            test: Folder of the self-test, which is only read.
            work: A folder to write to.
        """
        return (
            f"set -e; cp {test}/selftest.py {test}/selftest.json {work}/; "
            f"ln -sf {model}/{self.model} {work}/{self.model}; "
            f"exec python3 {work}/selftest.py --server {SERVER_IN_IMAGE}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Orchestrator:
    """One of them.

    Attributes:
        title: Its name for people.
        needs: What it must be told: `image`, `source`, `group`.
        files: Returns the text of each file by its path.
        usage: Returns the shell lines that begin the rollout, in the folder of the files.
        remarks: What it does not do as `kanna fleet` does.
    """

    title: str
    needs: tuple[str, ...]
    files: Callable[[ForeignRollout], dict[str, str]]
    usage: Callable[[ForeignRollout], list[str]]
    remarks: tuple[str, ...] = ()
