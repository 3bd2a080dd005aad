"""A phone with Android: the model, copied over adb to where an app reads it, and checked there."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from kanna.packaging import model_facts
from kanna.packaging.service import Service
from kanna.packaging.targets.base import Target

SCRIPT = "android/install.sh"
_TEXT = """\
#!/bin/sh
# Copies the model to the phone at the end of the cable, and checks each file there.
#   sh android/install.sh             into Download, for apps that ask for a file
#   sh android/install.sh com.my.app  into the folder of an app: getExternalFilesDir("models")
set -eu
cd "$(dirname "$0")/.."
place={place}
bytes={bytes}
memory={memory}
fail() {{ echo "$1" >&2; exit 1; }}

command -v adb >/dev/null ||
    fail "adb is not installed: it is part of Android's platform tools (Debian: apt install adb)"
adb get-state >/dev/null 2>&1 ||
    fail "adb sees no phone: connect one with USB debugging on, or set ANDROID_SERIAL (adb devices)"
folder=/sdcard/Download
[ $# -eq 0 ] || folder="/sdcard/Android/data/$1/files/models"
adb shell "mkdir -p '$folder'" || fail "$folder cannot be made: is the app installed?"
free=$(adb shell "df -k '$folder'" | tail -n 1 | awk '{{print $4}}')
[ "$free" -gt $((bytes / 1024)) ] ||
    fail "$folder has $((free / 1024)) MiB left, the model needs $((bytes / 1048576)) MiB"
there=$(adb shell cat /proc/meminfo | awk '/^MemTotal/ {{print $2}}')
[ "$there" -gt $((memory / 1024)) ] ||
    fail "the phone has $((there / 1024)) MiB of memory, the model needs $((memory / 1048576)) MiB"
target="$folder/$(basename "$place")"
adb push "$place" "$folder/"
grep "  $place" SHA256SUMS | while read -r digest file; do
    inside=${{file#"$place"}}
    found=$(adb shell "sha256sum '$target$inside'" | cut -d' ' -f1)
    [ "$found" = "$digest" ] || fail "$target$inside is not what was sent: copy it again"
done
echo "$target is there, with the hash that it has here."
"""


def files(service: Service) -> dict[str, str]:
    """Returns the script that copies the model, and what an app needs to know of it."""
    artefact = service.artefact
    script = _TEXT.format(
        place=shlex.quote(artefact.place),
        bytes=artefact.num_bytes,
        memory=service.resources.memory_bytes,
    )
    return {SCRIPT: script} | model_facts.file(service)


def usage(service: Service) -> list[str]:
    """Returns the shell lines that bring the model to the phone."""
    name = PurePosixPath(service.artefact.place).name
    if service.artefact.kind == "onnx":
        return [
            f"sh {SCRIPT} com.my.app",
            "# in the app, for onnxruntime-genai:",
            f'# Model(getExternalFilesDir("models")!!.path + "/{name}")',
        ]
    return [
        f"sh {SCRIPT}",
        f"# then open Download/{name} in an app of llama.cpp, such as examples/llama.android",
    ]


TARGET = Target(
    title="a phone with Android",
    summary="Android: the model copied over adb to where an app of llama.cpp or onnxruntime-genai "
    "reads it, and checked there",
    files=files,
    usage=usage,
    only=("gguf", "onnx"),
    installs=False,
    serves=False,
)
