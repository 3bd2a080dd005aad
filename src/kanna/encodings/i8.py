"""I8: carried from a source as it is, never computed."""

from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="i8",
    summary="I8: carried from a source as it is, never computed",
    ggml_type=24,
    label="I8",
    block=1,
    block_bytes=1,
)
