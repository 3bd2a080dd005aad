"""Files of pictures by their headers: what is whole, what is cut, and what unfolds too far."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers import picture_files

from kanna.errors import FormatError, KannaError, UsageError
from kanna.formats import pictures

GOOD = picture_files.png(np.arange(45, dtype=np.uint8).reshape(3, 5, 3))


def test_what_a_picture_is_stands_in_its_header(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(GOOD)
    found = pictures.opened(path)
    assert (found.kind, found.width, found.height, found.data) == ("png", 5, 3, GOOD)
    found = pictures.opened(picture_files.jpeg(24, 16))
    assert (found.kind, found.width, found.height) == ("jpeg", 24, 16)

    class Image:
        def save(self, buffer: io.BytesIO, kind: str) -> None:
            assert kind == "PNG"
            buffer.write(GOOD)

    assert pictures.opened(Image()).width == 5


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begins with b''"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"RIFF\0\0\0\0WEBP", "a WebP"),
        (GOOD[:-1], "truncated"),
        (GOOD[:8], "truncated"),
        (GOOD[:20] + bytes([GOOD[20] ^ 1]) + GOOD[21:], "damaged"),
        (picture_files.jpeg(8, 8)[:-2], "truncated"),
        (picture_files.jpeg(8, 8)[:30], "truncated"),
        (b"\xff\xd8\xff\xd9", "truncated"),
        (picture_files.claiming(100_000, 100_000), "100000 × 100000 pixels"),
        (picture_files.claiming(10_000, 10_000), "50,000,000 together"),
        (picture_files.claiming(0, 5), "0 × 5"),
        (picture_files.claiming(1, 5000), "200 times"),
        (bytes(pictures.MOST_BYTES + 1), "32 MiB"),
    ],
)
def test_no_decoder_sees_what_is_damaged_or_too_large(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        pictures.checked(data, "cat.png")


def test_every_cut_of_a_picture_is_refused() -> None:
    for whole in (GOOD, picture_files.jpeg(16, 8)):
        for length in range(len(whole)):
            with pytest.raises(FormatError):
                pictures.checked(whole[:length], "cat")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for given in (tmp_path / "absent.png", tmp_path, 7, None):
        with pytest.raises(UsageError):
            pictures.opened(given)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(KannaError, match="PNG or a JPEG"):
        pictures.opened(tmp_path / "text.png")
