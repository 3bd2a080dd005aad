"""F64: carried from a source as it is, never computed."""

from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="f64",
    summary="F64: carried from a source as it is, never computed",
    ggml_type=28,
    label="F64",
    block=1,
    block_bytes=8,
)
