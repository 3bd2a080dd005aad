"""`--threads` of optimize holds for torch, too, for as long as the run lasts."""

from __future__ import annotations

import pytest

from kanna.calibration.devices import torch_modules, torch_threads

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_torch_gets_as_many_threads_as_are_named() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 3):
        assert torch.get_num_threads() == before, "not before it is used"
        torch_modules()
        assert torch.get_num_threads() == before + 3
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        torch_modules()
        raise ZeroDivisionError
    with torch_threads(None):
        torch_modules()
        assert torch.get_num_threads() == before
