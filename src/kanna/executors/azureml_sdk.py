"""Azure's SDK, without what it logs of itself."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

EXTRA = "azureml"


def sdk() -> Any:
    """The SDK, which is loaded for seconds; it warns of classes of its own that are experiments."""
    with hushed():
        return importlib.import_module("azure.ai.ml")


@contextmanager
def hushed() -> Generator[None]:
    """Leave the libraries' own log aside: what they raise is told, and by us."""
    loggers = [
        logging.getLogger(name)
        for name in ("azure", *logging.root.manager.loggerDict)
        if name.partition(".")[0] in ("azure", "msal")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
