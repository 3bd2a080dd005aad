"""How far every encoding is from what information theory allows.

The rate–distortion bound of a Gaussian source.

    python -m benchmarks.gguf.rate_distortion --figure docs/figures/bound.svg

Independent normal weights, unit importance: no encoding at R bits per weight can have a mean
squared error below 2^(-2R) (Cover & Thomas, Elements of Information Theory, 10.3.2). `left` is how
many bits per weight a perfect encoder would need less for the same error. Trained weights are no
independent Gaussian, and error feedback uses what the bound does not know of; the table compares
formats, not models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from benchmarks.common import arguments, tables

from kanna import encodings

ROWS, COLUMNS, SEED = 512, 4096, 20261125


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--figure", type=Path, help="SVG to draw")
    options = parser.parse_args()
    x = np.random.default_rng(SEED).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    rows: list[dict[str, object]] = []
    for name in encodings.names():
        encoding = encodings.get(name)
        if encoding.block == 1 or encoding.encoder is None or encoding.decoder is None:
            continue
        ones = np.ones(COLUMNS, np.float32)
        data = encoding.encode(x, method="search", weights=ones, threads=2)
        error = float(np.mean((encoding.decode(data, COLUMNS) - x) ** 2, dtype=np.float64))
        bound = 2 ** (-2 * encoding.bits)
        rows.append(
            {
                "encoding": name,
                "bits": encoding.bits,
                "error": error,
                "bound": bound,
                "dB over the bound": 10 * np.log10(error / bound),
                "left, bits": encoding.bits + 0.5 * np.log2(error),
            }
        )
    rows.sort(key=lambda row: (row["bits"], row["error"]))  # pyright: ignore[reportArgumentType]
    tables.print_rows(rows, options.json)
    if options.figure:
        draw(rows, options.figure)


def draw(rows: list[dict[str, object]], out: Path) -> None:
    """Signal to noise over bits, with the bound as a line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "kanna"
    figure, axes = pyplot.subplots(figsize=(9, 6))
    bits = np.array([float(row["bits"]) for row in rows])  # pyright: ignore[reportArgumentType]
    noise = np.array([-10 * np.log10(float(row["error"])) for row in rows])  # pyright: ignore[reportArgumentType]
    line = np.linspace(0.8, 9, 50)
    axes.plot(
        line,
        20 * np.log10(2) * line,
        color="#b5482f",
        label="Gaussian rate–distortion bound, 6.02 dB per bit",
    )
    axes.scatter(bits, noise, s=22, color="#2f6db5", zorder=3)
    for index, row in enumerate(rows):
        # Neighbours in bits have their names on alternating sides.
        side = (5, -10) if index % 2 else (-5, 6)
        axes.annotate(
            str(row["encoding"]),
            (bits[index], noise[index]),
            xytext=side,
            textcoords="offset points",
            fontsize=7,
            ha="left" if index % 2 else "right",
        )
    axes.set(
        xlabel="bits per weight",
        ylabel="signal to noise, dB",
        title="What is left below every encoding",
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None, "Creator": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
