"""Have a model of an object store on this machine: chosen, checked, fetched by ranges."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from kanna._util import locks, own_files, verified
from kanna._util.disk import explain
from kanna._util.folders import cache_folder
from kanna._util.progress import Progress
from kanna._util.typed import TypedObject, text
from kanna._util.units import format_size
from kanna.checks import GATE
from kanna.errors import GateError, KannaError, RefusedError, UsageError
from kanna.formats.text_files import parse_json
from kanna.registry import evidence
from kanna.registry.pulling import PulledArtefact, Wanted
from kanna.registry.stores import ObjectStore, StoredVariant, StoreManifest

SIGNATURES = "signatures"
_SLICE = 8 << 20


def pull(address: str, wanted: Wanted, progress: Progress) -> PulledArtefact:
    """Fetch a model.

    Args:
        address: Of the prefix.
        wanted: Which variant, signed by whom.
        progress: Where fetching is reported.

    Raises:
        SourceError: Nothing is there, or the store cannot be reached.
        RefusedError: A file is not what the manifest says.
        GateError: It is not signed by the owner of the key, or no variant fits.
    """
    store = ObjectStore(address)
    manifest = store.manifest()
    signature = store.read_small(f"{SIGNATURES}/{manifest.digest}.sig")
    if wanted.key is not None:
        _check(store, manifest, signature, wanted.key)
    chosen = _chosen(store, manifest, wanted)
    root = cache_folder() / "stores" / manifest.version / chosen.name
    above = f"{manifest.version}/{chosen.name}"
    fetched = _fetch_all(store, above, chosen, root, progress)
    report = store.read_small(f"{above}{GATE}")
    state = "none" if signature is None else "good" if wanted.key else "not checked"
    evidence.keep(
        root.with_name(f"{root.name}.evidence"),
        {evidence.MANIFEST_FILE: manifest.data, "model.sig": signature, "gate.json": report},
    )
    return PulledArtefact(
        path=_place_of(root, chosen),
        manifest=f"sha256:{manifest.digest}",
        variant=chosen.name,
        signature=state,
        gate=_verdict(report, chosen),
        fetched_bytes=fetched,
    )


def _check(store: ObjectStore, manifest: StoreManifest, signature: bytes | None, key: Path) -> None:
    """Hold the manifest to a key."""
    why = "there is no signature"
    if signature is not None:
        try:
            evidence.hold(manifest.data, signature, key)
        except GateError as error:
            why = error.found
        else:
            return
    raise GateError(
        f"{store.address} is not signed by the owner of {key.name}: {why}",
        expected="a signature that this key holds for",
        todo="do not use it, or give the key of who signed it",
    )


def _chosen(store: ObjectStore, manifest: StoreManifest, wanted: Wanted) -> StoredVariant:
    """The variant that was named, or the most precise that fits."""
    names = [one.name for one in manifest.variants]
    if wanted.variant is not None:
        if wanted.variant not in names:
            raise UsageError(
                f"{store.address} has no variant {wanted.variant!r}", expected=", ".join(names)
            )
        return manifest.variants[names.index(wanted.variant)]
    limit = wanted.memory
    fits = [one for one in manifest.variants if limit is None or one.memory <= limit]
    if not fits:
        needs = ", ".join(f"{v.name} needs {format_size(v.memory)}" for v in manifest.variants)
        raise GateError(
            f"no variant of {store.address} fits {format_size(limit or 0)}: {needs}",
            expected="more memory, or a smaller variant",
            todo="name one with --variant, or give more with --memory",
        )
    return max(fits, key=lambda one: one.memory)


def _fetch_all(
    store: ObjectStore, above: str, chosen: StoredVariant, root: Path, progress: Progress
) -> int:
    """Fetch every file, and lay them out; bytes that came."""
    if root.is_dir() and all(
        (root / place).is_file() and verified.holds(root / place, digest)
        for place, (digest, _) in chosen.files.items()
    ):
        return 0
    parts, fetched = root.parent.parent / "parts", 0
    parts.mkdir(parents=True, exist_ok=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    progress.start(f"pull {store.address}", sum(size for _, size in chosen.files.values()))
    try:
        with locks.holding(root, "pull"):
            partial = own_files.fresh_name(root)
            try:
                for place, (digest, size) in chosen.files.items():
                    part = parts / f"{digest}.part"
                    fetched += _fill(store, f"{above}/{place}", part, (digest, size), progress)
                    target = partial / PurePosixPath(place)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    part.replace(target)
                own_files.put(partial, root)
            except OSError as error:
                raise explain(error, root) from error
            finally:
                own_files.remove(partial)
    finally:
        progress.finish()
    return fetched


def _fill(
    store: ObjectStore, place: str, part: Path, wanted: tuple[str, int], progress: Progress
) -> int:
    """Fetch what a part lacks, by ranges, and hold the whole to its hash; bytes that came."""
    digest, size = wanted
    hashed, have = hashlib.sha256(), 0
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(part, flags, 0o666), "r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > size:
            file.truncate(0)
        while data := file.read(_SLICE):
            hashed.update(data)
            have += len(data)
        progress.advance(have)
        begun = have
        while have < size:
            data = store.read(place, have, min(size, have + _SLICE))
            if not data or have + len(data) > size:
                break
            file.write(data)
            hashed.update(data)
            have += len(data)
            progress.advance(len(data))
        os.fsync(file.fileno())
    if have != size or hashed.hexdigest() != digest:
        own_files.remove(part)
        raise RefusedError(
            f"{store.address} has other bytes at {place} than its manifest says",
            expected=f"{size} bytes with the SHA-256 {digest[:16]}…",
            todo="find out who wrote there, remove that file and push the model again",
        )
    return have - begun


def _place_of(root: Path, chosen: StoredVariant) -> Path:
    """The only file or the first of its parts, else the folder."""
    whole = all(place.endswith(".gguf") and "/" not in place for place in chosen.files)
    return root / min(chosen.files) if whole else root


def _verdict(report: bytes | None, chosen: StoredVariant) -> str | None:
    """What a gate report says, where it is about these very files."""
    with suppress(KannaError):
        if report is not None:
            verdict = TypedObject.of(parse_json(report.decode("utf-8", "replace"), "gate"), "gate")
            if dict(verdict.part("files").values) == {p: d for p, (d, _) in chosen.files.items()}:
                return verdict.need("status", text(40))
    return None
