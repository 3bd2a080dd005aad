"""Models on the Hugging Face hub.

What a repository holds, its headers by HTTP range, and only the files needed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kanna._util import outgoing
from kanna._util.atomic import write_text
from kanna._util.digest import sha256
from kanna._util.progress import Progress, Silent
from kanna.errors import RefusedError, SourceError
from kanna.formats.safetensors.read import DTYPES, Entry, header_size, parse_header
from kanna.formats.safetensors.shards import INDEX, SINGLE, shard_names
from kanna.formats.stored import HeaderTensor
from kanna.model import Tensor
from kanna.sources import blobs, hub_answers

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
log = logging.getLogger("kanna.sources.hub")
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "additional_chat_templates/*.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
    "*_Dense/config.json",
    "*_Dense/model.safetensors",
    "LICENSE*",
    "README.md",
)
# The header of a small model in one file fits the first request; the rest costs a second one.
_FIRST_BYTES = 1 << 16
# Bytes at the start of a file that say how long its header is.
_LENGTH = 8
# Headers of shards that are asked for at a time.
_AT_ONCE = 4
# Weights come in pieces of this size: what an interrupted run has is kept, and the next one goes on
# from there.
_PIECE = 1 << 24
_ATTEMPTS = 3
_HASH = "[0-9a-f]{40}|[0-9a-f]{64}"
# Files that are large, and that the hub names a SHA-256 of.
_WEIGHTS = (".safetensors", ".gguf", ".onnx", ".data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A hub repository at one commit: file names and their sizes in bytes.

    Attributes:
        revision: What the user called that commit: a branch, a tag or the commit itself.
        hashes: SHA-256 of large files, and what git names small ones, where the hub says them.
    """

    id: str
    revision: str
    commit: str
    files: dict[str, int]
    hashes: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def side_files(self) -> list[str]:
        """Config, tokenizer and template files."""
        return [f for f in self.files if any(fnmatch(f, pattern) for pattern in SIDE_FILES)]

    @property
    def weight_files(self) -> list[str]:
        """The safetensors files at the top of the repository.

        RefusedError when it has only pickled ones.
        """
        names = [f for f in self.files if "/" not in f and f.endswith(".safetensors")]
        names = [f for f in names if f.startswith("model")] or names
        if not names:
            pickled = [f for f in self.files if f.endswith((".bin", ".pt", ".pth", ".ckpt"))]
            if pickled:
                raise RefusedError(
                    f"{self.id} has only pickled weights ({pickled[0]}), which can run code when "
                    "they are read",
                    todo="use a revision with safetensors (often refs/pr/1), or the hub's "
                    "conversion space",
                )
            raise SourceError(
                f"{self.id} has no safetensors files", expected="a language model repository"
            )
        return names


def look_up(repo_id: str, revision: str | None) -> Repository:
    """Ask the hub what a repository holds.

    SourceError when it cannot be reached, is gated or does not exist.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        files = {s.rfilename: int(s.size or 0) for s in info.siblings or []}
        named = {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings or []}
        hashes = {name: h for name, h in named.items() if h and re.fullmatch(_HASH, h)}
    except Exception as error:
        raise _explain(error, repo_id, revision) from error
    wanted = revision or "main"
    commit = info.sha or wanted
    hub_answers.check_names(repo_id, files, commit)
    return Repository(id=repo_id, revision=wanted, commit=commit, files=files, hashes=hashes)


def headers(repository: Repository) -> dict[str, Tensor]:
    """Names, shapes and types of every tensor, from the first bytes of each weight file."""
    tensors: dict[str, Tensor] = {}
    names = repository.weight_files
    if SINGLE in names:
        names = [SINGLE]  # as in a folder: it is the model, whatever index lies beside it
    elif INDEX in repository.files:
        names = shard_names(Path(fetch(repository, [INDEX])[INDEX]).read_bytes())
        missing = [n for n in names if n not in repository.files]
        if missing:
            raise SourceError(
                f"{repository.id} lacks {len(missing)} shards of its index, such as {missing[0]}"
            )
    # A shard's header seldom fits a first request: its length is asked for before it, and no byte
    # of the weights.
    first = _FIRST_BYTES if len(names) == 1 else _LENGTH

    def header(name: str) -> list[Entry]:
        return _header(repository, name, first)

    with ThreadPoolExecutor(_AT_ONCE) as readers:
        for entries in readers.map(header, names):
            for e in entries:
                tensors[e.name] = HeaderTensor(
                    e.name, e.shape, DTYPES.get(e.dtype, e.dtype.lower()), e.end - e.begin
                )
    return tensors


def _header(repository: Repository, name: str, first_bytes: int) -> list[Entry]:
    """What the header of a safetensors file names, read in two requests at most."""
    first = read_range(repository, name, 0, first_bytes)
    size = header_size(first)
    text = first[_LENGTH : _LENGTH + size]
    if len(text) < size:
        text += read_range(repository, name, _LENGTH + len(text), size - len(text))
    whole = repository.files[name]
    return parse_header(text, whole - _LENGTH - size if whole else None)


def read_range(repository: Repository, name: str, start: int, size: int) -> bytes:
    """Bytes [start, start + size) of a file, or fewer at its end."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(repository.id, name, revision=repository.commit)
    asked = build_hf_headers() | {"Range": f"bytes={start}-{start + size - 1}"}
    try:
        with get_session().stream(
            "GET", url, headers=asked | {"Accept-Encoding": "identity"}
        ) as answer:
            hf_raise_for_status(answer)
            # A server that ignores ranges sends the file from its start.
            skipped = 0 if answer.status_code == 206 else start
            return hub_answers.part(answer.iter_raw(), skipped, size)
    except Exception as error:
        raise _explain(error, repository.id, repository.commit) from error


def fetch(
    repository: Repository, names: list[str], progress: Progress | None = None
) -> dict[str, Path]:
    """Download files into the hub's own cache, going on with what was begun; paths by name."""
    from huggingface_hub import hf_hub_download

    bar = progress or Silent()
    bar.start(f"fetch {repository.id}", sum(repository.files.get(n, 0) for n in names))
    paths: dict[str, Path] = {}
    try:
        for name in names:
            if name.endswith(_WEIGHTS):
                _fetch_weights(repository, name, bar)
            size = repository.files.get(name) or hub_answers.MOST_UNANNOUNCED
            meter: Any = _meter(bar, name, size)
            with hub_answers.held():
                path = hf_hub_download(
                    repository.id, name, revision=repository.commit, tqdm_class=meter
                )
            paths[name] = Path(path)
    except Exception as error:
        raise _explain(error, repository.id, repository.commit) from error
    finally:
        bar.finish()
    published = {path: repository.hashes[n] for n, path in paths.items() if n in repository.hashes}
    blobs.check(paths.values(), progress, published)
    return paths


def _fetch_weights(repository: Repository, name: str, bar: Progress) -> None:
    """Put one large file where the hub's library keeps its own.

    That library begins anew after every interruption.

    Raises SourceError when the network fails for good, or the bytes do not have the hash the hub
    names.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    about = get_hf_file_metadata(hf_hub_url(repository.id, name, revision=repository.commit))
    announced = repository.files.get(name) or about.size
    if about.size != announced:
        raise SourceError(
            f"{name} has {about.size} bytes by its own head, and {announced} in the list of files",
            todo="run the command again; if it happens again, the hub is at fault",
        )
    if not (about.etag and about.size and re.fullmatch("[0-9a-f]{64}", about.etag)):
        return  # no hash to hold the pieces to: left to the library
    folder = _cache(repository) / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    whole, begun = folder / about.etag, folder / f"{about.etag}.partial"
    if whole.exists():
        bar.advance(about.size)
        return
    with begun.open("ab") as out:
        bar.advance(out.tell(), name)
        while (at := out.tell()) < about.size:
            piece = _patiently(repository, name, at, min(_PIECE, about.size - at))
            out.write(piece)
            out.flush()
            bar.advance(len(piece), name)
    if sha256(begun) != about.etag:
        begun.unlink()
        raise SourceError(
            f"{name} arrived damaged: its SHA-256 is not {about.etag}", todo="run the command again"
        )
    begun.replace(whole)


def _patiently(repository: Repository, name: str, start: int, size: int) -> bytes:
    """A piece of a file; a connection that breaks is tried again a few times."""
    for attempt in range(_ATTEMPTS):
        try:
            if piece := read_range(repository, name, start, size):
                return piece
        except SourceError:
            if attempt == _ATTEMPTS - 1:
                raise
        time.sleep(attempt + 0.5)
    raise SourceError(
        f"{repository.id} sends no more of {name} after {start} bytes", todo="run the command again"
    )


def _meter(bar: Progress, name: str, size: int) -> Any:
    """A tqdm that draws nothing, passes the bytes on, and ends a file that has more than `size`."""
    from huggingface_hub.utils import tqdm

    arrived = 0

    class Meter(tqdm):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = False
            super().__init__(*args, **(kwargs | {"file": open(os.devnull, "w")}))  # noqa: SIM115, PTH123

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal arrived
            arrived += int(n or 0)
            if arrived > size:
                raise SourceError(
                    f"{name} goes on after {size} bytes, which is all that the hub announced",
                    todo="run the command again; if it happens again, the hub is at fault",
                )
            bar.advance(int(n or 0))
            return super().update(n)

    return Meter


def _cache(repository: Repository) -> Path:
    """Where the hub's library keeps a repository.

    Blobs by hash, snapshots by commit, refs by name.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository.id, repo_type="model")


def remember(repository: Repository) -> None:
    """Note which commit a branch or tag was, so that it is found offline.

    Files are fetched by commit alone.
    """
    if repository.revision != repository.commit:
        ref = _cache(repository) / "refs" / repository.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_text(ref, repository.commit)


def cached(repo_id: str, revision: str | None) -> Path:
    """Folder of a repository in the hub's cache, without any network.

    SourceError when it is not complete there.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except Exception as error:
        raise SourceError(
            f"{repo_id} is not in the hub's cache",
            todo="run once without --offline, or give a local folder",
        ) from error


def pickled(name: str) -> RefusedError:
    """The refusal of a file that can run code when it is read."""
    return RefusedError(
        f"{name} is a pickled file: reading it can run any code",
        expected="safetensors or GGUF",
        todo="use the safetensors files of the same model, or convert it where you trust it: "
        "load it with transformers and call model.save_pretrained(folder)",
    )


def is_unreachable(error: SourceError) -> bool:
    """Whether an error means that the hub did not answer, not what it answered."""
    from huggingface_hub import errors

    cause = error.__cause__
    # Its HTTP library has changed more than once: what all of them share is this name.
    failed = any(kind.__name__ == "TransportError" for kind in type(cause).__mro__)
    return failed or isinstance(cause, errors.OfflineModeIsEnabled)


def _explain(error: Exception, repo_id: str, revision: str | None) -> SourceError:
    from huggingface_hub import errors

    where = repo_id + (f" at {revision}" if revision else "")
    if isinstance(error, SourceError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return SourceError(
            f"{where} is gated", todo="accept its licence on the hub, then run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(
            f"{repo_id} has no revision {revision!r}", todo="check the branch, tag or commit"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return SourceError(
            f"{where} was not found on the hub, and is no path here",
            todo="check the name; for a private one, run `hf auth login`",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        variable = outgoing.VARIABLE if outgoing.forbidden() else "HF_HUB_OFFLINE"
        return SourceError(
            f"{where} is not on this machine, and {variable} forbids to fetch it",
            todo=f"fetch it where that is allowed, or unset {variable}",
        )
    if isinstance(error, json.JSONDecodeError):
        return SourceError(f"the hub sent an answer about {where} that is not JSON")
    first_line = str(error).partition("\n")[0]
    return SourceError(
        f"{where} could not be fetched: {type(error).__name__}: {first_line}",
        todo="check the network, or pass --offline to use what was fetched before",
    )
