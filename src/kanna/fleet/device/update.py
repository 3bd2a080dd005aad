"""One instruction on a device, from its manifest to the link that names what it brought."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import signing
from kanna._util import own_files
from kanna.errors import GateError, KannaError, OutputError, RefusedError
from kanna.fleet import manifest
from kanna.fleet.connection import AnswerError, FleetConnection
from kanna.fleet.device import fetching, trial
from kanna.fleet.device.trial import Trial, TrialSettings
from kanna.fleet.device.versions import DeviceFolder
from kanna.fleet.manifest import FleetManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """What an agent holds versions to.

    Attributes:
        key: Public key of who must have signed manifests; None: nobody.
        trial: How versions are tested.
        on_swap: A command of the user's, run when another version is current, such as one that
            restarts a service.
    """

    key: Path | None
    trial: TrialSettings
    on_swap: str = ""


class Updater:
    """Follows instructions.

    Args:
        connection: To the server.
        home: The folder of the agent.
        settings: What versions are held to.
    """

    def __init__(
        self, connection: FleetConnection, home: DeviceFolder, settings: UpdateSettings
    ) -> None:
        self._connection, self._home, self._settings = connection, home, settings

    def follow(self, digest: str) -> Trial:
        """Make a digest the current version, or say why it cannot be.

        Whatever fails, the version that was current still is.

        Raises:
            UnreachableError: The server does not answer; what is here already stays for the next
                time.
        """
        try:
            return self._follow(digest)
        except (RefusedError, GateError) as error:
            self._drop(digest)
            return Trial(outcome="refused", detail=error.found, record="")
        except OutputError as error:
            return Trial(outcome="unable", detail=error.found, record="")

    def _follow(self, digest: str) -> Trial:
        home = self._home
        memory, current = home.memory(), home.current()
        if digest == current:
            # Perhaps the process ended before the command of the user did.
            here = Trial(outcome="passed", detail="it is current already", record="")
            return self._settled(digest, memory.good or None, here)
        kept = home.record(digest) if digest == memory.good and home.has(digest) else None
        if kept is not None and home.is_whole(kept):
            # It passed here before, and a device that is sent back is not kept waiting.
            return self._swapped(digest, Trial(outcome="passed", detail="back to it", record=""))
        described = self._manifest(digest)
        self._refuse_older(described, current)
        home.tidy(memory.good, digest)
        if not (home.has(digest) and home.is_whole(described)):
            fetching.fetch(self._connection, home, described)
            home.keep_record(described)
            home.complete(described)
        tested = trial.test(self._settings.trial, home.version(digest))
        if tested.outcome != "passed":
            if tested.outcome == "failed":
                self._drop(digest)
            return tested
        return self._swapped(digest, tested)

    def _manifest(self, digest: str) -> FleetManifest:
        """The manifest of a digest, held to it and to the signature; raises RefusedError."""
        try:
            answer: Any = self._connection.ask("GET", f"/v1/artefacts/{digest}")
        except AnswerError as error:
            if error.status != 404:
                raise
            raise RefusedError(error.found) from error
        data = answer.get("manifest") if isinstance(answer, dict) else None
        if not isinstance(data, str):
            raise RefusedError("the server sent no manifest")
        signature = answer.get("signature")
        try:
            described = manifest.read(data.encode(), manifest.FILE)
        except (KannaError, UnicodeEncodeError) as error:
            raise RefusedError(f"the manifest: {getattr(error, 'found', error)}") from None
        if described.digest != digest:
            raise RefusedError(f"the manifest is {described.digest}", expected=digest)
        if self._settings.key is not None:
            self._check_signature(described, signature, self._settings.key)
        return described

    def _check_signature(self, described: FleetManifest, signature: Any, key: Path) -> None:
        if not isinstance(signature, str) or len(signature) > manifest.LARGEST_SIGNATURE:
            raise RefusedError("the manifest is not signed", expected=f"a signature by {key}")
        with own_files.scratch(self._home.folder, "signature") as folder:
            (folder / manifest.FILE).write_bytes(described.data)
            (folder / signing.FILE).write_text(signature, encoding="utf-8")
            signing.verify(folder, key)

    def _refuse_older(self, described: FleetManifest, current: str | None) -> None:
        """Refuse what was published before the current version.

        An operator who wants it again publishes it again; the server alone cannot.
        """
        here = self._home.record(current) if current else None
        if here is not None and described.sequence < here.sequence:
            raise RefusedError(
                f"a downgrade: {described.name} is number {described.sequence} of what was "
                f"published, and {here.name}, number {here.sequence}, is current",
                expected="something newer",
            )

    def _swapped(self, digest: str, tested: Trial) -> Trial:
        """Make a version current, and the one that was so the one to go back to."""
        home = self._home
        memory, before = home.memory(), home.current()
        forward = digest != memory.good
        memory.good = before or ""
        home.remember(memory)
        home.swap(digest)
        after = self._settled(digest, before, tested)
        if after.outcome == "passed":
            if not forward:  # who was sent back from a version does not keep it
                memory.good = ""
                home.remember(memory)
            home.tidy(memory.good)
        return after

    def _settled(self, digest: str, before: str | None, tested: Trial) -> Trial:
        """Run the command of the user; what was current is so again where that fails."""
        home = self._home
        if (problem := self._after_swap()) is None:
            return tested
        if before is not None and home.has(before):
            home.swap(before)
            memory = home.memory()
            memory.good = ""
            home.remember(memory)
            self._after_swap()
            self._drop(digest)
        return Trial(outcome="failed", detail=problem, record=tested.record)

    def _after_swap(self) -> str | None:
        """Run the command of the user; what went wrong."""
        if not self._settings.on_swap:
            return None
        try:
            done = subprocess.run(  # the user's own line, as a shell takes it
                self._settings.on_swap,
                shell=True,
                cwd=self._home.folder,
                timeout=self._settings.trial.seconds,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "--on-swap did not end in time"
        if done.returncode == 0:
            return None
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return f"--on-swap ended with {done.returncode}: {last[:300]}"

    def _drop(self, digest: str) -> None:
        """Remove what failed or was refused, unless it is what is there for want of another."""
        memory = self._home.memory()
        if digest not in (self._home.current(), memory.good):
            self._home.tidy(memory.good)
            self._home.drop_parts()
