"""The wheel of the source tree as it is, for packages that tests make."""

from __future__ import annotations

import zipfile
from pathlib import Path

import kanna


def make(folder: Path) -> Path:
    """A wheel with all of kanna's files and what an installer reads."""
    package = Path(kanna.__file__).parent
    info = f"kanna_edge-{kanna.__version__}.dist-info"
    path = folder / f"kanna_edge-{kanna.__version__}-cp310-abi3-linux_x86_64.whl"
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: kanna-edge\nVersion: {kanna.__version__}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp310-abi3-linux_x86_64\n",
        "entry_points.txt": "[console_scripts]\nkanna = kanna.cli.main:cli\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        files = [p for p in sorted(package.rglob("*")) if p.is_file() and p.suffix != ".pyc"]
        names = {f"kanna/{p.relative_to(package).as_posix()}": p for p in files}
        for name, file in names.items():
            archive.write(file, name)
        for name, text in texts.items():
            archive.writestr(f"{info}/{name}", text)
        record = [*names, *(f"{info}/{n}" for n in texts), f"{info}/RECORD"]
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in record))
    return path
