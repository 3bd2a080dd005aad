"""What was imported by an earlier name still is."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

FORMER = """
import warnings, importlib
warnings.simplefilter("ignore")
limits = importlib.import_module("kanna.serve.guard.limits")
from kanna.serving.guard.limits import RateLimiter
assert limits.Limiter is RateLimiter
import kanna
from kanna.serving import serve
assert kanna.serve is serve
"""


def test_modules_of_the_gateway_have_their_former_names() -> None:
    subprocess.run([sys.executable, "-c", FORMER], check=True)


@pytest.mark.filterwarnings("ignore:kanna.serve is")
def test_a_module_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        importlib.import_module("kanna.serve.nowhere")
