"""Addresses that people type, in parts."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def parts_of(address: str) -> SplitResult | None:
    """Scheme, host, path and query; None where it can be no address, such as http://[::1."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # read only when it is asked for
    except ValueError:
        return None
    return parts
