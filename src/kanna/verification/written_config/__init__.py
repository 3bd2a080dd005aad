"""The config that a conversion writes, against what the source's own library makes of the source's.

Rotary embeddings, sizes, epsilons, windows, soft caps: what transformers computes of the source's
config beside what the runtime of the format computes of what is written. Each module beside this
one with a READER says the latter of one format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kanna import families
from kanna._util import plugins
from kanna.conversion.base import WrittenArtefact
from kanna.errors import GateError, UnsupportedError
from kanna.sources import Source
from kanna.verification.written_config import readings
from kanna.verification.written_config.computation import Computation, compare

__all__ = ["begin", "examine"]


def begin(source: Source) -> Callable[[WrittenArtefact], list[str]]:
    """Ask transformers about the source's config, beside whatever is done until the answer is read.

    Args:
        source: What is converted.

    Returns:
        `examine` with the answer: it waits for it, and is called once.
    """
    if source.kind != "hf" or _encodes(source):
        return lambda _: []
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(lambda: readings.read_by_library(_published(source)))
    pool.shutdown(wait=False)
    return lambda written: examine(answer.result(), written)


def examine(expected: Computation | str, written: WrittenArtefact) -> list[str]:
    """What the runtime of the format computes otherwise than the source's library.

    Args:
        expected: The source's computation; why there is none.
        written: What is about to have its name.

    Returns:
        Notes for the user.

    Raises:
        GateError: Something is computed otherwise in every text.
    """
    if written.format not in plugins.names(__name__, "READER"):
        return []
    actual: Computation | str = ""
    if not isinstance(expected, str):
        actual = plugins.load(__name__, written.format, "READER")(written)
    for answer in (expected, actual):
        if isinstance(answer, str):
            return [f"rope and sizes were not compared with the source's own library: {answer}"]
    assert isinstance(expected, Computation) and isinstance(actual, Computation)
    differences = compare(expected, actual)
    if differences.wrong:
        others = f" ({len(differences.wrong) - 1} more)" if len(differences.wrong) > 1 else ""
        raise GateError(
            f"{actual.name} would compute another model of what is written than {expected.name} "
            f"of the source: {differences.wrong[0]}{others}",
            expected="the same numbers",
            todo="write another format, or report this with the config.json of the source",
        )
    return [
        f"{actual.name} computes otherwise than {expected.name}: {text}"
        for text in differences.partial[:2]
    ]


def _encodes(source: Source) -> bool:
    """Whether it is an encoder: its sizes are all shapes, and its vectors show the rest."""
    try:
        return families.family_of(source.config)[1].encodes
    except UnsupportedError:
        return False


def _published(source: Source) -> dict[str, Any]:
    """config.json as it was published; weights and how they are stored are of no interest."""
    path = source.files.get("config.json")
    config: Any = dict(source.config)
    if path is not None and not source.merged:  # new tokens are more rows than were published
        config = json.loads(path.read_text(encoding="utf-8"))
    published = {k: v for k, v in config.items() if k != "quantization_config"}
    # A model without a head has none to compare: its class with one would make one up.
    return published if families.has_head(published) else published | {"tie_word_embeddings": True}
