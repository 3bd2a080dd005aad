"""Files on their way into a registry, begun before anybody waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from kanna.registry import upload
from kanna.registry.client import RegistryRepository
from kanna.registry.manifests import Descriptor
from kanna.registry.transfers import Transfers


class BlobUploads:
    """Files that are sent while other work goes on.

    Args:
        repository: Where they go.
        transfers: What sends them.
    """

    def __init__(self, repository: RegistryRepository, transfers: Transfers[bool]) -> None:
        self.repository, self.transfers = repository, transfers
        self._counted: set[str] = set()

    def begin(self, path: Path, descriptor: Descriptor) -> None:
        """Have a file sent, unless one of its digest is on its way.

        Args:
            path: The file.
            descriptor: Its digest and size.
        """
        send = partial(upload.push_file, self.repository, path, descriptor)
        self.transfers.begin(descriptor.digest, send)

    def sent_bytes(self, descriptors: Iterable[Descriptor]) -> int:
        """Bytes of files that were sent, each counted once, as soon as all are there.

        Args:
            descriptors: Files that were begun.
        """
        sent = {one.digest: one.size for one in descriptors if self.transfers.wait(one.digest)}
        new = sent.keys() - self._counted
        self._counted |= new
        return sum(sent[digest] for digest in new)
