"""Several ONNX folders of one model as a model package: a variant per execution provider.

The layout is that of onnxruntime's model packages, schema 1.0, as Olive writes it: a manifest names
one component, whose component.json names its variants; what is a tokenizer's lies once among the
shared assets, under the hash of its files. onnxruntime selects a variant by provider.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna.errors import UsageError
from kanna.escaping import json_text
from kanna.formats.onnx import files as onnx_files
from kanna.hardware import providers
from kanna.hardware.providers import ProviderProfile
from kanna.packaging.artefact import Artefact

COMPONENT, MANIFEST = "model", "manifest.json"
_SCHEMA = "1.0"
_FOLDER = f"models/{COMPONENT}"
_LEFT_OUT = ("README.md",)
_MODEL_FILES = (".onnx", ".data", ".bin", ".xml", ".onnx_adapter")
_COMPILED_FOR = "ep_compatibility_info."
"""How the keys begin under which a compiled graph says what it runs on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedVariant:
    """One of the folders in a package.

    Attributes:
        name: As the package calls it.
        artefact: The folder.
        profile: The provider that it is for.
        compatibility: What a compiled graph says of where it runs; "" for others.
        genai: Its genai_config.json.
    """

    name: str
    artefact: Artefact
    profile: ProviderProfile
    compatibility: str
    genai: Mapping[str, Any]

    def described(self) -> dict[str, str]:
        """Its entry in component.json."""
        entry = {"ep": self.profile.provider, "device": self.profile.device}
        if self.compatibility:
            entry["compatibility_string"] = self.compatibility
        return entry


def arranged(artefacts: Sequence[Artefact]) -> Artefact:
    """The files of several folders as one package.

    Args:
        artefacts: Folders of one model; the first one gives the package its name.

    Raises:
        UsageError: A folder is no decoder's, two are for one provider by one name, or their
            tokenizers differ.
    """
    variants = _variants(artefacts)
    shared, asset = _shared(variants)
    files: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    texts: dict[str, str] = {}
    for variant in variants:
        here = f"{_FOLDER}/{variant.name}"
        for name, place in _named(variant.artefact).items():
            if Path(name).suffix in _MODEL_FILES:
                files[f"{here}/{name}"] = variant.artefact.files[place]
                hashes[f"{here}/{name}"] = variant.artefact.hashes[place]
        model = {**variant.genai["model"], "tokenizer_dir": f"sha256:{asset}"}
        texts[f"{here}/{onnx_files.GENAI}"] = json_text({**variant.genai, "model": model}) + "\n"
    first = artefacts[0]
    for name, place in shared.items():
        files[f"shared_assets/sha256-{asset}/{name}"] = first.files[place]
        hashes[f"shared_assets/sha256-{asset}/{name}"] = first.hashes[place]
    entries = {variant.name: variant.described() for variant in variants}
    component = {"component_name": COMPONENT, "variants": entries}
    producer = {"tool": "kanna", "tool_version": __version__, "model_name": first.slug}
    manifest = {
        "schema_version": _SCHEMA,
        "package_name": first.slug,
        "package_version": "1.0",
        "components": {COMPONENT: _FOLDER},
        "additional_metadata": {"producer": producer},
    }
    texts |= {
        MANIFEST: json_text(manifest) + "\n",
        f"{_FOLDER}/component.json": json_text(component) + "\n",
    }
    return replace(
        first,
        place=_FOLDER,
        files=files,
        hashes=hashes,
        texts=texts,
        num_bytes=max(one.num_bytes for one in artefacts),
    )


def _variants(artefacts: Sequence[Artefact]) -> list[PackagedVariant]:
    variants: list[PackagedVariant] = []
    for artefact in artefacts:
        places = _named(artefact)
        if onnx_files.GENAI not in places:
            raise UsageError(
                f"{artefact.name} has no {onnx_files.GENAI}",
                expected="ONNX folders of a decoder, as `kanna convert --format onnx` writes them",
            )
        genai = json.loads(artefact.files[places[onnx_files.GENAI]].read_text(encoding="utf-8"))
        profile = _provider(artefact, genai)
        variants.append(
            PackagedVariant(
                name=artefact.slug,
                artefact=artefact,
                profile=profile,
                compatibility=_compatibility(artefact, places, profile),
                genai=genai,
            )
        )
    names = [variant.name for variant in variants]
    for variant in variants:
        if names.count(variant.name) > 1:
            raise UsageError(
                f"two variants are called {variant.name}",
                expected="folders of different names",
                todo="rename one of the folders",
            )
    return variants


def _named(artefact: Artefact) -> dict[str, str]:
    """Places of a folder's files by their name in it."""
    return {place.removeprefix(f"{artefact.place}/"): place for place in artefact.files}


def _provider(artefact: Artefact, genai: Mapping[str, Any]) -> ProviderProfile:
    """The provider that genai_config.json names; the processor where it names none."""
    decoder = genai["model"]["decoder"]
    options = decoder.get("session_options", {}).get("provider_options", [])
    named = [name for option in options for name in option]
    known = {profile.genai.lower(): profile for profile in map(providers.get, providers.names())}
    if not named:
        return providers.get("cpu")
    if named[0].lower() not in known:
        raise UsageError(
            f"{artefact.name} is for {named[0]}, which no profile describes",
            expected=", ".join(sorted(profile.genai for profile in known.values())),
            todo="docs/providers.md says how to write a profile",
        )
    return known[named[0].lower()]


def _compatibility(artefact: Artefact, places: Mapping[str, str], profile: ProviderProfile) -> str:
    """What the first compiled graph says of where it runs; "" where none is."""
    for name, place in places.items():
        if name.endswith(".onnx"):
            props = onnx_files.load(artefact.files[place]).metadata_props
            by_provider = {p.key.removeprefix(_COMPILED_FOR): p.value for p in props}
            if profile.provider in by_provider:
                return by_provider[profile.provider]
    return ""


def _shared(variants: Sequence[PackagedVariant]) -> tuple[dict[str, str], str]:
    """Files of the tokenizer, alike in all variants, by name; and the hash of them all.

    The hash is onnxruntime's own of a folder: of a line per file, its hash and its path.
    """
    listed: list[dict[str, str]] = []
    for variant in variants:
        listed.append(
            {
                name: variant.artefact.hashes[place]
                for name, place in _named(variant.artefact).items()
                if Path(name).suffix not in _MODEL_FILES
                and name not in (onnx_files.GENAI, *_LEFT_OUT)
            }
        )
    for variant, one in zip(variants, listed, strict=True):
        other = {name for name, _ in set(one.items()) ^ set(listed[0].items())}
        if other:
            raise UsageError(
                f"{sorted(other)[0]} of {variant.name} is not that of {variants[0].name}",
                expected="folders that were made of one model",
                todo="convert both of the same source",
            )
    lines = "".join(f"{listed[0][name]}  {name}\n" for name in sorted(listed[0]))
    places = _named(variants[0].artefact)
    return {name: places[name] for name in listed[0]}, hashlib.sha256(lines.encode()).hexdigest()
