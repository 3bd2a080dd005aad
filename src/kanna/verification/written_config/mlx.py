"""What mlx-lm makes of the config.json that is written."""

from __future__ import annotations

from functools import partial

from kanna._util.kept_process import ask_kept
from kanna.conversion.base import WrittenArtefact
from kanna.verification.written_config.computation import Computation
from kanna.verification.written_config.readings import read as read_by

_WORKER = "kanna.verification.written_config.mlx_worker"
_IGNORED = ("quantization", "quantization_config")


def read(written: WrittenArtefact) -> Computation | str:
    """The computation of mlx-lm's own model, made without memory for weights."""
    config = {k: v for k, v in written.config.items() if k not in _IGNORED}
    return read_by(_WORKER, config, ["mlx", "mlx-lm"], partial(ask_kept, what="mlx-lm"))


READER = read
