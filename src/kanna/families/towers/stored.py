"""What the file of a vision tower says of itself, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kanna._util.typed import text, whole
from kanna.model import MetaValue

ARCH = "clip"
"""What llama.cpp calls the architecture of every mmproj."""

_STATES = 16
"""States of a patch that are held at a time: queries, keys, values, four of the middle, twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTower:
    """A vision tower as its file describes it; what the file does not say is None.

    Attributes:
        projector: What llama.cpp calls it.
        picture: Pixels of a side of a picture.
        patch: Pixels of a side of a patch.
        layers: How many there are.
        hidden: Values of a patch.
        text_hidden: Values of a token of the model of text that reads it.
    """

    projector: str | None
    picture: int | None
    patch: int | None
    layers: int | None
    hidden: int | None
    text_hidden: int | None

    @property
    def state_bytes(self) -> int:
        """Of the states of one picture while it is read, about; 0 where the file does not say."""
        if not (self.picture and self.patch and self.hidden):
            return 0
        return (self.picture // self.patch) ** 2 * self.hidden * 4 * _STATES

    def words(self) -> str:
        """`gemma3, pictures of 896 × 896 in patches of 14, 27 layers of 1,152 values`."""
        parts = [self.projector or "of a kind that the file does not name"]
        if self.picture:
            patches = f" in patches of {self.patch}" if self.patch else ""
            parts.append(f"pictures of {self.picture} × {self.picture}{patches}")
        if self.layers:
            values = f" of {self.hidden:,} values" if self.hidden else ""
            parts.append(f"{self.layers} layers{values}")
        return ", ".join(parts)

    def purpose(self, given: str) -> str:
        """What can be done with it.

        Args:
            given: The file, as the user named it.
        """
        width = f"{self.text_hidden:,} values" if self.text_hidden else "as many values"
        return (
            f"a vision tower alone: llama.cpp reads it beside a model of text with {width} a token "
            f"(llama-server -m MODEL.gguf --mmproj {given}); kanna verify SRC {given} holds it to "
            "the checkpoint, and kanna convert SRC --mmproj --encoding writes it in other bits"
        )


def stored(metadata: Mapping[str, MetaValue]) -> StoredTower | None:
    """The tower of a GGUF; None where it holds none.

    Args:
        metadata: Of the file, unchecked.
    """

    def value(key: str) -> object:
        return metadata[key].value if key in metadata else None

    def size(key: str) -> int | None:
        return whole().convert(value(f"clip.vision.{key}"))

    if value("general.architecture") != ARCH:
        return None
    named = (text(64).convert(value(f"clip.{key}projector_type")) for key in ("", "vision."))
    return StoredTower(
        projector=next(filter(None, named), None),
        picture=size("image_size"),
        patch=size("patch_size"),
        layers=size("block_count"),
        hidden=size("embedding_length"),
        text_hidden=size("projection_dim"),
    )
