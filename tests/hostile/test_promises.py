"""docs/security.md promises what tests hold: each test it names is there."""

from __future__ import annotations

import asyncio
import hmac
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kanna.chat_templates import environment, pool, worker
from kanna.fleet import access
from kanna.formats import computed_sizes
from kanna.serving import body_worker, connections, large_bodies, requests, watchdog
from kanna.serving.constraints import checker, trial_child
from kanna.serving.engines import _http_server
from kanna.serving.guard import store
from kanna.serving.settings import GatewayLimits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
}


def _rows() -> list[list[str]]:
    """The rows of all tables that say which test holds them, without their heads."""
    tables = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    kept = [t.splitlines() for t in tables if re.search(r"\| (?:held by|test) \|\n", t)]
    assert len(kept) == 2
    return [[c.strip() for c in row.strip("| ").split(" | ")] for t in kept for row in t[2:]]


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0][:60])
def test_a_promise_names_tests_that_exist(row: list[str]) -> None:
    named = re.findall(r"`(tests?[_/][^`]+)`", row[-1])
    assert named, f"no test holds: {row[0]}"
    for name in named:
        assert name in TESTS or (ROOT / name).is_file(), f"{name} is no test"


def test_references_are_numbers_as_they_are_given() -> None:
    published = [row[1] for row in _rows() if len(row) == 4]
    assert len(published) >= 28
    one = r"CVE-20\d\d-\d{4,6}|GHSA(-[0-9a-z]{4}){3}|GO-20\d\d-\d{4}"
    for references in published:
        for reference in re.sub(r" \([^)]*\)", "", references).split(", "):
            assert re.fullmatch(one, reference), reference


@pytest.mark.parametrize("program", ["llama.cpp", "Ollama", "vLLM", "MLflow", "Triton"])
def test_each_program_has_its_classes(program: str) -> None:
    assert [row for row in _rows() if len(row) == 4 and program in row[1]]


@pytest.mark.parametrize("option", ["n_discard", "n_keep", "id_slot", "n_cmpl"])
def test_no_request_sets_an_option_of_the_engine_s_own(option: str) -> None:
    body = {"model": "m", "prompt": "a", option: -5}
    assert option not in requests.check(requests.Completion, body)


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    limits = GatewayLimits()
    depth = importlib.import_module("kanna.serving.requests.check").MAX_DEPTH
    numbers = {
        f"bodies end at {limits.body >> 20} MiB and after {limits.header_time:.0f} s": 1,
        f"answers after {limits.request_time / 60:.0f} minutes": 1,
        f"streams that stand still after {limits.idle_time / 60:.0f}": 1,
        f"what stays unread for {limits.stall_time:.0f} s": 1,
        f"| {limits.connections}; more get 503": 1,
        f"heads end at {connections._MAX_HEAD >> 10} KiB and {connections._MAX_HEADERS} headers": 2,
        f"over {large_bodies.LARGE >> 10} KiB it is parsed": 1,
        f"at most {body_worker.MAX_VALUES:,} values, {body_worker.MAX_CONTAINERS:,} objects and "
        f"lists, {depth} in each other": 1,
        f"within {pool.SECONDS:.0f} s of computing, {environment.MAX_STEPS:,} steps, "
        f"{worker.MEMORY >> 20} MB": 1,
        f"in a process with {trial_child.TRIAL_TIME:.0f} s and "
        f"{trial_child.TRIAL_MEMORY >> 30} GiB": 1,
        f"({watchdog._LEAST:.0f} s and four of its largest batches)": 1,
        f"stands still for {watchdog._STALLED_START:.0f} s while it starts": 1,
        f"{connections._MAX_TINY:,} chunks under {connections._TINY} bytes": 1,
        f"verdicts are kept in memory, {checker._MAX_KNOWN:,} of them": 1,
        f"may have {computed_sizes.MOST_OF_SMALL >> 30} GiB and "
        f"{computed_sizes._MOST_TIMES} times": 1,
    }
    assert watchdog._PATIENCE == 4
    for text, least in numbers.items():
        assert PAGE.count(text) >= least, f"docs/security.md does not say {text!r}"


def _of_gateway() -> None:
    assert store.matching("kanna-ab-cd", None) is None


def _of_fleet() -> None:
    nobody: Any = SimpleNamespace(device_of_key=lambda key: None, key=lambda key: None)
    assert access.KeyBook(nobody).visitor("kanna-ab-cd") is None


def _of_engine() -> None:
    async def handler(body: Any, request: Any) -> Any:
        raise AssertionError("it has no key")

    request: Any = SimpleNamespace(headers={"authorization": "Bearer b"})
    answer = asyncio.run(_http_server._guarded(handler, "a")(request))
    assert answer.status == 401


@pytest.mark.parametrize("asked", [_of_gateway, _of_fleet, _of_engine])
def test_keys_are_compared_in_constant_time(
    asked: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare(one: Any, other: Any, same: Any = hmac.compare_digest) -> bool:
        compared.append((one, other))
        return same(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    asked()
    [(one, other)] = compared
    assert one and other, "also for a key that is not known"
