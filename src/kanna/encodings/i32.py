"""I32: carried from a source as it is, never computed."""

from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="i32",
    summary="I32: carried from a source as it is, never computed",
    ggml_type=26,
    label="I32",
    block=1,
    block_bytes=4,
)
