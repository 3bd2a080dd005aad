"""Vision towers: what a part that sees is called in Hugging Face and in llama.cpp's mmproj.

One data file per tower; `load(source)` gives the tower of a checkpoint as a Model.
"""

from kanna.families.towers.loading import LoadedTower, load, memory_bytes, names, rounding
from kanna.families.towers.stored import ARCH, StoredTower, stored

__all__ = [
    "ARCH",
    "LoadedTower",
    "StoredTower",
    "load",
    "memory_bytes",
    "names",
    "rounding",
    "stored",
]
