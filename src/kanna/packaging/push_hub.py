"""Artefacts to the Hugging Face hub: files, gate reports and a model card, in one commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import formats
from kanna._util import outgoing
from kanna._util.nearest import no_file
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.checks import GATE
from kanna.errors import NotFoundError, RefusedError, SourceError, UsageError
from kanna.escaping import markdown_code, markdown_text, yaml_text
from kanna.packaging.hub_branch import HubBranch
from kanna.packaging.prepared import PreparedArtefact
from kanna.packaging.pushed import PushedVariant, PushResult
from kanna.packaging.resources import memory_of

_CARD = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRequest:
    """What is asked of the hub.

    Attributes:
        repository: Where.
        private: A repository that is made is private.
        card: The model card; None: the one beside the file, or what is known.
        dry_run: Say what would be sent.
    """

    repository: HubBranch
    private: bool
    card: Path | None
    dry_run: bool


def send(
    request: HubRequest, prepared: Sequence[PreparedArtefact], progress: Progress
) -> PushResult:
    """Push artefacts in one commit; large files that the hub has are not sent again.

    Args:
        request: Where, and how.
        prepared: What.
        progress: Where sending is reported.

    Raises:
        SourceError: The hub cannot be reached, or refuses.
        RefusedError: Nothing may leave this machine.
    """
    files = _files(request, prepared)
    commit = ""
    if not request.dry_run:
        outgoing.require(str(request.repository))
        commit = _commit(request, files, progress)
    variants = tuple(
        PushedVariant(
            variant=one.variant,
            manifest=commit,
            num_bytes=one.artefact.num_bytes,
            sent_bytes=None,
            memory_bytes=memory_of(one.artefact)[0],
            gate=one.gate.status if one.gate else None,
        )
        for one in prepared
    )
    return PushResult(
        reference=str(request.repository),
        digest=commit,
        variants=variants,
        signed=False,
        dry_run=request.dry_run,
        files={place: _size(content) for place, content in sorted(files.items())},
        notes=tuple(note for one in prepared for note in one.notes),
    )


def _files(request: HubRequest, prepared: Sequence[PreparedArtefact]) -> dict[str, Path | bytes]:
    """What goes where in the repository."""
    files: dict[str, Path | bytes] = {}
    for one in prepared:
        folder = one.artefact.place not in one.artefact.files
        above = f"{one.variant}/" if folder and len(prepared) > 1 else ""
        mine: dict[str, Path | bytes] = {f"{above}{place}": p for place, p in one.files.items()}
        if one.gate is not None:
            stem = f"{above}model" if folder else next(iter(one.files))
            text = json.dumps(dict(one.gate.values), indent=1) + "\n"
            mine[f"{stem}{GATE}"] = text.encode()
        if again := mine.keys() & files.keys():
            raise UsageError(f"two files would be {min(again)} on the hub", expected="other names")
        files |= mine
    card = request.card or _card_beside(prepared)
    if card is not None and not card.is_file():
        raise NotFoundError(no_file(card), expected="a model card (Markdown)")
    files[_CARD] = card if card is not None else _plain_card(prepared).encode()
    return files


def _card_beside(prepared: Sequence[PreparedArtefact]) -> Path | None:
    """The card that `compare` or `optimize` wrote: of the only file, else of its folder."""
    first = next(iter(prepared[0].files.values()))
    suffix = formats.get(prepared[0].artefact.kind).suffix
    own = first.with_name(f"{first.name.removesuffix(suffix)}.md")
    whole = first.parent / _CARD
    if len(prepared) == 1 and suffix and first.name.endswith(suffix) and own.is_file():
        return own
    return whole if whole.is_file() and (first.parent / "report.json").is_file() else None


def _plain_card(prepared: Sequence[PreparedArtefact]) -> str:
    """A card of what is known without a report: sizes, checks, where it came from."""
    first = prepared[0].artefact
    kinds = list(dict.fromkeys(one.artefact.kind for one in prepared))
    head: dict[str, Any] = {"library_name": kinds[0], "tags": [*kinds, "quantized", "kanna"]}
    if first.licence:
        head["license"] = first.licence
    lines = ["---", yaml_text(head).rstrip(), "---", f"# {markdown_text(first.name)}", ""]
    for one in prepared:
        state = {"proved": "intact: every check of `kanna verify` passed"}.get(
            one.gate.status if one.gate else "", "not checked"
        )
        size = format_size(one.artefact.num_bytes)
        lines.append(f"- {markdown_code(next(iter(one.files)))}: {size}, {state}")
        lines += [f"  - {check}" for check in _checks(one)]
    if command := first.provenance.get("command"):
        lines += ["", f"Made by {markdown_code(str(command))}."]
    return "\n".join([*lines, ""])


def _checks(one: PreparedArtefact) -> list[str]:
    """What a gate measured, a line each."""
    checks: Any = one.gate.values.get("checks", []) if one.gate else []
    return [
        f"{markdown_text(str(check.get('name')))}: {markdown_text(str(check.get('detail')))}"
        for check in checks
    ]


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _commit(request: HubRequest, files: Mapping[str, Path | bytes], progress: Progress) -> str:
    """Send the files that the hub does not have, and commit all; the commit."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api, where = HfApi(), request.repository
    progress.start(f"push {where.id}", sum(map(_size, files.values())))
    try:
        made = api.create_repo(where.id, private=request.private or None, exist_ok=True)
        if where.revision != "main":
            api.create_branch(where.id, branch=where.revision, exist_ok=True)
        operations: list[CommitOperationAdd] = []
        for place, content in sorted(files.items()):
            one = CommitOperationAdd(
                path_in_repo=place,
                path_or_fileobj=content if isinstance(content, bytes) else str(content),
            )
            # One after another, so that a run that is cut short keeps what it has sent.
            api.preupload_lfs_files(where.id, [one], revision=where.revision, free_memory=False)
            operations.append(one)
            progress.advance(_size(content))
        message = "Add " + ", ".join(sorted(files)[:3]) + (" …" if len(files) > 3 else "")
        info = api.create_commit(
            made.repo_id, operations, commit_message=message, revision=where.revision
        )
    except RefusedError:
        raise
    except Exception as error:  # whatever the hub's library and its transport raise
        raise _explained(error, where) from error
    finally:
        progress.finish()
    return info.oid


def _explained(error: Exception, where: HubBranch) -> SourceError:
    """What the hub or its library said, in a line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if status in (401, 403):
        return SourceError(
            f"the hub refuses to take {where}: {first}",
            expected="a log-in that may write there",
            todo="hf auth login, or HF_TOKEN in the environment",
        )
    return SourceError(
        f"{where} could not be pushed: {first}",
        expected="a hub that takes it",
        todo="check the network and the name, then run the same command: what was sent is kept",
    )
