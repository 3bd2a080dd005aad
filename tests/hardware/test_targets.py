"""Target profiles: what each says, what none may say, and what is predicted from them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from helpers import profiles
from helpers.profiles import known

import kanna
from kanna import encodings
from kanna.cli.main import cli
from kanna.errors import FormatError, KannaError, OutputError, UnsupportedError, UsageError
from kanna.hardware import mask, targets
from kanna.hardware.figures import BASES
from kanna.hardware.operators import tables
from kanna.hardware.roofline import Traffic, predict
from kanna.hardware.targets.reading import read

TOOL = Path(__file__).parents[2] / "tools" / "operator_tables.py"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder without profiles of its own."""
    monkeypatch.setenv("KANNA_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config" / "targets"


def good() -> dict[str, Any]:
    """A profile as a user would write it."""
    return {
        "title": "Board",
        "memory": {"2gb": {"total": known("2GiB"), "available": known("1.5GiB")}},
        "bandwidth": known("10GB"),
        "cores": known(4),
        "context": known(2048),
        "backends": {
            "cpu": {"operators": "CPU", "efficiency": known(0.5), "error": known(0.2)},
        },
    }


def changed(path: str, value: object) -> dict[str, Any]:
    """The good profile with one value changed, or taken out where it is None."""
    return profiles.changed(good(), path, value)


@pytest.mark.parametrize("name", targets.names())
def test_every_figure_of_a_profile_says_where_it_comes_from(name: str) -> None:
    for device in targets.devices(name):
        for place, figure in device.figures().items():
            assert figure.basis in BASES and len(figure.source) > 5, (device.name, place)
            # An address that was wrapped over two lines has a blank in it.
            assert not re.search(r"-\s", figure.source), (device.name, place)
        assert targets.choose(device.name).memory <= device.total.value
        assert any(backend.operators for backend in device.backends.values())


def test_the_devices_that_people_ask_for_are_there() -> None:
    names = {device.name for name in targets.names() for device in targets.devices(name)}
    assert {"raspberry-pi-5-4gb", "raspberry-pi-5-8gb", "jetson-orin-nano-8gb"} <= names
    assert {f"mac-m{chip}-16gb" for chip in range(1, 6)} <= names
    assert targets.choose("raspberry-pi-5").name == "raspberry-pi-5-8gb:cpu"
    assert targets.choose("Raspberry-Pi-5-4GB:Vulkan").name == "raspberry-pi-5-4gb:vulkan"
    assert targets.choose("mac-m4").backend.name == "metal"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("rasberry-pi5", UsageError, "raspberry-pi-5"),
        ("jetson", UsageError, "jetson-orin-nano"),
        ("mac-m4-8gb", UsageError, "mac-m4-16gb or mac-m4-24gb"),
        ("raspberry-pi-5:npu", UsageError, "raspberry-pi-5:cpu or raspberry-pi-5:vulkan"),
        ("raspberry-pi-5:", None, ""),
        ("", UsageError, "rtx-4060"),
        ("../secrets", UsageError, "`kanna targets` lists them"),
        ("intel-core-ultra:npu", UnsupportedError, "openvino:int4-channel"),
        ("amd-ryzen-ai:xdna", UnsupportedError, "--provider vitisai"),
    ],
)
def test_an_unknown_target_gets_near_names(
    text: str, kind: type[KannaError] | None, words: str
) -> None:
    if kind is None:
        assert targets.choose(text).backend.name == "cpu"
        return
    with pytest.raises(kind) as caught:
        targets.choose(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("title", None, "has no title"),
        ("bandwidth", None, "has no bandwidth"),
        ("cores", None, "has no cores"),
        ("memory", None, "has no memory"),
        ("memory", {}, "has no memory"),
        ("memory/2gb", 3, "an object"),
        ("memory/2gb/total", None, "has no memory.2gb.total"),
        ("backends", None, "has no backends"),
        ("backends/cpu/operators", None, "has no backends.cpu.operators"),
        ("bandwidth/source", None, "has no bandwidth.source"),
        ("bandwidth/basis", None, "has no bandwidth.basis"),
        ("bandwidth/basis", "guessed", "published or measured"),
        ("bandwidth/value", "0GB", "a size from"),
        ("bandwidth/value", "-1GB", "a size from"),
        ("bandwidth/value", "900PB", "a size from"),
        ("bandwidth/value", True, "a size from"),
        ("bandwidth/value", [], "a size from"),
        ("bandwidth", "10GB", "an object"),
        ("memory/2gb/available/value", "3GiB", "at most the total"),
        ("memory/2gb/total/value", "1kB", "a size from"),
        ("cores/value", 0, "a whole number from 1"),
        ("cores/value", 2.5, "a whole number from 1"),
        ("cores/value", "four", "a whole number from 1"),
        ("context/value", -4, "a whole number from"),
        ("backends/cpu/efficiency/value", 1.4, "a number from"),
        ("backends/cpu/efficiency/value", float("nan"), "a number from"),
        ("backends/cpu/error", None, "has no backends.cpu.error"),
        ("backends/cpu/operators", "cpu", "CPU perhaps"),
        ("backends/cpu/operators", "Hexagn", "Hexagon perhaps"),
        ("backends/cpu/gigaflop", {}, "gigaflops"),
        ("bandwith", {}, "bandwidth"),
        ("backends/cpu/memory", {"value": "9GB", "basis": "measured", "source": "x"}, "at most"),
    ],
)
def test_a_bad_profile_is_refused(path: str, value: object, words: str, tmp_path: Path) -> None:
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)), encoding="utf-8")
    with pytest.raises(FormatError) as caught:
        read(file)
    assert words in str(caught.value) and "board.yaml" in str(caught.value)
    assert "docs/targets.md" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (b"a: [", "no YAML"),
        (b"", "holds None"),
        (b"- 1", "an object"),
        (b"title: a\ntitle: b\n", "title is here twice"),
        (b"title: !!python/object:os.system {}\n", "no YAML"),
        (b"#" * 70_000, "64 kB at most"),
        (b"[" * 5000, "no YAML"),
        (b"title: !!timestamp x", "no YAML"),
        (b"memory: {1: {}}", "a plain name"),
        (b"? [1]\n: 2", "no YAML"),
    ],
)
def test_what_is_no_profile_is_refused(text: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "board.yaml"
    file.write_bytes(text)
    with pytest.raises(FormatError, match=words):
        read(file)


def test_profiles_of_the_user_count_and_bad_ones_hide_nothing(own: Path) -> None:
    own.mkdir(parents=True)
    (own / "board.yaml").write_text(yaml.safe_dump(good()), encoding="utf-8")
    (own / "broken.yaml").write_text("title: [", encoding="utf-8")
    assert targets.choose("board").memory == 3 << 29
    listed = kanna.targets()
    assert "board-2gb" in [device.name for device in listed.devices]
    assert len(listed.notes) == 1 and "broken" in listed.notes[0]
    result = CliRunner().invoke(cli, ["targets", "broken"])
    assert result.exit_code == 1 and "no YAML" in result.stderr


def test_this_machine_becomes_a_target(own: Path) -> None:
    result = CliRunner().invoke(cli, ["targets", "here", "--measure", "--json"])
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert Path(written["path"]) == own / "here.yaml"
    choice = targets.choose("here")
    assert choice.name == f"{written['devices'][0]['name']}:cpu"
    assert predict(choice, Traffic(bytes_read=1e8, weights=1e8)).generation
    with pytest.raises(OutputError, match="exists"):
        kanna.targets("here", measure=True)
    assert kanna.targets("here", measure=True, overwrite=True).path
    for name in (None, "../here", "He re"):
        with pytest.raises(UsageError):
            kanna.targets(name, measure=True)


@pytest.mark.parametrize(
    ("name", "bytes_read", "weights", "generation", "prompt"),
    [
        # What people measured on the device: their own figures, not ours.
        ("raspberry-pi-5:cpu", 2.02e9, 3.21e9, 4.88, None),
        ("raspberry-pi-5:cpu", 4.62e9, 7.5e9, 2.17, None),
        ("mac-m4:metal", 4.62e9, 7.5e9, 20.87, 224.8),
        ("snapdragon-8-elite:hexagon", 0.765e9, 1.236e9, 51.54, 169.4),
    ],
)
def test_predictions_keep_their_error(
    name: str, bytes_read: float, weights: float, generation: float, prompt: float | None
) -> None:
    speed = predict(targets.choose(name), Traffic(bytes_read=bytes_read, weights=weights))
    assert speed.error is not None and speed.generation is not None
    assert 1 / (1 + speed.error) <= speed.generation / generation <= 1 + speed.error
    if prompt is not None:
        assert speed.prompt is not None
        assert 1 / (1 + speed.error) <= speed.prompt / prompt <= 1 + speed.error


def test_what_was_never_measured_is_not_predicted() -> None:
    speed = predict(targets.choose("raspberry-pi-5:vulkan"), Traffic(bytes_read=1e9, weights=1e9))
    assert (speed.generation, speed.prompt, speed.error) == (None, None, None)


def test_the_tables_name_encodings_of_kanna() -> None:
    known = set(encodings.names())
    for table in tables().values():
        assert table.matrices | table.experts | table.refused <= known, table.name
        assert not table.matrices & (table.refused - table.experts - table.matrices)
    hexagon, adreno = tables()["Hexagon"], tables()["OpenCL"]
    assert hexagon.matrices - {"f16", "f32"} == {
        *("q4_0", "q4_1", "q4_k", "q5_k", "q6_k", "q8_0", "iq4_nl", "mxfp4")
    }
    assert adreno.matrices - {"f16", "f32"} == {"q4_0", "q6_k", "q8_0", "mxfp4"}
    assert tables()["CPU"].matrices >= set(encodings.candidates())
    assert "q4_k" in adreno.documented and "nvfp4" in tables()["Metal"].refused


def test_vectors_and_odd_rows() -> None:
    choice = targets.choose("snapdragon-8-elite:hexagon")
    assert mask.admits(choice, "bf16", (256,))
    assert not mask.admits(choice, "bf16", (256, 256))
    assert mask.admits(choice, "q8_0", (4, 64)) and not mask.admits(choice, "q8_0", (4, 48))
    assert not mask.admits(choice, "q8_0", (8, 4, 64))  # as stacked experts
    assert mask.admits(choice, "q4_0", (8, 4, 64))


CSV = """"backend_name","op_name","op_params","test_mode","supported","error_message","backend_reg_name"
"X0","MUL_MAT","type_a=q4_0,type_b=f32,m=16,n=1,k=256,bs=[1,1],nr=[1,1],per=[0,1,2,3],k_v=0,o=1","support","1","yes","X"
"X0","MUL_MAT","type_a=q4_0,type_b=f32,m=16,n=1,k=256,bs=[2,3],nr=[1,1],per=[0,1,2,3],k_v=0,o=1","support","0","no","X"
"X0","MUL_MAT","type_a=q2_K,type_b=f32,m=16,n=1,k=256,bs=[1,1],nr=[1,1],per=[0,1,2,3],k_v=0,o=1","support","0","no","X"
"X0","FLASH_ATTN_EXT","hsk=64,hsv=64,nh=4,sinks=0,max_bias=0.000000,logit_softcap=0.000000,type_KV=f16,permute=[0,1,2,3]","support","1","yes","X"
"""  # noqa: E501  # as llama.cpp writes it


def test_the_tool_reads_a_table(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("operator_tables", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    path = tmp_path / "X.csv"
    path.write_text(CSV, encoding="utf-8")
    assert tool.table(path) == {
        "matrices": {"multiplied": ["q4_0"], "refused": ["q2_k"]},
        "experts": {"multiplied": [], "refused": []},
        "cache": ["f16"],
    }


def test_a_profile_is_shown_once_for_all_its_sizes() -> None:
    said = " ".join(CliRunner().invoke(cli, ["targets", "amd-ryzen-ai"]).output.split())
    assert said.count("cpu.efficiency") == 1
    assert all(said.count(f"amd-ryzen-ai-{size}gb:") == 2 for size in (16, 32))
    assert "instead: kanna optimize SRC" in said
