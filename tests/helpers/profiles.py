"""Profiles of devices and of execution providers, as a user would write them."""

from __future__ import annotations

import copy
from typing import Any


def known(value: object) -> dict[str, object]:
    """A figure with where it is from."""
    return {"value": value, "basis": "measured", "source": "my desk"}


def changed(profile: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A profile with one value changed, or taken out where it is None."""
    profile = copy.deepcopy(profile)
    *above, last = path.split("/")
    part = profile
    for key in above:
        part = part[key]
    part[last] = value
    if value is None:
        del part[last]
    return profile
