"""Files of pictures, checked by their headers before any decoder sees them.

PNG (ISO/IEC 15948) and JPEG (ITU-T T.81): what they claim to be, whether they are whole, and how
many pixels they unfold to. A few bytes can claim billions.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.nearest import no_file, unreadable
from kanna.errors import FormatError, NotFoundError, UsageError

MOST_BYTES = 32 << 20
"""Of one file."""
MOST_PIXELS = 50_000_000
"""Of one picture: 150 MB of colours."""
MOST_SIDE = 1 << 14
MOST_RATIO = 200
"""The longer side in times the shorter one."""
EXPECTED = "a PNG or a JPEG"
_TODO = "convert it to PNG or JPEG, and make it smaller"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_OTHERS = {
    b"GIF8": "a GIF",
    b"RIFF": "a WebP",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
}
_NO_FRAMES = {0xC4, 0xC8, 0xCC}
"""JPEG markers among those of frames that begin none: tables of codes, an extension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A file of a picture whose header makes sense.

    Attributes:
        kind: `png` or `jpeg`.
        width: In pixels.
        height: In pixels.
        data: The file.
    """

    kind: str
    width: int
    height: int
    data: bytes


def opened(given: object) -> Picture:
    """A picture that a user names.

    Args:
        given: A path, the bytes of a file, or what `save`s itself as Pillow's images do.

    Raises:
        FormatError: It is no whole PNG or JPEG, or larger than is read here.
        UsageError: It does not exist, or is nothing of the kind.
    """
    if isinstance(given, (bytes, bytearray)):
        return checked(bytes(given), "the picture")
    if isinstance(given, (str, Path)):
        return _from_file(Path(given))
    save: Any = getattr(given, "save", None)
    if save is None:
        raise UsageError(f"a picture that is {given!r:.80}", expected=f"the path of {EXPECTED}")
    buffer = io.BytesIO()
    save(buffer, "PNG")
    return checked(buffer.getvalue(), "the picture")


def _from_file(path: Path) -> Picture:
    if not path.is_file():
        raise NotFoundError(no_file(path), expected=f"the path of {EXPECTED}")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error, UsageError) from None
    return checked(data, str(path))


def checked(data: bytes, name: str) -> Picture:
    """The picture of a file, by its header.

    Args:
        data: The file.
        name: What it is called in errors.

    Raises:
        FormatError: It is no whole PNG or JPEG, or larger than is read here.
    """
    if len(data) > MOST_BYTES:
        raise FormatError(
            f"{name} has more than {MOST_BYTES >> 20} MiB", expected=EXPECTED, todo=_TODO
        )
    if data.startswith(_PNG):
        kind, size = "png", _png_size(data, name)
    elif data.startswith(_JPEG):
        kind, size = "jpeg", _jpeg_size(data, name)
    else:
        other = next((text for start, text in _OTHERS.items() if data.startswith(start)), "")
        wrong = f"{name} is {other}" if other else f"{name} begins with {data[:8]!r}"
        raise FormatError(wrong, expected=EXPECTED, todo="convert it to PNG or JPEG")
    width, height = size
    _check_size(width, height, name)
    return Picture(kind=kind, width=width, height=height, data=data)


def _check_size(width: int, height: int, name: str) -> None:
    short, long = sorted((width, height))
    if short < 1:
        raise FormatError(f"{name} is {width} × {height} pixels", expected="at least one")
    if long > MOST_SIDE or width * height > MOST_PIXELS:
        raise FormatError(
            f"{name} is {width} × {height} pixels",
            expected=f"at most {MOST_SIDE:,} on a side and {MOST_PIXELS:,} together",
            todo="make it smaller: a tower looks at far fewer",
        )
    if long > MOST_RATIO * short:
        raise FormatError(
            f"{name} is {width} × {height} pixels",
            expected=f"sides of which none is {MOST_RATIO} times the other",
            todo="cut it",
        )


def _cut(name: str) -> FormatError:
    return FormatError(
        f"{name} is truncated or damaged",
        expected=f"{EXPECTED} that is whole",
        todo="copy it again",
    )


def _png_size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height; every chunk is held to its checksum, up to the last one."""
    view, at, size = memoryview(data), len(_PNG), None
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        kind = bytes(view[at + 4 : at + 8])
        if end + 4 > len(data):
            break
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            break
        if size is None:
            if kind != b"IHDR" or length != 13:
                break
            size = struct.unpack_from(">II", data, at + 8)
        if kind == b"IEND":
            return size
        at = end + 4
    raise _cut(name)


def _jpeg_size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height of the frame; the mark of the end comes somewhere after it."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in {0xD9, 0xDA} or length < 2:
            break
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            if at + 9 > len(data) or data.rfind(b"\xff\xd9") < at + length:
                break
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    raise _cut(name)
