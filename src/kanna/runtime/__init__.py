"""Builds of llama.cpp for the devices of this machine, several side by side in the cache.

`install` builds one and proves that it computes on its device; `use` makes it what `generate`,
`evaluate`, `verify` and `bench` run; `list` shows what each sees; `rm` removes one.
"""

from __future__ import annotations

from kanna.runtime.choice import rm, use
from kanna.runtime.installation import install
from kanna.runtime.inventory import list

__all__ = ["install", "list", "rm", "use"]
