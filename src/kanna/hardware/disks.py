"""Disks: where there is room for models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from kanna._util.folders import cache_folder

_REAL = {
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "zfs",
    "f2fs",
    "apfs",
    "hfs",
    "ntfs",
    "ntfs3",
    "vfat",
    "exfat",
    "fuseblk",
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "overlay",
    "tmpfs",
    "9p",
    "virtiofs",
    "bcachefs",
    "reiserfs",
    "jfs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One file system; `purpose` is set for the folders that kanna writes to."""

    mount: str
    kind: str
    total: int
    free: int
    purpose: str = ""


def disks() -> list[Disk]:
    """Writable file systems of at least 1 GB, and those of the current folder and of the cache.

    The one with most room comes first.
    """
    import psutil

    by_device: dict[str, Disk] = {}
    for part in psutil.disk_partitions(all=False):
        if part.fstype.lower() in _REAL and "ro" not in part.opts.split(","):
            _add(by_device, Path(part.mountpoint), part.fstype, "")
    for folder, purpose in ((Path.cwd(), "current folder"), (_existing(cache_folder()), "cache")):
        _add(by_device, folder, "", purpose)
    return sorted(
        (d for d in by_device.values() if d.purpose or d.total >= 10**9), key=lambda d: -d.free
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((p for p in (folder, *folder.parents) if p.is_dir()), folder)


def _add(by_device: dict[str, Disk], folder: Path, kind: str, purpose: str) -> None:
    try:
        usage, device = shutil.disk_usage(folder), str(folder.stat().st_dev)
    except OSError:
        return
    old = by_device.get(device)
    if old:
        kind, folder = old.kind or kind, Path(old.mount)
        purpose = ", ".join(p for p in (old.purpose, purpose) if p)
    by_device[device] = Disk(
        mount=str(folder), kind=kind, total=usage.total, free=usage.free, purpose=purpose
    )
