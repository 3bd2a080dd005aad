"""A text of many kinds for the prompts on which two computations of a model are compared."""

from __future__ import annotations

TEXT = (
    "The hand plane is an old tool with a simple idea: a blade held at a fixed angle takes "
    "the same thin shaving from every place that stands too high, and leaves what is low "
    "alone. A joiner who wants a flat board does not look at the board as a whole. She works "
    "along the grain, listens to the iron, and stops when the sound is even. In 1861 a "
    "carpenter in Kyoto wrote down what his master had told him about wood: it moves with "
    "the seasons, it remembers the wind, and it forgives nobody who is in a hurry. Water "
    "boils at 100 degrees Celsius at sea level; the capital of Japan is Tokyo, and before it "
    "was called Tokyo, the city was called Edo. def shave(board, depth):\n"
    "    return [max(0, height - depth) for height in board]\n"
    "\n"
    "Es war einmal ein Tischler, der hatte drei Söhne. 木を見て森を見ず。 Quien mucho abarca, poco "
    "aprieta. "
)
