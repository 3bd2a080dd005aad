"""The structure of the code, held on its text: imports, sizes, names (ARCHITECTURE.md).

`ruff.toml` holds style, import order, naming and docstrings; this holds what ruff has no rule for.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from helpers.source_code import PACKAGE, Function, SourceFile, cycles, files, imports

ROOT = Path(__file__).parent.parent

# Left to right as data flows. A file imports from its own layer and from those before it, inside
# functions too. ARCHITECTURE.md draws the same line.
LAYERS: list[set[str]] = [
    {"escaping"},
    {"errors"},
    {"_util", "chat_templates", "checks", "closeness", "model", "signing"},
    {"libllama"},
    {"_native", "encodings"},
    {"methods"},
    {"plan"},
    {"formats"},
    {"oci", "sources"},
    {"tokenizer"},
    {"families"},
    {"adapters", "hardware"},
    {"executors"},
    {"calibration", "gate_report", "provenance"},
    {"recommendation"},
    {"registry"},
    {"conversion", "sizing", "inspection", "storage", "tracking"},
    {"runtimes"},
    {"evaluation", "benchmark", "compilation", "generation", "embedding", "offload", "tasks"},
    {"report"},
    {"runtime", "devices"},
    {"verification", "verified_conversion", "merging", "training", "diagnosis", "fault_report"},
    {"self_testing", "auditing", "promotion"},
    {"comparison"},
    {"optimization"},
    {"packaging", "serving"},
    {"fleet"},
    {"recipes"},
    {"catalog"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

MAX_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
MAX_POSITIONAL = 6
MAX_COLUMNS = 100
PRAGMA = re.compile(r"\s*# (?:pyright: ignore|noqa|type: ignore).*")
"""What a line says to a tool; it does not count."""
EMPTY_NAMES = {"found", "said", "told"}
"""Names of variables that could hold anything."""

# Files written before a rule was, which break it still. Nothing is added: a file is taken off when
# it is brought to the rule, and a new one keeps them all.
REMAINING: dict[str, set[str]] = {
    # llama_token_to_piece of llama.cpp's C API takes no names.
    "calls": {
        "kanna/runtimes/llama_model.py",
    },
    # Writers of nine and ten parameters, each of them a promise of `convert`.
    "functions": {
        "kanna/formats/gguf/write.py",
        "kanna/formats/mlx/write.py",
        "kanna/formats/onnx/int8.py",
        "kanna/formats/safetensors/write.py",
    },
}


def public_verbs() -> set[tuple[str, str]]:
    """(module, function) of what `kanna` exports; their parameters are the options of a command."""
    tree = files()["kanna"].tree
    return {
        (str(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if node.module.startswith("kanna.")
    }


def parameters(function: Function) -> int:
    """How many parameters a function takes, without `self` and `cls`."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def variables(function: Function) -> set[str]:
    """Names of a function's parameters and of what it assigns."""
    arguments = function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    return names | {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def lines_of(function: Function, *, body_only: bool) -> int:
    """Lines of a function; `body_only`: without its signature and docstring, the verbs' manual."""
    first = function.lineno
    if body_only:
        first = function.body[1 if ast.get_docstring(function) else 0].lineno
    return (function.end_lineno or first) - first + 1


def refuse(rule: str, violations: list[tuple[str, str]]) -> None:
    """Fail for violations, given as (place, what), in files that do not remain from before."""
    new = [
        f"{place} {what}"
        for place, what in violations
        if place.partition(":")[0] not in REMAINING.get(rule, ())
    ]
    assert not new, "\n" + "\n".join(new)


def test_no_file_imports_a_file_that_imports_it() -> None:
    graph = {
        module: {i.target for i in imports(module) if not i.type_only} & files().keys() - {module}
        for module in files()
    }
    refuse("cycles", [(files()[g[0]].where(1), f"in a circle: {g}") for g in cycles(graph)])


def test_imports_point_one_way() -> None:
    violations: list[tuple[str, str]] = []
    for module, source in files().items():
        if source.layer in {"__init__.py", "__init__", "__main__"}:
            continue
        assert source.layer in LEVEL, f"add {source.layer!r} to LAYERS and to ARCHITECTURE.md"
        for one in imports(module):
            parts = one.target.split(".")
            layer = parts[1] if len(parts) > 1 else one.name
            if not one.type_only and LEVEL.get(layer, 0) > LEVEL[source.layer]:
                violations.append((source.where(one.line), f"imports {one.target}"))
    refuse("layers", violations)


def test_no_package_imports_the_private_parts_of_another() -> None:
    violations: list[tuple[str, str]] = []
    for module, source in files().items():
        for one in imports(module):
            parts = f"{one.module}.{one.name}".strip(".").split(".")
            for depth, part in enumerate(parts):
                if not part.startswith("_") or part.startswith("__"):
                    continue
                owner = ".".join(parts[:depth])
                if owner in files() and files()[owner].path.stem != "__init__":
                    allowed = False  # a private name of a file: its own affair
                else:
                    allowed = f"{source.package}.".startswith(f"{owner}.")
                if not allowed:
                    violations.append((source.where(one.line), f"imports {'.'.join(parts)}"))
    refuse("private imports", violations)


def test_files_and_lines_stay_short() -> None:
    violations: list[tuple[str, str]] = []
    for source in files().values():
        lines = source.text.splitlines()
        if len(lines) > MAX_LINES:
            violations.append((source.where(1), f"has {len(lines)} lines of {MAX_LINES}"))
        for number, line in enumerate(lines, 1):
            if len(PRAGMA.sub("", line)) > MAX_COLUMNS:
                violations.append((source.where(number), f"has {len(line)} columns"))
    refuse("lines", violations)


def test_functions_stay_small() -> None:
    verbs = public_verbs()
    violations: list[tuple[str, str]] = []
    for module, source in files().items():
        for function in source.functions():
            place, name = source.where(function.lineno), function.name
            length = lines_of(function, body_only=(module, function.name) in verbs)
            if length > MAX_FUNCTION_LINES:
                violations.append((place, f"{name} has {length} lines"))
            count = parameters(function)
            if count > MAX_PARAMETERS and (module, function.name) not in verbs:
                violations.append((place, f"{name} takes {count} parameters"))
    refuse("functions", violations)


def test_calls_name_their_arguments() -> None:
    violations = [
        (source.where(node.lineno), f"passes {len(node.args)} arguments by position")
        for source in files().values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and len(node.args) > MAX_POSITIONAL
    ]
    refuse("calls", violations)


def test_variables_say_what_they_hold() -> None:
    violations = [
        (source.where(function.lineno), f"{function.name}: {', '.join(sorted(empty))}")
        for source in files().values()
        for function in source.functions()
        if (empty := variables(function) & EMPTY_NAMES)
    ]
    refuse("names", violations)


def classes(source: SourceFile) -> list[ast.ClassDef]:
    return [node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)]


def test_no_two_classes_share_a_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for source in files().values():
        for node in classes(source):
            places[node.name].append(source.where(node.lineno))
    refuse(
        "class names",
        [
            (where[0], f"{name}, also in {', '.join(where[1:])}")
            for name, where in places.items()
            if len(where) > 1
        ],
    )


def test_a_class_makes_its_own_instances() -> None:
    violations = [
        (source.where(node.lineno), f"{node.name}.__new__")
        for source in files().values()
        for node in classes(source)
        if any(isinstance(s, ast.FunctionDef) and s.name == "__new__" for s in node.body)
    ]
    refuse("__new__", violations)


FORMAT_NAMES = {"gguf", "onnx", "mlx", "openvino"}
FORMAT_ADAPTERS = (
    "kanna/formats/",
    "kanna/conversion/",
    "kanna/runtimes/",
    "kanna/optimization/adapters/",
    "kanna/serving/engines/",
    "kanna/plan/",
    "kanna/packaging/targets/",
)
"""Where a file may be about one format."""
NOT_FORMATS = {
    "kanna/catalog/sources.py",  # a table of what is read, under the same names
    "kanna/_util/extras.py",  # a table of extras of the distribution, two of them named alike
}


def names_a_format(node: ast.AST) -> bool:
    """Whether a node is the name of a format, or a collection with one in it."""
    return any(isinstance(n, ast.Constant) and n.value in FORMAT_NAMES for n in ast.walk(node))


def is_kind_of_source(node: ast.expr) -> bool:
    """Whether a node is `source.kind`: how a source is read, not the format of an artefact."""
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "source.kind"


def decides_by_format(node: ast.AST) -> bool:
    """Whether a node compares something with the name of a format, or keys a table by one."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return any(map(names_a_format, sides)) and not any(map(is_kind_of_source, sides))
    if isinstance(node, ast.Dict):
        return any(key is not None and names_a_format(key) for key in node.keys)
    return isinstance(node, ast.MatchValue) and names_a_format(node.value)


def test_no_verb_knows_a_format_by_name() -> None:
    violations: list[tuple[str, str]] = []
    for source in files().values():
        name = source.where(1).partition(":")[0]
        if name.startswith(FORMAT_ADAPTERS) or name in NOT_FORMATS:
            continue
        violations += [
            (source.where(getattr(node, "lineno", 1)), "decides by the name of a format")
            for node in ast.walk(source.tree)
            if decides_by_format(node)
        ]
    refuse("formats", violations)


def test_decisions_by_format_are_seen() -> None:
    for text in ('format == "mlx"', 'x in ("gguf", "onnx")', '{"onnx": 1}'):
        assert any(map(decides_by_format, ast.walk(ast.parse(text)))), text
    for text in ('source.kind == "gguf"', 'extra = "onnx"', 'x.name == "a"'):
        assert not any(map(decides_by_format, ast.walk(ast.parse(text)))), text


def picture() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_architecture_draws_every_layer_in_order() -> None:
    line = re.search(r"```\n(escaping → .*?)```", picture(), re.DOTALL)
    assert line
    drawn = [set(re.split(r",\s*", layer.strip())) for layer in line[1].split("→")]
    assert drawn == [layer - {"_native"} for layer in LAYERS]


def test_the_architecture_names_files_that_exist() -> None:
    known = {str(source.path.relative_to(PACKAGE)) for source in files().values()}
    for name in re.findall(r"[\w/]+\.py\b", picture().replace("tests/", "")):
        where = [path for path in known if f"/{path}".endswith(f"/{name}")]
        assert where or name == "test_structure.py", f"ARCHITECTURE.md names {name}"


def test_what_remains_is_there() -> None:
    known = {source.where(1).partition(":")[0] for source in files().values()}
    assert {name for names in REMAINING.values() for name in names} <= known


def test_cycles_are_seen() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
