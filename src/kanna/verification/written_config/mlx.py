"""What mlx-lm makes of the config.json that is written."""

from __future__ import annotations

from kanna.conversion.base import WrittenArtefact
from kanna.verification.written_config.computation import Computation
from kanna.verification.written_config.readings import read as ask

_IGNORED = ("quantization", "quantization_config")


def read(written: WrittenArtefact) -> Computation | str:
    """The computation of mlx-lm's own model, made without memory for weights."""
    config = {k: v for k, v in written.config.items() if k not in _IGNORED}
    return ask("kanna.verification.written_config.mlx_worker", config, ["mlx", "mlx-lm"])


READER = read
