"""I16: carried from a source as it is, never computed."""

from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="i16",
    summary="I16: carried from a source as it is, never computed",
    ggml_type=25,
    label="I16",
    block=1,
    block_bytes=2,
)
