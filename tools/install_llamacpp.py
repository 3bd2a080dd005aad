"""Build llama.cpp for this very machine (llama-cpp-python), and show how far the compiler is.

Nothing of kanna needs it: its extra llamacpp brings llama.cpp as a wheel. A native build uses every
instruction that this CPU has, and `kanna doctor` says what that gains here. All are used but AMX,
whose kernels crash on small matrices (0.3.36): a build without them keeps the repacking of weights
for the other instructions.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys

REQUIREMENT = "llama-cpp-python==0.3.36"
WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
STEP = re.compile(r"\[(\d+)/(\d+)\]")


def build_environment() -> dict[str, str]:
    """Environment of a native build: CMake starts CMAKE_C_FLAGS and CMAKE_CXX_FLAGS from it."""
    environment = os.environ | {
        "CMAKE_ARGS": os.environ.get("CMAKE_ARGS", "-DGGML_NATIVE=ON"),
        "PYTHONUNBUFFERED": "1",
    }
    if platform.machine() in {"x86_64", "AMD64"} and sys.platform != "win32":
        # gcc and clang both let these win over -march=native.
        for name in ("CFLAGS", "CXXFLAGS"):
            environment[name] = f"{os.environ.get(name, '')} {WITHOUT_AMX}".strip()
    return environment


def main() -> int:
    """Install it unless it is here; return pip's exit code."""
    if importlib.util.find_spec("llama_cpp") is not None:
        return 0
    print(
        f"Installing {REQUIREMENT}: it compiles llama.cpp, which takes minutes the first time.",
        flush=True,
    )
    command = [sys.executable, "-m", "pip", "install", "-v", "--prefer-binary", REQUIREMENT]
    process = subprocess.Popen(
        command,
        env=build_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    tail: list[str] = []
    shown = -1
    for line in process.stdout:
        tail = [*tail[-40:], line]
        step = STEP.search(line)
        if step is None:
            continue
        percent = 100 * int(step[1]) // int(step[2])
        if percent != shown:
            shown = percent
            end = "" if sys.stdout.isatty() else "\n"
            if sys.stdout.isatty() or percent % 10 == 0:
                print(
                    f"\r  compiling llama.cpp: {percent:3d} % ({step[1]} of {step[2]})",
                    end=end,
                    flush=True,
                )
    if process.wait() != 0:
        print(
            "\nThe build failed. A C++ compiler is needed (Debian: apt install build-essential). "
            "Last lines:"
        )
        print("".join(tail))
    elif sys.stdout.isatty() and shown >= 0:
        print()
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
