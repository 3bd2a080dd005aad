"""The source files of kanna as syntax trees, and which of them import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import kanna

PACKAGE = Path(kanna.__file__).parent
"""The folder of the package: `src/kanna` of a checkout, or where it is installed."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name: `from module import name`, or `import module` with no name.

    `target` is the file that is meant: the submodule where `name` is one, else `module`.
    """

    module: str
    name: str
    target: str
    line: int
    type_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of the package, by its dotted name, and its syntax tree."""

    path: Path
    module: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that the file belongs to; for an `__init__.py`, the one that it makes."""
        return self.module if self.path.stem == "__init__" else self.module.rpartition(".")[0]

    @property
    def layer(self) -> str:
        """First component below `kanna`."""
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    def where(self, line: int) -> str:
        """File and line, as a failing test shows them."""
        return f"{self.path.relative_to(PACKAGE.parent)}:{line}"

    def functions(self) -> Iterator[Function]:
        """Every function and method, nested ones included."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


@cache
def files() -> dict[str, SourceFile]:
    """Every Python file of the package by dotted name."""
    result: dict[str, SourceFile] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        result[module] = SourceFile(path=path, module=module, text=text, tree=ast.parse(text))
    return result


def _type_only(tree: ast.Module) -> set[int]:
    """Identities of the nodes below `if TYPE_CHECKING:`."""
    return {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for child in ast.walk(statement)
    }


@cache
def imports(module: str) -> tuple[Import, ...]:
    """What a file imports from kanna, inside functions too."""
    source = files()[module]
    type_only = _type_only(source.tree)
    result: list[Import] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kanna":
            pairs = [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            pairs = [(a.name, "") for a in node.names if a.name.split(".")[0] == "kanna"]
        else:
            continue
        for name_of_module, name in pairs:
            submodule = f"{name_of_module}.{name}"
            result.append(
                Import(
                    module=name_of_module,
                    name=name,
                    target=submodule if submodule in files() else name_of_module,
                    line=node.lineno,
                    type_only=id(node) in type_only,
                )
            )
    return tuple(result)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                result.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return result
