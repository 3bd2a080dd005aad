"""A search of swaps that has nothing left to try is known to have ended."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kanna._util.progress import Silent
from kanna.optimization.local_search import LocalSearch, SearchState


class Dull(LocalSearch):
    """A search whose moves give no plan that was not tried before."""

    def __init__(self, file: Path) -> None:
        self.state = SearchState(key="k", queue=[("ffn_up", 1.6)], encodings={}, scores=[0.1])
        self._states, self._file = {}, file
        context: Any = SimpleNamespace(progress=Silent())
        adapter: Any = SimpleNamespace(workspace=SimpleNamespace(context=context))
        self._adapter = adapter

    def _try(self, *_: object) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.state.queue = []
        return False


def test_a_search_with_nothing_left_is_known_to_have_ended(tmp_path: Path) -> None:
    """A later run takes up what was corrected after it."""
    search = Dull(tmp_path / "swaps.json")
    scorer: Any = SimpleNamespace(read=lambda: None)
    nothing: Any = None
    search._run(scorer, nothing, 9)  # pyright: ignore[reportPrivateUsage]
    assert json.loads((tmp_path / "swaps.json").read_text())["k"]["queue"] == []
    assert search.finished(9)
    search.state.gained = True
    assert not search.finished(9), "one more round"
