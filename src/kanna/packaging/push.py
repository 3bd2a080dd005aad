"""The verb `push`: artefacts to a registry, the hub or an object store, each with its proof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanna import oci, signing
from kanna._util.arguments import several
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna.errors import UsageError
from kanna.packaging import head_start, hub_branch
from kanna.packaging.pushed import PushedModels, PushedVariant, PushResult
from kanna.registry import layouts, stores
from kanna.registry.client import RegistryRepository
from kanna.registry.layouts.base import RegistryLayout
from kanna.registry.transfers import Transfers
from kanna.registry.uploads import BlobUploads

__all__ = ["PushResult", "PushedVariant", "push"]


def push(
    destination: str,
    artefacts: str | Path | Sequence[str | Path],
    *,
    gate: str | Path | Sequence[str | Path] = (),
    unproved: bool = False,
    sign_key: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    card: str | Path | None = None,
    layout: str | None = None,
    dry_run: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
) -> PushResult:
    """Push files to a registry, the hub or an object store, each with the report of its gate.

    Files that are there are not sent again; an interrupted push goes on where it stopped. Of
    several files the tag of a registry becomes an index of variants, of which `pull` takes what
    fits.

    Args:
        destination: `oci://HOST/NAME:TAG`, `hf:OWNER/NAME`, or `s3://BUCKET/PREFIX`,
            `az://CONTAINER/PREFIX`, `file:///FOLDER`.
        artefacts: Files or folders, or any references to them.
        gate: Gate reports that `kanna verify --gate` wrote, one per file in their order; none
            takes MODEL.gate.json beside each.
        unproved: Push what has no report that every check passed, too.
        sign_key: Not of the hub: a private key (PEM) to sign the manifests with.
        private: Of the hub: a repository that is made is private.
        revision: Of the hub: the branch, made where there is none.
        card: Of the hub: the model card; None takes the one that `compare` or `optimize` wrote
            beside the file, else writes what is known of it.
        layout: Of registries: the media types that its readers look for, one of `kanna components
            layouts`; None takes `modelpack`.
        dry_run: Check everything and say what would be sent; nobody is asked.
        offline: Look for files on this machine alone.
        progress: Where hashing and sending are reported.

    Returns:
        What was pushed, by digest.

    Raises:
        GateError: A file was not proved.
        UsageError: A name, a key or a report does not serve.
        SourceError: The registry cannot be reached, or refuses.
    """
    given = [artefacts] if isinstance(artefacts, (str, Path)) else list(artefacts)
    if not given:
        raise UsageError("no file was named", expected="files or folders")
    reports = [Path(one) for one in several(gate)]
    if reports and len(reports) != len(given):
        raise UsageError(
            f"{len(reports)} gate reports for {len(given)} files", expected="one for each"
        )
    hub = hub_branch.destination(destination, revision)
    in_store = stores.is_address(destination)
    name = _registry_name(destination) if hub is None and not in_store else None
    if hub is None and (private or revision is not None or card is not None):
        raise UsageError(
            "--private, --revision and --card are of the hub", expected=hub_branch.FORM
        )
    if hub is not None and sign_key is not None:
        raise UsageError("the hub keeps no signatures", expected="no --sign-key")
    if name is None and layout is not None:
        raise UsageError("--layout is of registries", expected=oci.FORM)
    chosen = layouts.get(layout or layouts.DEFAULT)
    if len(given) > 1 and not chosen.variants:
        raise UsageError(
            f"{len(given)} models for one tag in the layout {layout}",
            expected=f"one of them, or --layout {layouts.DEFAULT}, which has variants",
        )
    signer = Path(sign_key) if sign_key else None
    if signer is not None:
        signing.check_key(signer)
    wanted = PushedModels(
        given=given,
        reports=reports,
        unproved=unproved,
        layout=layout or layouts.DEFAULT,
        offline=offline,
    )
    progress = shown(progress)
    if name is not None and not dry_run:
        return _to_registry(name, wanted, chosen, signer, progress)
    # What reads a model loads while its files are sent to a registry; here it is needed first.
    from kanna.packaging import push_hub, push_oci, push_store
    from kanna.packaging.prepared import prepare_all

    prepared = prepare_all(wanted, progress)
    if name is not None:
        return push_oci.planned(name, prepared)
    if hub is None:
        return push_store.send(destination, prepared, signer, dry_run, progress)
    request = push_hub.HubRequest(
        repository=hub, private=private, card=Path(card) if card else None, dry_run=dry_run
    )
    return push_hub.send(request, prepared, progress)


def _to_registry(
    name: oci.OciName,
    wanted: PushedModels,
    layout: RegistryLayout,
    key: Path | None,
    progress: Progress,
) -> PushResult:
    """Push to a registry, which gets large files while the models are still read."""
    with Transfers[bool]() as transfers:
        uploads = BlobUploads(RegistryRepository(name, pushes=True), transfers)
        if layout.packed is None:
            head_start.begin(uploads, wanted, progress)
        from kanna.packaging import push_oci
        from kanna.packaging.prepared import prepare_all

        prepared = prepare_all(wanted, progress)
        return push_oci.send(uploads, prepared, layout, key, progress)


def _registry_name(destination: str) -> oci.OciName:
    """The name in a registry, with a tag."""
    if not destination.startswith(oci.SCHEME):
        raise UsageError(
            f"{destination} is in no registry",
            expected=f"{oci.FORM}; {hub_branch.FORM}; {stores.FORM}",
        )
    name = oci.parse(destination)
    if name.digest is not None:
        raise UsageError(f"{destination} names a digest", expected="a tag, which is set")
    return name
