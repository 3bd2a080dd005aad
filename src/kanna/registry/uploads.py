"""Several files on their way into a registry at once, begun before anybody waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType

from kanna._util.progress import Progress, Silent
from kanna.registry import upload
from kanna.registry.client import RegistryRepository
from kanna.registry.manifests import Descriptor

AT_ONCE = 3
"""A registry hashes each blob on one core, and has more of them."""
_Job = tuple[Future[bool], Path, Descriptor]


class BlobUploads:
    """Files that are sent while other work goes on; an error of it ends them.

    Args:
        repository: Where they go.
    """

    def __init__(self, repository: RegistryRepository) -> None:
        self.repository = repository
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: dict[str, Future[bool]] = {}
        self._counted: set[str] = set()
        self._threads = 0
        self._counter = _Counter()

    def __enter__(self) -> BlobUploads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._counter.stopped = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def begin(self, path: Path, descriptor: Descriptor) -> None:
        """Have a file sent, unless one of its digest is on its way.

        Args:
            path: The file.
            descriptor: Its digest and size.
        """
        if descriptor.digest in self._results:
            return
        future = self._results[descriptor.digest] = Future[bool]()
        self._jobs.put((future, path, descriptor))
        if self._threads < AT_ONCE:
            self._threads += 1
            # A daemon, so that Ctrl-C does not wait for a registry that is silent.
            Thread(target=self._send_all, daemon=True).start()

    def show(self, progress: Progress) -> None:
        """Report from now on, and what was sent before.

        Args:
            progress: Told of bytes, in a stage that was started.
        """
        self._counter.show(progress)

    def wait(self, descriptor: Descriptor) -> bool:
        """Wait for a file that was begun; whether it was sent.

        Raises:
            KannaError: What `upload.push_file` raises.
        """
        future = self._results[descriptor.digest]
        while not future.done():  # a wait without a limit would not see Ctrl-C on Windows
            wait([future], 0.2)
        return future.result()

    def sent_bytes(self, descriptors: Iterable[Descriptor]) -> int:
        """Bytes of files that were sent, each counted once, as soon as all are there.

        Args:
            descriptors: Files that were begun.
        """
        sent = {one.digest: one.size for one in descriptors if self.wait(one)}
        new = sent.keys() - self._counted
        self._counted |= new
        return sum(sent[digest] for digest in new)

    def _send_all(self) -> None:
        """Send one file after another, until there will be none."""
        while (job := self._jobs.get()) is not None:
            future, path, descriptor = job
            try:
                future.set_result(
                    upload.push_file(self.repository, path, descriptor, self._counter)
                )
            except BaseException as error:
                future.set_exception(error)


class _UploadsEndedError(Exception):
    """Nobody waits any more."""


class _Counter(Silent):
    """Bytes that were sent, told to a progress as soon as there is one."""

    def __init__(self) -> None:
        self.stopped = False
        self._progress: Progress | None = None
        self._untold, self._lock = 0, Lock()

    def show(self, progress: Progress) -> None:
        with self._lock:
            self._progress = progress
            progress.advance(self._untold)

    def advance(self, amount: int, detail: str = "") -> None:
        """Count bytes; raises where the push has ended, which ends the file that is sent."""
        if self.stopped:
            raise _UploadsEndedError
        with self._lock:
            if self._progress is None:
                self._untold += amount
            else:
                self._progress.advance(amount, detail)
