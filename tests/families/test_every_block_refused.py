"""Blocks that contradict their config, in every family that has them; from headers alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from families.test_families_checks import fatal, make_source

from kanna import families
from kanna.errors import KannaError

ROUTER = re.compile(r"(mlp|feed_forward|mixer|block_sparse_moe)\.(gate|router)(\.layer)?\.weight$")
EXPERTS = re.compile(r"\.experts\.|\.(input|output)_linear\.")
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
KINDS = ("layer_types", "layers_block_type")
ROUTED = (
    *("gpt_oss", "granitehybrid", "granitemoe", "lfm2moe", "llama4", "mixtral"),
    *("nemotron_h_moe", "olmoe", "qwen2moe", "qwen35moe", "qwen3moe", "qwen3vlmoe"),
)
"""Families with experts."""
OF_KINDS = (
    *("exaone4", "gemma3n", "gemma4", "gpt_oss", "granite4", "granitehybrid", "lfm2", "lfm2moe"),
    *("nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe"),
)
"""Families whose config.json says the kind of every layer."""


def made(name: str, folder: Path) -> Any:
    source = make_source(name, folder)
    assert not fatal(source), name
    return source


def said(source: Any) -> str:
    """All that is said against a source."""
    try:
        if problems := fatal(source):
            return " ".join(f"{p.found} {p.expected} {p.todo}" for p in problems)
        families.load_model(source)
        return ""
    except KannaError as error:
        return f"{error} {error.expected}"


def count_of(name: str) -> str:
    """The key with the number of experts."""
    return next(key for key in COUNTS if key in families.get(name).defaults)


def kinds_of(name: str, source: Any) -> str:
    """The key with the kinds of layers."""
    return next((key for key in KINDS if key in source.config), KINDS[0])


def test_every_family_with_the_block_is_here(tmp_path: Path) -> None:
    for name in families.names():
        folder = tmp_path / name
        folder.mkdir()
        tensors = make_source(name, folder).tensors
        routed = any(ROUTER.search(t) for t in tensors) and any(EXPERTS.search(t) for t in tensors)
        assert routed == (name in ROUTED), name


@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize("count", [3, 5, -1, 0, "four", 2.5, 1 << 40])
def test_a_count_of_experts_that_lies(name: str, count: Any, tmp_path: Path) -> None:
    source = made(name, tmp_path)
    source.config[count_of(name)] = count
    assert said(source), name


@pytest.mark.parametrize("name", ROUTED)
def test_a_router_that_is_absent(name: str, tmp_path: Path) -> None:
    source = made(name, tmp_path)
    router = next(n for n in source.tensors if ROUTER.search(n))
    del source.tensors[router]
    assert router in said(source)


@pytest.mark.parametrize("name", ROUTED)
def test_experts_that_are_absent_or_of_another_shape(name: str, tmp_path: Path) -> None:
    source = made(name, tmp_path)
    expert = next(n for n in source.tensors if EXPERTS.search(n))
    before = source.tensors[expert].shape
    source.tensors[expert].shape = (*before[:-1], before[-1] + 1)
    assert said(source), expert
    del source.tensors[expert]
    assert said(source), expert


@pytest.mark.parametrize("name", OF_KINDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda kinds: kinds[:-1],
        lambda kinds: [*kinds, kinds[0]],
        lambda kinds: ["a kind of its own"] * len(kinds),
        lambda kinds: [3] * len(kinds),
        lambda _: "full_attention",
    ],
    ids=["too few", "too many", "unknown", "numbers", "a word"],
)
def test_kinds_of_layers_that_are_wrong(name: str, change: Any, tmp_path: Path) -> None:
    source = made(name, tmp_path)
    key = kinds_of(name, source)
    kinds = source.config.get(key) or ["full_attention"] * int(source.config["num_hidden_layers"])
    source.config[key] = change(kinds)
    assert said(source), name
