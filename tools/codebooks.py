"""Writes native/include/kanna/codebooks.hpp.

Vectors that codes of IQ1, IQ2 and IQ3 stand for, from package gguf.
"""

from __future__ import annotations

from pathlib import Path

from gguf import quants

OUT = Path(__file__).parents[1] / "native" / "include" / "kanna" / "codebooks.hpp"
BOOKS = {
    "iq1": "IQ1_S",
    "iq2_xxs": "IQ2_XXS",
    "iq2_xs": "IQ2_XS",
    "iq2_s": "IQ2_S",
    "iq3_xxs": "IQ3_XXS",
    "iq3_s": "IQ3_S",
}
HEAD = """\
// Codebooks of IQ1, IQ2 and IQ3, as ggml has them (ggml-common.h). Written by tools/codebooks.py.
//
// An entry is a vector of levels, first value in the lowest bits: eight of two bits, or \
four of three bits.
#pragma once

#include <cstdint>

namespace kanna {
"""


def book(name: str, label: str) -> str:
    grid = getattr(quants, label)
    grid.init_grid()
    levels = list(grid.grid_map)
    bits = 2 if len(levels) == 3 else 3
    entries = [
        sum(levels.index(int(value)) << (bits * i) for i, value in enumerate(row))
        for row in grid.grid.reshape(grid.grid_shape)
    ]
    lines = [
        ", ".join(f"{e:#06x}" for e in entries[i : i + 14]) for i in range(0, len(entries), 14)
    ]
    return (
        f"\nconstexpr uint16_t book_{name}[{len(entries)}] = {{\n    "
        + ",\n    ".join(lines)
        + "};\n"
    )


def main() -> None:
    OUT.write_text(HEAD + "".join(book(*b) for b in BOOKS.items()) + "\n}  // namespace kanna\n")


if __name__ == "__main__":
    main()
