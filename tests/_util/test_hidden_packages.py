"""Packages that a process has no use for stay out of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kanna._util.hidden_packages import left_out

CHILD = """
import sys
from kanna.packaging import bom
bom.validate('{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}')
print([name for name in ("lark", "arrow") if name in sys.modules])
import rfc3987_syntax
"""


def test_a_package_is_absent_for_a_while() -> None:
    sys.modules.pop("colorsys", None)
    with left_out("colorsys"), pytest.raises(ImportError):
        import colorsys
    import colorsys

    with left_out("colorsys"):
        assert sys.modules["colorsys"] is colorsys, "what is loaded stays"


def test_the_bill_of_materials_compiles_no_grammar() -> None:
    run = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
