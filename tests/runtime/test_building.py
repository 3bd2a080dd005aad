"""What builds llama.cpp: its source, cmake and ninja, and whatever ends them early."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from helpers import needs
from helpers.disturbances import small_disk

from kanna import runtime
from kanna._util.digest import sha256
from kanna._util.progress import Silent
from kanna.errors import FormatError, KannaError, MissingError, OutputError
from kanna.libllama import installed
from kanna.runtime import building, source

LIBRARY = "libllama.so"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of libraries of Linux")


CMAKE = """cmake_minimum_required(VERSION 3.15)
project(llama C)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama SHARED src/llama.c)
add_library(ggml-cpu MODULE ggml/cpu.c)
"""


def sources(folder: Path, text: str = "int llama_version(void) { return 1; }\n") -> Path:
    """A folder that is built as llama.cpp is, and is another library."""
    for place in ("src", "ggml"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "CMakeLists.txt").write_text(CMAKE)
    (folder / "src" / "llama.c").write_text(text)
    (folder / "ggml" / "cpu.c").write_text("int cpu;\n")
    return folder


def test_what_is_another_library_is_not_installed(cache: Path, tmp_path: Path) -> None:
    """It compiles, its interface is not llama.cpp's, and nothing gets a name."""
    needs.program("cmake", install="cmake")
    needs.program("ninja", install="ninja")
    needs.program("cc", install="gcc")
    folder = sources(tmp_path / "source", text="int llama_version(void) { return 1 }\n")
    with pytest.raises(KannaError, match=r"does not compile: .*error") as caught:
        runtime.install(source=folder, progress=Silent())
    assert "ninja" in caught.value.todo
    sources(folder)
    with pytest.raises(KannaError, match="is not usable: .*llama_model_default_params"):
        runtime.install(source=folder, progress=Silent())
    assert installed.names() == []
    assert not [p for p in installed.home().iterdir() if p.name.endswith(".partial")]


def test_a_full_disk_ends_a_build_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiles is right, so nothing is said of the source."""
    needs.program("cmake", install="cmake")
    needs.program("ninja", install="ninja")
    needs.program("cc", install="gcc")
    folder = sources(tmp_path / "source", text="char large[16 << 20] = {1};\n")
    with small_disk(tmp_path / "small", "4m") as small:
        monkeypatch.setenv("KANNA_CACHE", str(small / "cache"))
        with pytest.raises(OutputError, match="the disk of .* is full") as caught:
            runtime.install(source=folder, progress=Silent())
        assert "KANNA_CACHE" in caught.value.todo and installed.names() == []


def _hear_ctrl_c() -> None:
    """A shell that runs the tests in its background has all that they start ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_build_ends_with_who_asked_for_it(
    by: signal.Signals, cache: Path, tmp_path: Path
) -> None:
    """A compiler that went on alone would write where the next run builds; which goes on."""
    needs.program("cmake", install="cmake")
    needs.program("ninja", install="ninja")
    needs.program("cc", install="gcc")
    folder = sources(tmp_path / "source")
    begun = tmp_path / "begun"
    slow = f"add_custom_command(OUTPUT slow.c COMMAND touch {begun} COMMAND sleep 120)\n"
    slow += "add_library(slow SHARED slow.c)\n"
    (folder / "CMakeLists.txt").write_text(CMAKE + slow + "add_dependencies(llama slow)\n")
    install = [sys.executable, "-m", "kanna", "runtime", "install", "llamacpp"]
    command = [*install, "--source", str(folder), "--quiet"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=_hear_ctrl_c)
    while child.poll() is None and not begun.exists():
        time.sleep(0.1)
    below = psutil.Process(child.pid).children(recursive=True)
    assert len(below) > 1
    child.send_signal(by)
    _, printed = child.communicate(timeout=60)
    assert child.returncode == (130 if by == signal.SIGINT else -by)
    assert (b"the next install goes on from here" in printed) == (by == signal.SIGINT)
    assert not psutil.wait_procs(below, timeout=30)[1]
    assert installed.names() == []
    # The same command goes on; what is built here is another library, which is told last.
    sources(folder)
    with pytest.raises(KannaError, match="is not usable"):
        runtime.install(source=folder, progress=Silent())


def test_headers_are_looked_for_again(tmp_path: Path) -> None:
    """Who was told that they are too old installs others; cmake would have kept the old ones."""
    needs.program("cmake", install="cmake")
    needs.program("ninja", install="ninja")
    needs.program("cc", install="gcc")
    folder = sources(tmp_path / "source")
    look = "find_path(HEADERS own.h PATHS $ENV{KANNA_TEST_HEADERS} NO_DEFAULT_PATH)\n"
    (folder / "CMakeLists.txt").write_text(CMAKE + look + 'message(STATUS "at ${HEADERS}")\n')
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.h").touch()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KANNA_TEST_HEADERS", str(tmp_path / name))
            settings = building.options("cpu", native=False, folder=tmp_path / "build")
            building.build(folder, tmp_path / "build", "cpu", settings, 1, Silent())
        cached = (tmp_path / "build" / "CMakeCache.txt").read_text()
        assert f"HEADERS:PATH={tmp_path / name}" in cached


def test_one_standard_library_serves_all_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked into each, one library's stream comes to the locale of another and crashes."""
    needs.program("cmake", install="cmake")
    needs.program("ninja", install="ninja")
    needs.program("c++", install="g++")
    monkeypatch.setenv("LDFLAGS", "-static-libstdc++ -Wl,-z,now")
    folder = sources(tmp_path / "source")
    text = CMAKE.replace("(llama C)", "(llama C CXX)").replace("src/llama.c", "src/llama.cpp")
    (folder / "CMakeLists.txt").write_text(text)
    (folder / "src" / "llama.cpp").write_text(
        "#include <sstream>\nint length(int v) { std::ostringstream s; s << v; "
        "return (int)s.str().size(); }\n"
    )
    build = tmp_path / "build"
    settings = building.options("cpu", native=False, folder=build)
    made = building.build(folder, build, "cpu", settings, jobs=1, progress=Silent())
    assert b"libstdc++.so.6" in next(p for p in made if p.name == LIBRARY).read_bytes()
    assert any("-z,now" in setting for setting in settings)


def archive(path: Path, names: dict[str, bytes]) -> Path:
    """An archive with these files."""
    with tarfile.open(path, "w:gz") as made:
        for name, data in names.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            made.addfile(about, io.BytesIO(data))
    return path


def test_only_what_is_built_is_unpacked(tmp_path: Path) -> None:
    """The package has a CMakeLists.txt of its own, and git's records of llama.cpp's folder."""
    top = "llama_cpp_python-9.8"
    inside = f"{top}/vendor/llama.cpp"
    whole = {
        f"{top}/.git/modules/vendor/llama.cpp/HEAD": b"",
        f"{top}/CMakeLists.txt": b"another",
        f"{inside}/CMakeLists.txt": b"x",
        f"{inside}/ggml/CMakeLists.txt": b"",
        f"{inside}/ggml/a.c": b"y",
    }
    path = archive(
        tmp_path / f"{top}.tar.gz",
        {**whole, f"{inside}/models/big.gguf": b"z", f"{top}/setup.py": b""},
    )
    with source.located(path, Silent()) as given:
        assert given.version == "9.8" and given.sha256 == sha256(path)
        assert source.unpack(given, tmp_path / "out", Silent()) == "9.8"
    here = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("out/**/*"))
    assert here == ["CMakeLists.txt", "ggml", "ggml/CMakeLists.txt", "ggml/a.c"]
    assert (tmp_path / "out" / "CMakeLists.txt").read_bytes() == b"x"


def test_llama_cpps_own_archive_is_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "b.tar.gz", {"b/ggml/CMakeLists.txt": b"", "b/CMakeLists.txt": b"x"})
    with source.located(path, Silent()) as given:
        source.unpack(given, tmp_path / "out", Silent())
    assert (tmp_path / "out" / "CMakeLists.txt").read_bytes() == b"x"


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    """Not as a damaged archive; what is half unpacked goes again."""
    noise = random.Random(0).randbytes(2 << 20)
    path = archive(tmp_path / "b.tar.gz", {"b/CMakeLists.txt": b"x", "b/ggml/a.c": noise})
    with small_disk(tmp_path / "small", "1m") as small, source.located(path, Silent()) as given:
        with pytest.raises(OutputError, match=r"the disk of .*ggml/a\.c is full"):
            source.unpack(given, small / "out", Silent())
        assert not list(small.iterdir())


@pytest.mark.parametrize("fault", ["leaves", "cut", "changed", "another"])
def test_a_wrong_archive_is_refused(fault: str, tmp_path: Path) -> None:
    inside = "llama_cpp_python-9.8/vendor/llama.cpp"
    names = {f"{inside}/CMakeLists.txt": b"x" * 9999, f"{inside}/ggml/a.c": b"y"}
    if fault == "leaves":
        names[f"{inside}/ggml/../../../../out.c"] = b"z"
    if fault == "another":
        names = {"numpy-2/setup.py": b""}
    path = archive(tmp_path / "archive.tar.gz", names)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    if fault == "changed":
        data = bytearray(path.read_bytes())
        data[-6] ^= 0xFF  # of the checksum at its end
        path.write_bytes(data)
    with source.located(path, Silent()) as given, pytest.raises(FormatError):
        source.unpack(given, tmp_path / "out", Silent())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    name = f"llama_cpp_python-{source.VERSION}.tar.gz"
    path = archive(tmp_path / name, {"a/CMakeLists.txt": b"", "a/ggml/CMakeLists.txt": b""})
    with (
        pytest.raises(FormatError, match=sha256(path)) as caught,
        source.located(path, Silent()),
    ):
        pass
    assert len(caught.value.expected) == 64 and "folder" in caught.value.todo


def test_headers_that_are_too_old_are_named() -> None:
    """Before the build, which takes long and then fails on a word that says nothing."""
    line = (
        '-- Found Vulkan: /usr/lib/libvulkan.so (found version "1.3.239") found components: glslc'
    )
    with pytest.raises(MissingError, match=r"vulkan here are 1\.3\.239") as caught:
        building.require_version("vulkan", [line])
    assert "1.3.272" in caught.value.expected
    building.require_version("vulkan", [line.replace("239", "275")])
