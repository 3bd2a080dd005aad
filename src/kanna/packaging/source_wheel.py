"""A wheel of the source tree that kanna runs from, as an installer takes it.

It holds the core that was compiled in place, so it is for this kind of machine. `make wheels` makes
those for every Linux.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

import kanna
from kanna._util import distribution
from kanna.packaging.wheel_archive import write

_SKIPPED = {".pyc", ".partial"}


def pack(folder: Path) -> Path | None:
    """Write a wheel of the source tree into `folder`; None where there is no tree, or no core."""
    tree = distribution.source_tree()
    tag = _tag() if tree is not None else None
    if tree is None or tag is None:
        return None
    package = tree / "src" / "kanna"
    files = {
        f"kanna/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in _SKIPPED
    }
    project = distribution.read_project(tree)
    name = f"{distribution.WHEEL_PREFIX}{project['version']}"
    info = f"{name}.dist-info"
    texts = {
        "METADATA": _metadata(project),
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: kanna\nRoot-Is-Purelib: false\nTag: {tag}\n",
        "entry_points.txt": "[console_scripts]\n"
        + "".join(f"{k} = {v}\n" for k, v in project.get("scripts", {}).items()),
    }
    files |= {f"{info}/{name}": text.encode() for name, text in texts.items()}
    return write(folder / f"{name}-{tag}.whl", files, info)


def _tag() -> str | None:
    """What the compiled core fits: Python, its binary interface, the machine."""
    if sys.platform != "linux":
        return None
    core = next(iter(sorted(Path(kanna.__file__).parent.glob("_native.*so"))), None)
    if core is None:
        return None
    machine = f"linux_{platform.machine()}"
    if ".abi3." in core.name:
        return f"cp310-abi3-{machine}"
    version = re.search(r"cpython-(\d+)-", core.name)
    return f"cp{version[1]}-cp{version[1]}-{machine}" if version else None


def _metadata(project: distribution.Project) -> str:
    """METADATA: what the project asks for, and what its extras do."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {line}" for line in project["dependencies"]),
    ]
    for extra, requirements in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        for line in requirements:
            requirement, _, marker = (part.strip() for part in line.partition(";"))
            marked = f"({marker}) and extra == '{extra}'" if marker else f"extra == '{extra}'"
            lines.append(f"Requires-Dist: {requirement} ; {marked}")
    return "\n".join(lines) + "\n"
