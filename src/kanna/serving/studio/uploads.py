"""Models that are dropped on the page: streamed to the disk, file by file, within a limit."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kanna._util.units import format_size
from kanna.errors import KannaError
from kanna.serving.problems import ApiError
from kanna.serving.studio.jobs import model_name, read_object
from kanna.sources import open_source

_ENDINGS = (".gguf", ".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ ()@-]{0,199}")
_SPARE = 1 << 30
"""Bytes of the disk that an upload must leave free."""
_PARTIAL = ".partial"


@dataclass(slots=True, kw_only=True)
class Upload:
    """A model that is arriving.

    Attributes:
        id: In the addresses of its files.
        folder: Where its files are until all of them are there.
        sizes: Bytes of each file, by its name.
        arrived: Names of the files that are there.
        under_way: Names of the files that are being sent.
        over: Whether it was abandoned.
    """

    id: str
    folder: Path
    sizes: dict[str, int]
    arrived: set[str] = field(default_factory=set[str])
    under_way: set[str] = field(default_factory=set[str])
    over: bool = False


class UploadStore:
    """Uploaded models, and those that are arriving.

    Args:
        root: The folder of uploaded models.
        limit: Bytes of one model at most.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit
        self.root.mkdir(parents=True, exist_ok=True)
        self._uploads: dict[str, Upload] = {}
        for left in self.root.glob(f"*{_PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)

    def begin(self, sizes: dict[str, int]) -> Upload:
        """Expect files.

        Args:
            sizes: Bytes of each, by its name.

        Raises:
            ApiError: They are no model, or too large.
        """
        _check_names(list(sizes))
        total = sum(sizes.values())
        if total > self.limit:
            raise ApiError(
                413,
                f"the model has {format_size(total)}, at most {format_size(self.limit)} are taken",
                code="too_large",
                todo="put its path into the field instead, or raise --upload-limit",
            )
        free = shutil.disk_usage(self.root).free
        if total + _SPARE > free:
            raise ApiError(
                413,
                f"the model has {format_size(total)}, and {format_size(free)} of the disk are free",
                code="disk_full",
                todo="free some space, or put the path of the model into the field instead",
            )
        upload_id = secrets.token_hex(8)
        folder = self.root / f"{upload_id}{_PARTIAL}"
        folder.mkdir()
        upload = self._uploads[upload_id] = Upload(id=upload_id, folder=folder, sizes=sizes)
        return upload

    def find(self, upload_id: str) -> Upload:
        """The upload of that id; raises ApiError 404."""
        upload = self._uploads.get(upload_id)
        if upload is None:
            raise ApiError(404, "this upload is over", code="not_found", todo="drop it again")
        return upload

    async def receive(self, upload: Upload, name: str, parts: AsyncIterator[bytes]) -> str | None:
        """Write one file.

        Args:
            upload: What it belongs to.
            name: Of the file.
            parts: Its bytes as they come.

        Returns:
            The source that all files make together; None while some are missing.

        Raises:
            ApiError: It was not announced, or has another size; nothing of it stays.
        """
        if name not in upload.sizes:
            raise ApiError(404, f"no file {name[:100]!r} was announced", code="not_found")
        if name in upload.under_way:
            raise ApiError(409, f"{name} is being sent already", code="under_way")
        size, arrived = upload.sizes[name], 0
        partial = upload.folder / f"{name}{_PARTIAL}"
        upload.under_way.add(name)
        upload.arrived.discard(name)
        try:
            with partial.open("wb") as file:
                async for part in parts:
                    arrived += len(part)
                    if arrived > size or upload.over:
                        break
                    file.write(part)
            if upload.over:
                raise ApiError(404, "this upload is over", code="not_found", todo="drop it again")
            if arrived != size:
                raise ApiError(400, f"{name} was announced with {size} bytes, and differs")
            partial.replace(upload.folder / name)
        finally:
            upload.under_way.discard(name)
            partial.unlink(missing_ok=True)
        upload.arrived.add(name)
        return self._finish(upload) if upload.arrived == set(upload.sizes) else None

    def abandon(self, upload: Upload) -> None:
        """Delete what has arrived of a model."""
        upload.over = True
        self._uploads.pop(upload.id, None)
        shutil.rmtree(upload.folder, ignore_errors=True)

    def _finish(self, upload: Upload) -> str:
        names = sorted(upload.sizes)
        weights = [n for n in names if n.endswith(".gguf")]
        folder = self._free_name(model_name(weights[0]) if weights else _config_name(upload))
        upload.folder.replace(folder)
        self._uploads.pop(upload.id, None)
        source = folder / weights[0] if weights else folder
        try:
            open_source(source)
        except KannaError as error:
            shutil.rmtree(folder, ignore_errors=True)
            todo = error.todo or error.expected
            raise ApiError(400, error.found, code="not_a_model", todo=todo) from None
        return str(source)

    def _free_name(self, name: str) -> Path:
        path, number = self.root / name, 2
        while path.exists():
            path, number = self.root / f"{name}-{number}", number + 1
        return path


def _config_name(upload: Upload) -> str:
    """The name that config.json gives the model."""
    config = read_object(upload.folder / "config.json")
    given = config.get("_name_or_path")
    kind = config.get("model_type")
    return model_name(str(given or kind or "model"))


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or not name.lower().endswith(_ENDINGS):
            raise ApiError(
                400,
                f"{name[:100]!r} is no file of a model",
                code="not_a_model",
                todo="drop a .gguf file, or a folder with config.json and .safetensors files",
            )
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    folder = "config.json" in names and any(n.endswith(".safetensors") for n in names)
    parts = len(ggufs) == 1 or all(re.search(r"-\d{5}-of-\d{5}\.gguf$", n) for n in ggufs)
    if bool(ggufs) == folder or (ggufs and not (parts and len(ggufs) == len(names))):
        raise ApiError(
            400,
            "these files are not one model",
            code="not_a_model",
            todo="drop one .gguf file (or all its parts), or a whole folder with config.json, "
            "the tokenizer and the .safetensors files",
        )
