"""search: weighted least squares over scale and minimum; codes and scales are chosen together."""

from kanna.methods.base import Method

METHOD = Method(
    name="search",
    summary="weighted least squares over scale and minimum; codes and scales are chosen together",
)
