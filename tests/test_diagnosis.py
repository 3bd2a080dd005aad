"""What `doctor` says, from the real machine and from made-up ones."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from kanna import doctor as verb
from kanna.cli.main import cli
from kanna.diagnosis import _advice, _gpu_advice, _runtime_facts

READY = {
    "ok": True,
    "version": "llama.cpp 1",
    "remark": "",
    "how_to_install": "",
    "backends": ["CPU"],
    "build": {"native": True, "features": ["AVX2"], "missing": []},
}


def test_doctor_of_this_machine() -> None:
    found = verb().to_dict()
    assert found["machine"]["memory"]["total"] > 1 << 28
    assert found["machine"]["cpu"]["cores"] >= 1
    assert "llamacpp" in found["runtimes"]
    assert [s["title"] for s in found["sections"]][:2] == ["Machine", "kanna"]


def test_nothing_missing_means_no_advice() -> None:
    assert _advice({"ok": True}, {"llamacpp": READY}, {"torch": "2"}) == []


def test_missing_runtime_comes_with_its_command() -> None:
    absent = READY | {
        "ok": False,
        "remark": "llama.cpp is not installed here",
        "how_to_install": "pip install it",
    }
    (advice,) = _advice({"ok": True}, {"llamacpp": absent}, {})
    assert advice.command == "pip install it"
    assert "verify" in advice.why
    assert _runtime_facts(absent)[0][1].startswith("not usable")


def test_generic_build_is_named() -> None:
    build = {"native": False, "features": [], "missing": ["AVX512"]}
    generic = READY | {"build": build, "remark": "generic build", "how_to_install": "rebuild"}
    (advice,) = _advice({"ok": True}, {"llamacpp": generic}, {})
    assert advice.command == "rebuild"
    assert "without AVX512" in dict(_runtime_facts(generic))["Build"]


def test_broken_core_and_absent_package() -> None:
    why = [a.why for a in _advice({"ok": False, "error": "no module"}, {}, {"torch": None})]
    assert "compiled core" in why[0] and "torch" in why[1]


@pytest.mark.parametrize(
    ("api", "flag", "backends", "wanted"),
    [
        ("CUDA", "--backend cuda", ["CPU"], True),
        ("CUDA", "", ["CPU", "CUDA"], False),
        ("ROCm", "--backend rocm", ["CPU"], True),
        ("Metal", "--backend metal", ["CPU", "BLAS"], True),
        ("", "", ["CPU"], False),
    ],
)
def test_idle_gpu(api: str, flag: str, backends: list[str], wanted: bool) -> None:
    gpu = {"kind": "gpu", "name": "Some GPU", "api": api}
    found = _gpu_advice({"accelerators": [gpu, gpu]}, {"backends": backends})
    assert len(found) == wanted
    assert not wanted or flag in found[0].command


def test_command_prints_json_and_text() -> None:
    run = CliRunner().invoke(cli, ["doctor", "--json"])
    assert run.exit_code == 0 and json.loads(run.stdout)["native"]["ok"] in (True, False)
    run = CliRunner().invoke(cli, ["doctor"])
    assert run.exit_code == 0 and "CPU" in run.stdout and "llama.cpp" in run.stdout
