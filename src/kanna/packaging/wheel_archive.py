"""The archive that a wheel is: the same bytes for the same files, with its RECORD."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

_EARLIEST = (1980, 1, 1, 0, 0, 0)


def write(path: Path, files: Mapping[str, bytes], info: str) -> Path:
    """Write a wheel.

    Args:
        path: The file to write.
        files: Content by name, without RECORD.
        info: Name of its .dist-info folder.
    """
    lines: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # An installer reads from the end: the folder that describes the wheel comes last.
        for name in sorted(files, key=lambda n: (n.startswith(f"{info}/"), n)):
            data = files[name]
            digest = base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f'"{name}",sha256={digest},{len(data)}')
            archive.writestr(_entry(name), data)
        lines.append(f'"{info}/RECORD",,')
        archive.writestr(_entry(f"{info}/RECORD"), "\n".join(lines) + "\n")
    return path


def _entry(name: str) -> zipfile.ZipInfo:
    """A member without a date, so that the same files give the same wheel."""
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
    return entry
