"""Optimization of OpenVINO folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.optimizing import quick

from kanna import formats, optimize
from kanna.generation import close

for _package in ("openvino", "openvino_tokenizers", "torch"):
    pytest.importorskip(_package)


def test_a_budget_is_filled_with_both_widths(llama: Path, text: Path, tmp_path: Path) -> None:
    with quick():
        result = optimize(
            llama,
            tmp_path / "out",
            format="openvino",
            bpw=7.5,
            calibration=[text],
            tokens=1024,
            effort="fast",
            text=text,
            windows=2,
            threads=1,
        )
    close()
    assert result.gate == "proved" and result.file_bytes <= result.budget
    files = Path(result.artefact).glob("openvino_model.*")
    assert sum(p.stat().st_size for p in files) == result.file_bytes
    assert formats.of(result.artefact).name == "openvino"
    kinds = {name.partition(":")[0] for name in result.encodings}
    assert any(k.startswith("nbits4") for k in kinds), kinds
