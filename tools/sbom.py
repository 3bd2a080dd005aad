"""A CycloneDX bill of materials of kanna itself: what the locks name, and the wheels in dist/."""

from __future__ import annotations

import json
import re
import sys
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from kanna._util.distribution import NAME, WHEEL_PREFIX, read_project

# These libraries say little of their types.
_model: Any = import_module("cyclonedx.model")
_bom: Any = import_module("cyclonedx.model.bom")
_component: Any = import_module("cyclonedx.model.component")
_output: Any = import_module("cyclonedx.output")
_schema: Any = import_module("cyclonedx.schema")
_validation: Any = import_module("cyclonedx.validation.json")
_purl: Any = import_module("packageurl")
ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "src" / "kanna" / "packaging" / "locks"
_LINE = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+) *(?:; *(.*?))? *\\?$", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def main() -> int:
    """Write dist/kanna_edge-VERSION.cdx.json, the same for the same locks and wheels."""
    out = ROOT / "dist"
    out.mkdir(exist_ok=True)
    version = read_project(ROOT)["version"]
    text = bill(version, sorted(out.glob(f"{WHEEL_PREFIX}{version}-*.whl")))
    path = out / f"{WHEEL_PREFIX}{version}.cdx.json"
    path.write_text(text, encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {text.count('pkg:pypi/')} mentions of packages")
    return 0


def bill(version: str, wheels: list[Path]) -> str:
    """The bill of materials as CycloneDX 1.6 JSON.

    Args:
        version: Of kanna.
        wheels: Its wheels.
    """
    itself = _component.Component(
        name=NAME,
        version=version,
        type=_component.ComponentType.APPLICATION,
        bom_ref=NAME,
        components=[_file(path) for path in wheels],
    )
    packages = _packages()
    key = json.dumps([version, [p.name for p in wheels], sorted(packages)])
    made = _bom.Bom(
        serial_number=uuid5(NAMESPACE_URL, f"{NAME}:{sha256(key.encode()).hexdigest()}")
    )
    made.metadata.component = itself
    for component in packages.values():
        made.components.add(component)
    made.register_dependency(itself, packages.values())
    written = json.loads(
        _output.make_outputter(
            made, _schema.OutputFormat.JSON, _schema.SchemaVersion.V1_6
        ).output_as_string()
    )
    written["metadata"].pop("timestamp", None)
    text = json.dumps(written, indent=1, sort_keys=True) + "\n"
    if error := _validation.JsonStrictValidator(_schema.SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"the bill of materials is not valid: {error}")
    return text


def _file(path: Path) -> Any:
    digest = sha256(path.read_bytes()).hexdigest()
    return _component.Component(
        name=path.name,
        type=_component.ComponentType.FILE,
        bom_ref=path.name,
        hashes=[_model.HashType(alg=_model.HashAlgorithm.SHA_256, content=digest)],
    )


def _packages() -> dict[str, Any]:
    """Every package of a lock, with the hashes of its files and when it is needed."""
    packages: dict[str, Any] = {}
    for lock in sorted(LOCKS.glob("*.txt")):
        text = lock.read_text(encoding="utf-8")
        lines = [*_LINE.finditer(text)]
        for line, following in zip(lines, [*lines[1:], None], strict=True):
            name, version, marker = line[1], line[2], line[3]
            body = text[line.end() : following.start() if following else None]
            url = _purl.PackageURL("pypi", name=name, version=version)
            package = packages.setdefault(
                str(url),
                _component.Component(
                    name=name,
                    version=version,
                    type=_component.ComponentType.LIBRARY,
                    bom_ref=str(url),
                    purl=url,
                    properties=[
                        _model.Property(name="kanna:sha256", value=digest)
                        for digest in sorted(_HASH.findall(body))
                    ],
                ),
            )
            package.properties.add(_model.Property(name="kanna:lock", value=lock.stem))
            if marker:
                package.properties.add(_model.Property(name="kanna:marker", value=marker))
    return packages


if __name__ == "__main__":
    sys.exit(main())
