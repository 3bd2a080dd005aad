"""Times of products with single matrices that take turns, in a process of its own.

`python -m kanna.benchmark.costs.product_child '{"format": "onnx", …}'` prints one JSON object.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kanna._util.processes import answer

_SECONDS = 0.02
"""Of a round at least."""
_COPIES = 160
"""Of a matrix at most, which a graph is made of."""
_READ = (64, 0.4)
"""Tokens that are read at once, or fewer where they would take more seconds."""
_PATIENCE = 0.5
"""Seconds after which a product is not timed again."""


@dataclass(slots=True, kw_only=True)
class Product:
    """A product with what it took.

    Attributes:
        run: Multiplies so many tokens.
        weights: That a token is multiplied with.
        token: Seconds per weight of one token by round: on the wall, of the processors.
        prompt: The same of one of many tokens.
        spent: Seconds of all rounds.
    """

    run: Callable[[int], object]
    weights: int
    token: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    prompt: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    spent: float = 0.0

    def time(self, tokens: int, times: int) -> tuple[float, float]:
        """Seconds per token and weight."""
        wall, own = time.perf_counter(), time.process_time()
        for _ in range(times):
            self.run(tokens)
        both = time.perf_counter() - wall, time.process_time() - own
        self.spent += both[0]
        each = times * tokens * self.weights
        return both[0] / each, both[1] / each


def measure(
    format: str,
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    *,
    weights: int,
    rounds: int,
    threads: int,
) -> dict[str, Any]:
    """Seconds per weight by encoding and shape.

    Args:
        format: Whose runtime multiplies.
        names: Encodings, which take turns.
        shapes: Rows and columns of matrices.
        weights: That are multiplied in a round, about: so many are in the cache at a time, or are
            not, as of the whole model.
        rounds: Every second one goes backwards.
        threads: Threads to use.
    """
    from kanna import formats, runtimes
    from kanna.benchmark.child import confine
    from kanna.benchmark.costs import get
    from kanna.benchmark.costs.products import ProductCosts

    runtime, costs = runtimes.get(formats.get(format).runtime), get(format)
    assert isinstance(costs, ProductCosts), format
    if not runtime.has_thread_setting:
        confine(threads)
    runtime.load()
    times: list[list[dict[str, Any]]] = [[] for _ in names]
    for all_rows, cols in shapes:
        rows = min(all_rows, max(1, weights // cols))
        copies = max(1, min(_COPIES, -(-weights // (rows * cols))))
        products = [
            Product(
                run=costs.multiplier(name, rows, cols, copies=copies, threads=threads),
                weights=copies * rows * cols,
            )
            for name in names
        ]
        take_turns(products, rounds)
        for those, product in zip(times, products, strict=True):
            those.append({"token": product.token, "prompt": product.prompt})
    return {"times": times}


def take_turns(products: Sequence[Product], rounds: int) -> None:
    """Time products of one shape: tokens one at a time, then many at once."""
    for product in products:
        product.run(1)  # what is made at the first use
    slowest = max(p.time(1, 1)[0] * p.weights for p in products)
    times = max(1, min(1000, int(_SECONDS / max(slowest, 1e-9))))
    for turn in range(rounds):
        for product in products if turn % 2 == 0 else reversed(products):
            if not product.token or product.spent < _PATIENCE:
                product.token.append(product.time(1, times))
    tokens = max(2, min(_READ[0], int(_READ[1] / max(slowest, 1e-9))))
    for _ in range(2):
        for product in products:
            product.prompt.append(product.time(tokens, 1))


if __name__ == "__main__":
    sys.exit(answer(measure))
