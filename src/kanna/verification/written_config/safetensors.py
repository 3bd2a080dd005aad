"""What transformers makes of the config.json that is written."""

from __future__ import annotations

from kanna.conversion.base import WrittenArtefact
from kanna.verification.written_config.computation import Computation
from kanna.verification.written_config.readings import read_by_library


def read(written: WrittenArtefact) -> Computation | str:
    """The computation of the library that runs such folders."""
    return read_by_library(written.config)


READER = read
