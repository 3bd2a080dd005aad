"""Install kanna, with extras: from a wheel in dist/ where one fits, else compiled.

A wheel that is older than the code it was made of is left alone. `--native` compiles for this
processor alone, in two thirds of the time; the bytes that it gives are the same.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import compiling

ROOT = Path(__file__).resolve().parents[1]
_CODE = ("man", "native", "src", "CMakeLists.txt", "pyproject.toml")


def fitting_wheel() -> Path | None:
    """The wheel in dist/ that this Python takes, if it is as new as the code."""
    from pip._internal.utils.compatibility_tags import get_supported
    from pip._vendor.packaging.utils import parse_wheel_filename

    supported = set(get_supported())
    wheels = [
        p
        for p in (ROOT / "dist").glob("kanna_edge-*.whl")
        if supported & set(parse_wheel_filename(p.name)[3])
    ]
    wheel = max(wheels, key=lambda p: p.stat().st_mtime, default=None)
    if wheel is None:
        return None
    places = [ROOT / name for name in _CODE]
    files = [f for p in places for f in ([p] if p.is_file() else p.rglob("*")) if _is_code(f)]
    if max(f.stat().st_mtime for f in files) > wheel.stat().st_mtime:
        print(f"{wheel.name} is older than the code: compiling. `make wheels` makes a new one.")
        return None
    return wheel


def _is_code(path: Path) -> bool:
    return path.is_file() and path.suffix not in {".pyc", ".so"} and path.suffix != ".pyd"


def _has_earlier_name() -> bool:
    """Whether kanna is here under the name it had first: its files would be in two packages."""
    try:
        return metadata.distribution("kanna").metadata["Summary"].startswith("Convert and quantize")
    except metadata.PackageNotFoundError:
        return False


def main() -> int:
    """Install it; return pip's exit code."""
    if _has_earlier_name():
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", "kanna"], check=True)
    native = "--native" in sys.argv
    extras = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    wheel = fitting_wheel()
    target = f"{wheel or ROOT}[{extras}]" if extras else str(wheel or ROOT)
    command = [sys.executable, "-m", "pip", "install", "-v", "--prefer-binary", target]
    if wheel is not None:
        print(f"Installing {wheel.name} and what it needs.", flush=True)
    else:
        cost = "8 to 11 files: 40 to 60" if native else "14 files: 70 to 105"
        print(
            f"Compiling kanna's core ({cost} s of one processor), and installing what it needs.",
            flush=True,
        )
        if native:  # its own folder: what is built there may not get into a wheel for others
            command += ["-C", f"build-dir={ROOT / 'build' / 'native'}"]
            command += ["-C", "cmake.define.KANNA_INSTRUCTION_SETS=native"]
    return compiling.run(command, "compiling")


if __name__ == "__main__":
    sys.exit(main())
