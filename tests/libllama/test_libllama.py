"""llama.cpp's library: which build is used, and that another one than kanna knows is refused."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs

from kanna import encodings, libllama
from kanna.encodings import _ggml
from kanna.errors import MissingError, UsageError
from kanna.libllama import NATIVE, PREBUILT, Build, builds, interface
from kanna.libllama.structures import ANY, LAYOUTS
from kanna.runtimes.llamacpp import RUNTIME

HERE = [build for build in (PREBUILT, NATIVE) if build.folder is not None]


@pytest.fixture(scope="module", autouse=True)
def _llama_cpp_is_here() -> None:
    needs.llama_cpp()


@pytest.mark.parametrize(
    ("choice", "native", "prebuilt", "names"),
    [
        ("", True, True, ["native", "prebuilt"]),
        ("auto", False, True, ["prebuilt"]),
        ("auto", True, False, ["native", "prebuilt"]),
        ("prebuilt", True, True, ["prebuilt"]),
        (" Native ", True, True, ["native"]),
        ("native", False, True, ["native"]),
    ],
)
def test_which_builds_are_tried(
    choice: str, native: bool, prebuilt: bool, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(builds.VARIABLE, choice)
    for build, there in ((NATIVE, native), (PREBUILT, prebuilt)):
        if not there:
            monkeypatch.setitem(sys.modules, build.module, None)
        elif build.folder is None:
            pytest.skip(f"needs {build.distribution}")
    assert [build.name for build in builds.candidates()] == names


def test_another_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builds.VARIABLE, "fastest")
    with pytest.raises(UsageError, match="KANNA_LLAMACPP=fastest") as caught:
        libllama.library()
    assert "prebuilt" in caught.value.expected and "native" in caught.value.expected


def test_what_is_asked_for_and_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NATIVE.module, None)
    monkeypatch.setenv(builds.VARIABLE, "native")
    with pytest.raises(MissingError, match="not installed") as caught:
        libllama.library()
    assert "llama-cpp-python" in caught.value.todo
    state = RUNTIME.available()
    assert not state.ok and "llama-cpp-python" in state.how_to_install


def test_a_native_build_that_does_not_load_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The prebuilt one is used, and `kanna doctor` says why."""
    (tmp_path / "llama_cpp" / "lib").mkdir(parents=True)
    (tmp_path / "llama_cpp" / "__init__.py").touch()
    (tmp_path / "llama_cpp" / "lib" / "libllama.so").write_bytes(b"not a library")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setenv(builds.VARIABLE, "auto")
    used = libllama.library()
    assert used.build.name == "prebuilt" and "does not load" in used.passed_over
    assert "passed over" in RUNTIME.available().remark


@pytest.mark.parametrize("build", HERE, ids=lambda build: build.name)
def test_a_build_fits_one_state_of_the_header(build: Build) -> None:
    loaded = ctypes.CDLL(str(build.library()))
    problems = [interface.mismatch(loaded, layout) for layout in LAYOUTS]
    assert problems.count("") == 1
    assert all("params" in problem for problem in problems if problem)


@pytest.mark.parametrize("build", HERE, ids=lambda build: build.name)
def test_an_unknown_header_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the next version moved a field: the field is named, and what to install."""
    loaded = ctypes.CDLL(str(build.library()))
    others = tuple(layout for layout in LAYOUTS if interface.mismatch(loaded, layout))
    monkeypatch.setattr(interface, "LAYOUTS", others)
    with pytest.raises(MissingError, match="parameter structures") as caught:
        interface.fitting_layout(build, loaded)
    assert build.version in caught.value.found and "pip install" in caught.value.todo


@pytest.mark.parametrize("build", HERE, ids=lambda build: build.name)
def test_values_alone_tell_headers_apart(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors where the bytes that are written cannot be counted."""
    monkeypatch.setattr(interface, "written_bytes", lambda _: None)
    loaded = ctypes.CDLL(str(build.library()))
    assert [interface.mismatch(loaded, layout) for layout in LAYOUTS].count("") == 1


@pytest.mark.parametrize("build", HERE, ids=lambda build: build.name)
def test_defaults_are_the_headers(build: Build) -> None:
    loaded = libllama.load(build)
    layout = loaded.layout
    for values, fields in (
        (loaded.functions.llama_model_default_params(), layout.model_fields),
        (loaded.functions.llama_context_default_params(), layout.context_fields),
    ):
        assert {name: getattr(values, name) for name, _, v in fields if v is not ANY} == {
            name: v for name, _, v in fields if v is not ANY
        }


@pytest.mark.skipif(len(HERE) < 2, reason="needs llama-cpp-python beside the prebuilt build")
def test_builds_encode_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((8, 512), np.float32)
    made: dict[str, list[Any]] = {}
    for choice in ("prebuilt", "native"):
        monkeypatch.setenv(builds.VARIABLE, choice)
        assert libllama.library().build.name == choice
        names = ("q4_0", "q5_k", "q8_0", "tq2_0", "mxfp4")
        made[choice] = [_ggml.quantize(encodings.get(name), x, None) for name in names]
    for a, b in zip(made["prebuilt"], made["native"], strict=True):
        assert np.array_equal(a, b)
