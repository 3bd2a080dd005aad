"""I64: carried from a source as it is, never computed."""

from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="i64",
    summary="I64: carried from a source as it is, never computed",
    ggml_type=27,
    label="I64",
    block=1,
    block_bytes=8,
)
