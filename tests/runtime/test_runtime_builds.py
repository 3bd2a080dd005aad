"""Builds of llama.cpp in the cache: listed, chosen, removed, refused; and what builds them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import needs

from kanna import libllama, runtime
from kanna._util import own_files
from kanna._util.atomic import write_json
from kanna._util.digest import sha256
from kanna._util.processes import ask
from kanna.benchmark.llama_builds import write_model
from kanna.cli.main import cli
from kanna.errors import MissingError, UsageError
from kanna.libllama import NATIVE, PREBUILT, builds, devices, installed
from kanna.libllama.installed import InstalledBuild
from kanna.offload import listing
from kanna.serving.engines import gguf as gguf_engine

LIBRARY = "libllama.so"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of libraries of Linux")


@pytest.fixture(scope="module")
def trial_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of chance that a new build is tried with."""
    path = tmp_path_factory.mktemp("trial") / "trial.gguf"
    write_model(path)
    return path


def put(name: str, backend: str) -> InstalledBuild:
    """The prebuilt llama.cpp under the name of one that was installed for a backend."""
    needs.llama_cpp()
    folder = installed.home() / name
    folder.mkdir(parents=True)
    shutil.copy(PREBUILT.library(), folder / LIBRARY)
    build = InstalledBuild(
        name=name,
        version=name.partition("-")[0],
        backend=backend,
        native=False,
        source_sha256="",
        options=(),
        files={LIBRARY: sha256(folder / LIBRARY)},
    )
    write_json(folder / installed.MANIFEST, build.to_dict())
    return build


@pytest.mark.parametrize(
    ("choices", "problem", "expected"),
    [
        ({"backend": "vulcan"}, "did you mean vulkan", "cuda"),
        ({"runtime": "llamacp"}, "did you mean llamacpp", "llamacpp"),
        ({"backend": "cuda", "jobs": 0}, "0 jobs", "1 or more"),
    ],
)
def test_what_is_not_known_is_refused(
    choices: dict[str, str], problem: str, expected: str, cache: Path
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        runtime.install(**choices)  # pyright: ignore[reportArgumentType]
    assert expected in caught.value.expected and not installed.home().exists()


def test_a_compiler_that_is_absent_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs.program("cmake", install="cmake")
    needs.program("ninja", install="ninja")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingError) as caught:
        runtime.install(backend="vulkan")
    assert "builds llama.cpp for vulkan" in caught.value.found and caught.value.todo
    with pytest.raises(MissingError, match="built on darwin alone"):
        runtime.install(backend="metal")


def test_builds_lie_side_by_side(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed with what they see, chosen, and removed; a newer one goes before an older one."""
    for name in ("0.3.9-cpu", "0.3.10-cpu"):
        put(name, "cpu")
    (installed.home() / "building-any-cuda").mkdir()
    assert installed.names() == ["0.3.10-cpu", "0.3.9-cpu"]
    shown = runtime.list()
    assert [one.in_use for one in shown.runtimes if one.name == "prebuilt"] == [True]
    by_name = {one.name: one for one in shown.runtimes}
    assert by_name["0.3.9-cpu"].devices[0]["kind"] == "cpu"
    assert by_name["0.3.9-cpu"].num_bytes > 1e6
    assert runtime.use("cpu").name == "0.3.10-cpu" == builds.wanted()
    assert [build.name for build in builds.candidates()] == ["0.3.10-cpu"]
    monkeypatch.setenv(builds.VARIABLE, "prebuilt")
    assert builds.wanted() == "prebuilt"
    monkeypatch.delenv(builds.VARIABLE)
    looked_at = runtime.rm("0.3.10-cpu", dry_run=True)
    assert looked_at.num_bytes > 1e6 and "0.3.10-cpu" in installed.names()
    assert runtime.rm("0.3.10-cpu").was_in_use and builds.wanted() == "auto"
    with pytest.raises(UsageError, match=r"did you mean 0\.3\.9-cpu"):
        runtime.rm("0.3.8-cpu")
    with pytest.raises(UsageError, match="no runtime 'vulkan'"):
        runtime.use("vulkan")


def test_a_build_computes(cache: Path, trial_gguf: Path) -> None:
    """In a process of its own: two builds in one would share libraries of one name."""
    build = put("0.3.36-cpu", "cpu")
    task = {"path": str(trial_gguf), "backend": "cpu", "logits": str(cache / "l.npy"), "threads": 1}
    ran = ask("kanna.offload.worker", task, "computing", variables={builds.VARIABLE: build.name})
    assert build.name in ran["runtime"] and set(ran["operators"]) == {"CPU"}


def test_a_gpu_that_is_not_there_is_an_error(
    cache: Path, trial_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked for one must not get the CPU, in any verb."""
    put("0.3.36-vulkan", "vulkan")
    shown = {one.name: one for one in runtime.list().runtimes}["0.3.36-vulkan"]
    assert "vulkan has no device here" in shown.remark
    assert "GGML_VK_VISIBLE_DEVICES=0 names it" in shown.remark
    with monkeypatch.context() as patch:
        patch.setenv("GGML_VK_VISIBLE_DEVICES", "7")
        run = CliRunner().invoke(cli, ["verify", str(trial_gguf), "--backend", "vulkan"])
        assert run.exit_code == 3 and "is set by GGML_VK_VISIBLE_DEVICES=7" in run.stderr
    with pytest.raises(MissingError, match="vulkan has no device here"):
        runtime.use("vulkan")
    assert installed.in_use() == ""
    run = CliRunner().invoke(cli, ["verify", str(trial_gguf), "--backend", "vulkan"])
    assert run.exit_code == 3 and "sees no device of vulkan" in run.stderr
    run = CliRunner().invoke(cli, ["bench", str(trial_gguf), "--backend", "vulkan"])
    assert run.exit_code == 3 and "sees no device of vulkan" in run.stderr
    monkeypatch.setenv(builds.VARIABLE, "vulkan")
    with pytest.raises(MissingError, match="kanna serve"):
        gguf_engine.missing()
    loaded = libllama.load(builds.of_installed(installed.get("vulkan")))
    with pytest.raises(MissingError, match="vulkan has no device"):
        devices.require(loaded)


def test_a_backend_without_a_build_says_how_to_get_one(cache: Path, trial_gguf: Path) -> None:
    run = CliRunner().invoke(cli, ["verify", str(trial_gguf), "--backend", "sycl"])
    assert run.exit_code == 3
    assert "kanna runtime install llamacpp --backend sycl" in run.stderr
    run = CliRunner().invoke(cli, ["verify", str(trial_gguf), "--backend", "cudo"])
    assert run.exit_code == 2 and "did you mean cuda" in run.stderr
    run = CliRunner().invoke(cli, ["verify", str(trial_gguf)])
    assert run.exit_code == 2 and "--backend" in run.stderr


def test_a_library_that_was_changed_is_not_loaded(cache: Path) -> None:
    build = put("0.3.36-cpu", "cpu")
    path = build.folder / LIBRARY
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"changed")
    assert "not what was installed" in listing.look(choice=build.name).why
    with pytest.raises(MissingError, match="was changed since"):
        runtime.use(build.name)
    path.unlink()
    with pytest.raises(MissingError, match=f"lacks its file {LIBRARY}"):
        runtime.use(build.name)
    (build.folder / installed.MANIFEST).write_text('{"format": 1, "files": {"../x": ""}}')
    with pytest.raises(MissingError, match="not the manifest"):
        runtime.use(build.name)
    assert not {one.name: one for one in runtime.list().runtimes}[build.name].version
    runtime.rm(build.name)
    assert installed.names() == []


def test_a_choice_that_is_gone_is_named(cache: Path) -> None:
    build = put("0.3.36-cpu", "cpu")
    runtime.use(build.name)
    own_files.remove(build.folder)
    with pytest.raises(UsageError, match=r"kanna runtime use=0\.3\.36-cpu"):
        builds.wanted()
    run = CliRunner().invoke(cli, ["runtime", "list"])
    assert run.exit_code == 0 and "kanna runtime use auto" in run.stdout
    assert json.loads(CliRunner().invoke(cli, ["runtime", "use", "auto", "--json"]).stdout)
    assert builds.wanted() == "auto"


def test_the_cpu_needs_no_build(cache: Path) -> None:
    needs.llama_cpp()
    run = CliRunner().invoke(cli, ["runtime", "install", "llamacpp", "--json"])
    answer = json.loads(run.stdout)
    assert answer["name"] == PREBUILT.name and answer["devices"][0]["kind"] == "cpu"


def test_a_package_that_is_not_here_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = installed.in_use()
    monkeypatch.setitem(sys.modules, NATIVE.module, None)
    with pytest.raises(MissingError, match="not installed here") as error:
        runtime.use("native")
    assert error.value.expected == f"the package {NATIVE.distribution}"
    assert installed.in_use() == before
