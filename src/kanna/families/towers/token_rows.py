"""Embeddings of single tokens that llama.cpp puts among what a tower sees."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kanna.errors import SourceError, UnsupportedError
from kanna.model import F32, U8, Tensor
from kanna.tokenizer import files

if TYPE_CHECKING:
    from kanna.sources import Source

_EMBEDDINGS = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?embed_tokens\.weight")
_COMPUTED = {"f32", "f16", "bf16", "f64"}


@dataclass(slots=True)
class TokenRow:
    """One row of a table, as a vector in float32."""

    name: str
    table: Tensor
    row: int
    dtype: str = "f32"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.table.shape[1:]

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return 4 * self.shape[0]

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]; there is one."""
        return self.table.rows(self.row, self.row + 1)[start:stop]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        return None


def token_row(source: Source, name: str, text: str, width: int) -> Tensor:
    """The embedding of a token, under the name that a tower has for it.

    Args:
        source: The checkpoint.
        name: Of the tensor.
        text: Of the token.
        width: Values of an embedding.

    Raises:
        SourceError: The tokenizer has no such token.
        UnsupportedError: The embeddings are absent, misshapen or packed.
    """
    texts = files.texts_by_id(files.read(source.files, files.TOKENIZER), None)
    if text not in texts:
        raise SourceError(
            f"{source.given} has no token {text}, which stands between the rows of a picture",
            expected=f"{text} in {files.TOKENIZER}",
            todo="fetch the tokenizer again from where the model was published",
        )
    row = texts.index(text)
    table = next((t for n, t in source.tensors.items() if _EMBEDDINGS.fullmatch(n)), None)
    if table is None:
        raise UnsupportedError(
            f"the embeddings of tokens are missing, of which a picture needs that of {text}",
            todo="a shard is missing or the download stopped: fetch the model again",
        )
    if len(table.shape) != 2 or table.shape[1] != width or row >= table.shape[0]:
        raise UnsupportedError(
            f"embed_tokens.weight has the shape {tuple(table.shape)}, and {text} is token {row}",
            expected=f"rows of {width} values, one for each token",
        )
    if table.dtype not in _COMPUTED:
        raise UnsupportedError(
            f"embed_tokens.weight is stored as {table.dtype}", expected="16 or 32 bits"
        )
    return TokenRow(name, table, row)
