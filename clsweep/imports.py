"""What a Python file imports, seen without running it, and how it is run as it was read."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from importlib.machinery import SOURCE_SUFFIXES, SourceFileLoader
from pathlib import Path
from types import CodeType

_BY_NAME = ("import_module", "__import__")  # functions that import the module that their first argument names


def parsed(source: bytes) -> ast.Module:
    """The tree of a source; an empty one where it is no valid Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # compiling it says the same
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # running it says what is wrong
        return ast.Module([], [])


def named_files(tree: ast.Module, folder: Path) -> Iterator[Path]:
    """The Python files in a folder that a string in the source names."""
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and value.endswith(SOURCE_SUFFIXES[0]) and "\n" not in value:
            path = folder / value
            if ".." not in path.parts and path.is_relative_to(folder) and _is_file(path):
                yield path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is too long for a name, or holds what none does
        return False


def imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    """The dotted names of what is imported, and of what may be a module, in a package (empty: in none)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call):
            yield from _named_in_call(node, package)


def _named_in_call(call: ast.Call, package: str) -> Iterator[str]:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    values = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    if name in _BY_NAME and values and isinstance(values[0], str):
        within = values[1] if len(values) > 1 and isinstance(values[1], str) else package
        if absolute := _absolute(values[0], within):
            yield absolute


def _absolute(name: str, package: str) -> str:
    """A relative name (with leading dots) as an absolute one; empty where it leads out of all packages."""
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    parents = package.split(".") if package else []
    if level > len(parents):
        return ""
    return ".".join([*parents[: len(parents) - level + 1], *filter(None, [name[level:]])])


class Kept(SourceFileLoader):
    """Runs a source as it was read, and keeps no bytecode beside it."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        """The source as it was read, compiled."""
        code: CodeType = self.source_to_code(self._source, self.path)
        return code
