"""nearest: largest magnitude or minimum and maximum decide the scale; codes are rounded."""

from kanna.methods.base import Method

METHOD = Method(
    name="nearest",
    summary="largest magnitude or minimum and maximum decide the scale; codes are rounded",
)
