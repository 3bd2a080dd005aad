"""Packages for phones. A stand-in for adb runs here what it would run there, in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import engine_artefacts
from helpers.packing import mlx_folder

from kanna.errors import UnsupportedError
from kanna.packaging import package, targets

_ADB = """#!/bin/sh
case "$1" in
  get-state) [ -d "$PHONE" ] ;;
  push) cp -R "$2" "$PHONE$3"; [ -z "${DAMAGE:-}" ] || echo x >> "$PHONE$3$DAMAGE" ;;
  shell)
    shift
    case "$*" in
      *meminfo) echo "MemTotal: ${MEMORY:-8000000} kB" ;;
      df*) printf 'Filesystem 1K-blocks Used Available\\nx 1 1 %s 1%% /\\n' "${FREE:-90000000}" ;;
      *) sh -c "$(printf %s "$*" | sed "s#'/#'$PHONE/#g")" ;;
    esac ;;
esac
"""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = engine_artefacts.shared("gguf", tmp_path_factory)
    folder = tmp_path_factory.mktemp("phone") / "packaged"
    package(model, folder, to=["android", "ios"])
    return folder


def _install(folder: Path, tmp_path: Path, *words: str, **environment: str) -> tuple[int, str]:
    (tmp_path / "bin").mkdir()
    adb = tmp_path / "bin" / "adb"
    adb.write_text(_ADB)
    adb.chmod(0o755)
    phone = tmp_path / "phone"
    (phone / "sdcard" / "Download").mkdir(parents=True)
    done = subprocess.run(
        ["sh", str(folder / "android" / "install.sh"), *words],
        capture_output=True,
        text=True,
        env={"PATH": f"{adb.parent}:{os.environ['PATH']}", "PHONE": str(phone)} | environment,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "place"),
    [((), "Download"), (("com.my.app",), "Android/data/com.my.app/files/models")],
    ids=["download", "app"],
)
def test_the_model_reaches_the_phone(
    packaged: Path, words: tuple[str, ...], place: str, tmp_path: Path
) -> None:
    code, output = _install(packaged, tmp_path, *words)
    assert code == 0, output
    facts = json.loads((packaged / "model.json").read_text())
    there = tmp_path / "phone" / "sdcard" / place / Path(facts["path"]).name
    assert hashlib.sha256(there.read_bytes()).hexdigest() == facts["sha256"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PHONE": "/nowhere"}, "adb sees no phone"),
        ({"FREE": "3"}, "MiB left, the model needs"),
        ({"MEMORY": "3000"}, "MiB of memory, the model needs"),
        ({"DAMAGE": "gguf.gguf"}, "is not what was sent"),
    ],
    ids=["no phone", "full", "small", "damaged"],
)
def test_what_goes_wrong_is_said(
    packaged: Path, environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    code, output = _install(packaged, tmp_path, **environment)
    assert code == 1 and said in output


def test_without_adb_the_script_says_where_it_is(packaged: Path) -> None:
    shell, bare = shutil.which("sh"), {"PATH": ""}
    assert shell is not None
    script = f"dirname() {{ echo {packaged}/android; }}; . {packaged}/android/install.sh"
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, env=bare)
    assert done.returncode == 1 and "platform tools" in done.stderr


def test_an_app_of_ios_may_ask_for_more_memory(packaged: Path) -> None:
    asked = plistlib.loads((packaged / "ios" / "memory.entitlements").read_bytes())
    assert asked == {"com.apple.developer.kernel.increased-memory-limit": True}
    script = packaged / "ios" / "install.sh"
    subprocess.run(["sh", "-n", str(script)], check=True)
    assert subprocess.run(["sh", str(script)], capture_output=True).returncode == 2


def test_mlx_goes_to_ios_alone(tmp_path: Path) -> None:
    model = mlx_folder(tmp_path / "mlx")
    package(model, tmp_path / "out", to="ios")
    assert json.loads((tmp_path / "out" / "model.json").read_text())["kind"] == "mlx"
    with pytest.raises(UnsupportedError, match="android does not run mlx"):
        package(model, tmp_path / "other", to="android")


def test_every_target_names_the_format_that_it_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = engine_artefacts.shared("openvino", tmp_path_factory)
    ours = {name: targets.get(name) for name in targets.names()}
    # What arranges folders of its own says so itself.
    refusing = [n for n, t in ours.items() if "openvino" not in t.kinds and t.arranges is None]
    assert {"android", "ios", "web"} <= set(refusing)
    for name in refusing:
        with pytest.raises(UnsupportedError, match=f"{name} does not run openvino") as caught:
            package(model, tmp_path / "out", to=name)
        assert f"--format {ours[name].kinds[0]}" in caught.value.todo
    assert not list(tmp_path.iterdir())
