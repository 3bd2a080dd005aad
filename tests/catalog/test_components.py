"""What `kanna components` lists is what the code has: files, options, extras."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import kanna
from kanna._util import extras, plugins
from kanna.catalog import Component, components, kinds
from kanna.catalog import base as reading
from kanna.cli.main import cli
from kanna.errors import UnsupportedError

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "kanna.encodings": ("encodings", "ENCODING"),
    "kanna.encodings.grouped": ("encodings", "ENCODINGS"),
    "kanna.methods": ("methods", "METHOD"),
    "kanna.families": ("families", "FAMILY"),
    "kanna.adapters": ("adapters", "LAYOUT"),
    "kanna.conversion.lone_adapter": ("formats", "WRITER"),
    "kanna.conversion": ("formats", "CONVERSION"),
    "kanna.formats": ("formats", "FORMAT"),
    "kanna.optimization.adapters": ("formats", "ADAPTER"),
    "kanna.benchmark.costs": ("formats", "COSTS"),
    "kanna.runtimes": ("runtimes", "RUNTIME"),
    "kanna.serving.engines": ("engines", "ENGINE"),
    "kanna.packaging.targets": ("targets", "TARGET"),
    "kanna.recipes.verbs": ("verbs", "VERB"),
    "kanna.executors": ("executors", "EXECUTOR"),
    "kanna.registry.layouts": ("layouts", "LAYOUT"),
    "kanna.fleet.orchestrators": ("orchestrators", "ORCHESTRATOR"),
    "kanna.tasks": ("tasks", "TASK"),
    "kanna.formats.prequantized": ("sources", "unpacked"),
}
"""Folders whose files are components of a kind, and what each file exports."""


def every() -> list[Component]:
    return [c for kind in components().kinds for c in kind.components]


EVERY = every()
BY_KIND = {kind: [c for c in EVERY if c.kind == kind] for kind in kinds()}


# What is listed


def test_there_are_many_and_each_has_one_name() -> None:
    names = [(c.kind, c.name) for c in EVERY]
    assert len(names) == len(set(names)) >= 100
    assert all(BY_KIND.values())


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_of_a_folder_is_listed(folder: str) -> None:
    kind, export = FOLDERS[folder]
    names = {
        n.replace("_", "-") if kind in ("tasks", "orchestrators") else n
        for n in plugins.names(folder, export)
    }
    assert names <= {c.name for c in BY_KIND[kind]}


def test_every_folder_of_files_is_known_here() -> None:
    """A new kind of plug-in must be listed too."""
    called = re.compile(r"plugins\.(?:names|load)\((?:__name__|\w+)")
    found = {
        p
        for p in (ROOT / "src" / "kanna").rglob("*.py")
        if called.search(p.read_text(encoding="utf-8"))
    }
    packages = {
        ".".join(("kanna", *p.relative_to(ROOT / "src" / "kanna").parts[:-1])) for p in found
    }
    assert packages - {"kanna", "kanna.cli", "kanna.catalog", "kanna.cli.commands"} <= set(
        FOLDERS
    ) | {
        "kanna.packaging",
        "kanna.packaging.web",
        "kanna.verification.folder_tokenizer",
        "kanna.verification.written_config",
    }


@pytest.mark.parametrize("one", EVERY, ids=lambda c: f"{c.kind}-{c.name}")
def test_it_is_described_in_a_line_and_is_where_it_says(one: Component) -> None:
    assert 8 < len(one.summary) < 260 and "\n" not in one.summary
    module, _, name = one.where.partition(":")
    thing: Any = importlib.import_module(module)
    for part in name.split(".") if name else ():
        thing = getattr(thing, part)
    assert thing is not None
    assert set(filter(None, one.extra.split(","))) <= set(extras.EXTRAS)
    json.dumps(one.to_dict())


def test_listing_loads_nothing_heavy() -> None:
    heavy = (
        "torch",
        "transformers",
        "onnxruntime",
        "onnx",
        "mlx.core",
        "llama_cpp",
        "fastapi",
        "xllamacpp",
    )
    code = (
        f"import sys, kanna; kanna.components(); print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Options come from the code


@dataclass
class _Made:
    size: int = field(metadata={"about": "how large; in bytes"})
    names: list[str] = field(default_factory=list[str])
    ratio: float = 0.5
    _hidden: int = field(default=0, init=False)


def _verb(
    source: str, *, preset: str | None = None, fast: bool = False, progress: Any = None
) -> None: ...


def test_options_are_those_of_the_signature() -> None:
    found = {o.name: o for o in reading.options(_verb, about={"preset": "the name"})}
    assert list(found) == ["source", "preset", "fast"]
    assert found["source"].required and not found["preset"].required
    assert (found["preset"].type, found["preset"].default) == ("str | None", None)
    assert found["preset"].about == "the name"
    assert (found["fast"].default, found["fast"].about) == (False, "")


def test_options_are_those_of_the_fields() -> None:
    found = {o.name: o for o in reading.options(_Made)}
    assert list(found) == ["size", "names", "ratio"]
    assert found["size"].required and found["size"].about == "how large; in bytes"
    assert found["names"].default == [] and found["ratio"].default == 0.5


def test_verbs_have_the_options_of_their_commands() -> None:
    """One verb, one function: what the command line can set, the function has, by the same name."""
    for one in BY_KIND["verbs"]:
        command = cli.get_command(click.Context(cli), one.name)
        assert command is not None
        declared = {p.name: p for p in command.params if isinstance(p, click.Option)}
        common = {"json", "quiet", "debug"}
        taken = set(inspect.signature(getattr(kanna, one.name)).parameters)
        assert set(declared) - common - taken <= _COMMAND_ONLY.get(one.name, set()), one.name
        listed = {o.name: o.about for o in one.options}
        assert all(listed[n] == p.help for n, p in declared.items() if n not in common), one.name


_COMMAND_ONLY = {
    "cache": {"yes"},
    "chat": {"system"},
    "inspect": {"with_hash", "tensors"},
    "optimize": {"rule"},
    "package": {"check", "key"},
    "rm": {"yes"},
}
"""What the command line alone has: another spelling, or what it does beside the verb."""


# Extras


def test_extras_are_those_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brings = packages_distributions()
    for extra, modules in extras.EXTRAS.items():
        wanted = {
            _plain(re.split(r"[\s\[<>=;!~]", r)[0]) for r in project["optional-dependencies"][extra]
        }
        for module in modules:
            if module in brings:
                assert {_plain(d) for d in brings[module]} & wanted, (
                    f"{extra} does not bring {module}"
                )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_found", lambda name: name != "mlx_lm")
    one = components("runtimes", "mlx").kinds[0].components[0].to_dict()
    assert one["available"] is False and one["missing"] == ["mlx_lm"]
    assert one["install"] == extras.command("mlx") and "[mlx]" in one["install"]
    shown = CliRunner().invoke(cli, ["components", "runtimes"]).output
    assert re.search(r"^ *mlx +mlx +no ", shown, re.M) and extras.command("mlx") in shown
    assert re.search(r"^ *onnx +onnx +yes ", shown, re.M)


# The command and the page


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, ["components", *words])


def test_the_command_lists_kinds_a_kind_and_one() -> None:
    listed = run()
    assert listed.exit_code == 0 and all(kind in listed.output for kind in kinds())
    shown = run("methods").output
    assert all(name in shown for name in plugins.names("kanna.methods", "METHOD"))
    whole = run("methods", "gptq").output
    assert "arXiv:2210.17323" in whole and "moment" in whole


def test_json_has_every_component_with_its_options() -> None:
    found = json.loads(run("--json").output)
    assert found["count"] == len(EVERY)
    verbs = next(k for k in found["kinds"] if k["kind"] == "verbs")["components"]
    options = {o["name"]: o for o in next(v for v in verbs if v["name"] == "calibrate")["options"]}
    assert options["tokens"]["default"] == 24_576 and options["source"]["required"]


def test_a_name_alone_is_looked_for_in_every_kind() -> None:
    found = components("gptq")
    assert [k.kind for k in found.kinds] == ["methods", "sources"]
    assert components("AFFINE4G64").kinds[0].components[0].facts["group_size of MLX"] == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method",), "methods"),
        (("methods", "gtpq"), "gptq"),
        (("encodings", "q4_x"), "q4_"),
        (("nothing", "at-all"), "encodings"),
        (("encodings", "affine7g64"), "affine"),
    ],
)
def test_a_name_that_is_none_gets_those_that_come_close(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        components(*words)
    assert said in error.value.expected
    assert run(*words).exit_code == 1


def test_the_page_is_what_the_code_says() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "components.py"))
    assert (ROOT / "docs" / "components.md").read_text(encoding="utf-8") == tool["page"](), (
        "run `make docs`"
    )
