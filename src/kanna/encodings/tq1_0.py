"""TQ1_0: Ternary values, five to a byte; for models trained so."""

from __future__ import annotations

from kanna.encodings import _core, _ggml
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="tq1_0",
    summary="TQ1_0: Ternary values, five to a byte; for models trained so",
    label="TQ1_0",
    block=256,
    block_bytes=54,
    ggml_type=34,
    file_type=36,
    fallback="q4_0",
    levels=4,
    encoder=_ggml.encode_searched,
    decoder=_core.decode,
)
