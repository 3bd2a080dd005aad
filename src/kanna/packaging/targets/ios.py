"""An iPhone or iPad: the model in the folder that an app shows as its documents."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from kanna.packaging import model_facts
from kanna.packaging.service import Service
from kanna.packaging.targets.base import Target

SCRIPT, ENTITLEMENTS = "ios/install.sh", "ios/memory.entitlements"
_TEXT = """\
#!/bin/sh
# Copies the model into the documents of an app on an iPhone or iPad, from a Mac with Xcode.
#   sh ios/install.sh DEVICE com.my.app     DEVICE: as `xcrun devicectl list devices` names it
set -eu
cd "$(dirname "$0")/.."
place={place}
[ $# -eq 2 ] || {{ echo "Usage: sh ios/install.sh DEVICE BUNDLE_ID" >&2; exit 2; }}
command -v xcrun >/dev/null || {{ echo "xcrun is not here: install Xcode" >&2; exit 1; }}
xcrun devicectl device copy to --device "$1" --domain-type appDataContainer \\
    --domain-identifier "$2" --source "$place" --destination "Documents/$(basename "$place")"
"""
_MEMORY = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"
  "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>com.apple.developer.kernel.increased-memory-limit</key>
  <true/>
</dict>
</plist>
"""


def files(service: Service) -> dict[str, str]:
    """Returns the script that copies the model, and what an app needs for it."""
    script = _TEXT.format(place=shlex.quote(service.artefact.place))
    return {SCRIPT: script, ENTITLEMENTS: _MEMORY} | model_facts.file(service)


def usage(service: Service) -> list[str]:
    """Returns the shell lines that bring the model to the device."""
    name = PurePosixPath(service.artefact.place).name
    opened = {
        "gguf": "an app of llama.cpp, such as examples/llama.swiftui",
        "mlx": f'mlx-swift: ModelConfiguration(directory: documents.appending(path: "{name}"))',
    }
    return [
        f"sh {SCRIPT} DEVICE BUNDLE_ID",
        f"# Documents/{name} is opened by {opened[service.artefact.kind]}",
        f"# where it is large, the app needs the entitlement in {ENTITLEMENTS}",
    ]


TARGET = Target(
    title="an iPhone or iPad",
    summary="iOS: the model copied from a Mac into an app's documents, for llama.cpp or mlx-swift",
    files=files,
    usage=usage,
    only=("gguf", "mlx"),
    installs=False,
    serves=False,
)
