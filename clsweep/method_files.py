"""A method's file and the modules beside it that it imports: together they are the method.

`read` takes all of them into memory, once. What is run, what its digest says and what is copied is then the same text,
whatever happens to the files; every `Instance` of it starts anew, modules beside the file included.

The file's folder comes first where the file imports a module, as it does for `python my_method.py`. A module beside it
that is called like one of Python's own, or like an installed one that is in use, is refused: to take it for the other
would break whoever imports that one. clsweep itself is always the installed one, and a folder without `__init__.py` is
a module only where nothing installed has its name, as in Python. What belongs to a file is found without running it, in
its import statements, wherever they stand, and in `import_module("name")`; a module that is imported beside it in any
other way is refused when that happens, as the digest lacks it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

from clsweep.errors import InputError, RunError, named, place
from clsweep.paths import short
from clsweep.results.writing import write_bytes

_THIS_INSTALLATION = ("clsweep", "hydra_plugins")
_BY_NAME = ("import_module", "__import__")  # functions that import the module that their first argument names
_LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)


@dataclass(frozen=True)
class _Module:
    """A module beside the file, as it was read.

    Attributes:
        file: where it is; None for a package without `__init__.py`.
        content: of that file.
        folder: that of a package, where its modules are; None for another module.
    """

    file: Path | None
    content: bytes
    folder: Path | None


class MethodFile:
    """A method's file with the modules that belong to it, as they were read; see `read`.

    Args:
        path: of the file, absolute, links resolved: where its neighbours are.
        name: of the file, which may be a link's.
        shown: the file as it is called in messages.
        source: its content.
        modules: those beside it, by the names that they are imported by.
    """

    def __init__(self, path: Path, name: str, shown: str, source: bytes, modules: Mapping[str, _Module]) -> None:
        self.path = path
        self.name = name
        self.shown = shown
        self.source = source
        self.modules = modules

    @property
    def neighbours(self) -> dict[str, bytes]:
        """The files beside it that belong to it: contents by their paths from its folder, in order."""
        files = {module.file: module.content for module in self.modules.values() if module.file is not None}
        return {path.relative_to(self.path.parent).as_posix(): files[path] for path in sorted(files)}

    def digest(self, algorithm: str) -> str:
        """A digest of everything that belongs to the method.

        Without neighbours it is that of the file's content. Neither folder nor name of the file are in it.

        Args:
            algorithm: one of `hashlib`'s.

        Returns:
            Hexadecimal digits.
        """
        own = hashlib.new(algorithm, self.source)
        for name, content in self.neighbours.items():
            own.update(f"\0{name}\0{hashlib.new(algorithm, content).hexdigest()}".encode())
        return own.hexdigest()

    def copy_to(self, folder: Path) -> None:
        """Write the file and its neighbours, as they were read, so that the copy runs as the file does.

        Args:
            folder: where; it exists.
        """
        write_bytes(self.source, folder / self.name)
        for name, content in self.neighbours.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(content, folder / name)

    def instance(self) -> Instance:
        """Run the file anew; see `Instance`."""
        return Instance(self)


def read(file: str) -> MethodFile:
    """Read a method's file, and the modules beside it that belong to it.

    Args:
        file: its path.

    Raises:
        InputError: it can't be read, or a module beside it is called like another one.
    """
    path, shown = Path(file).resolve(), str(short(Path(file)))
    if path.suffix not in SOURCE_SUFFIXES:
        raise InputError(f"regularizer.file={shown}: expected a Python file (.py).")
    try:
        source = path.read_bytes()
        modules = _belonging(path.parent, source, shown)
    except OSError as error:
        raise InputError(f"regularizer.file={shown}: cannot be read ({error.strerror}: {error.filename}).") from error
    return MethodFile(path, Path(file).name, shown, source, modules)


class Instance:
    """The module that a method's file is when it is run, and the modules beside it, none of which another run has seen.

    While it is `active`, they are what the file's imports find, now and later, and what is in `sys.modules`, where
    dataclasses and pickle look a class's module up; the current folder and `sys.path` are as the file left them.
    Afterwards all is as it was before.

    Args:
        of: the method.

    Attributes:
        module: the file's.

    Raises:
        InputError: running it raised.
    """

    def __init__(self, of: MethodFile) -> None:
        self._of = of
        self._imported: dict[str, ModuleType] = {}
        self._where: tuple[list[str], Path] | None = None
        self._is_active = False
        self._starts = True
        name = f"clsweep_custom_{of.path.stem}"
        self._names = [name, *of.modules]
        spec = importlib.util.spec_from_file_location(name, of.path, loader=_Kept(name, of.path, of.source))
        assert spec is not None
        self.module = self._imported[name] = importlib.util.module_from_spec(spec)
        with self.active():
            _execute(self.module, of)
        self._starts = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the file's imports find its own modules; within itself it changes nothing."""
        if self._is_active:
            yield
            return
        self._is_active = True
        before = {name: sys.modules.pop(name) for name in self._names if name in sys.modules}
        sys.modules.update(self._imported)
        sys.meta_path.insert(0, self)
        outside = _where()
        _go(self._where)
        try:
            yield
        finally:
            self._is_active = False
            self._where = _where()
            _go(outside)
            sys.meta_path.remove(self)
            self._imported = {name: sys.modules.pop(name) for name in self._names if name in sys.modules}
            sys.modules.update(before)

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """One of the modules beside the file, for Python's import; see `importlib.abc.MetaPathFinder`.

        Raises:
            InputError: a module beside the file is imported in a way that its digest doesn't see.
            RunError: the same, in one of the method's functions.
        """
        module = self._of.modules.get(name)
        if module is not None:
            return _spec(name, module)
        parent = self._of.modules.get(name.rpartition(".")[0])
        if parent is None and ("." in name or not self._is_importing()):
            return None
        unseen = _find(name, self._of.path.parent, parent, self._of.shown)
        if unseen is None:
            return None
        raise (InputError if self._starts else RunError)(
            f"{self._of.shown}: imports {name}, which is beside it, in a way that can't be seen before it runs; "
            f"expected a statement such as import {name}, in a function if need be, that makes it part of the method."
        )

    def _is_importing(self) -> bool:
        """Whether the import that goes on stands in one of the method's own files."""
        frame = sys._getframe(2)
        while frame.f_back is not None and _is_of_import(frame.f_code):
            frame = frame.f_back
        own = {str(self._of.path), *(str(module.file) for module in self._of.modules.values())}
        return frame.f_code.co_filename in own


def _is_of_import(code: CodeType) -> bool:
    return code.co_filename.startswith("<frozen importlib") or code.co_filename == importlib.__file__


def _where() -> tuple[list[str], Path]:
    return sys.path[:], Path.cwd()


def _go(where: tuple[list[str], Path] | None) -> None:
    if where is None or where == _where():
        return
    sys.path[:] = where[0]
    os.chdir(where[1])


def _execute(module: ModuleType, of: MethodFile) -> None:
    assert module.__spec__ is not None
    assert module.__spec__.loader is not None
    try:
        module.__spec__.loader.exec_module(module)
    except SyntaxError as error:
        where = of.shown if error.filename in (None, str(of.path)) else error.filename
        raise InputError(f"{where}, line {error.lineno}: {error.msg}; expected a valid Python file.") from error
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{of.shown}{place(error, str(of.path))}: importing it raised {named(error)}.") from error


class _Kept(SourceFileLoader):
    """Runs a source as it was read, and keeps no bytecode beside it."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self._source, self.path)
        return code


def _spec(name: str, module: _Module) -> ModuleSpec:
    if module.file is None:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(module.folder)]
        return spec
    is_source = module.file.suffix in SOURCE_SUFFIXES
    made = importlib.util.spec_from_file_location(
        name,
        module.file,
        loader=_Kept(name, module.file, module.content) if is_source else None,
        submodule_search_locations=None if module.folder is None else [str(module.folder)],
    )
    assert made is not None
    return made


def _belonging(folder: Path, source: bytes, shown: str) -> dict[str, _Module]:
    """The modules in a folder that a file in it imports, directly or through each other, by name."""
    found: dict[str, _Module] = {}
    waiting = [("", source)]
    while waiting:
        package, text = waiting.pop()
        for name in _imported_names(text, package):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                part = ".".join(parts[:end])
                if part in found:
                    continue
                module = _find(part, folder, found.get(".".join(parts[: end - 1])), shown)
                if module is None:
                    break
                found[part] = module
                waiting.append((part if module.folder is not None else part.rpartition(".")[0], module.content))
    return dict(sorted(found.items()))


def _imported_names(source: bytes, package: str) -> Iterator[str]:
    """The dotted names of what a source imports, and of what may be a module, in a package (empty: in none)."""
    try:
        with warnings.catch_warnings(action="ignore"):  # compiling it says the same
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # running it says what is wrong
        return
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
    """A name that begins with dots, as it is called from elsewhere; empty where it leads out of all packages."""
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    parents = package.split(".") if package else []
    if level > len(parents):
        return ""
    return ".".join([*parents[: len(parents) - level + 1], *filter(None, [name[level:]])])


def _find(name: str, folder: Path, parent: _Module | None, shown: str) -> _Module | None:
    """A module beside the file, or in a package beside it.

    Args:
        name: dotted.
        folder: the file's.
        parent: its package; None for a module that is in none.
        shown: the file, for messages.

    Raises:
        InputError: it is called like another module, which may be meant.
    """
    if "." in name and (parent is None or parent.folder is None):
        return None
    if name in _THIS_INSTALLATION:
        return None
    spec = FileFinder(str(folder if parent is None else parent.folder), *_LOADERS).find_spec(name)
    if spec is None:
        return None
    locations = spec.submodule_search_locations
    if spec.loader is None:
        assert locations is not None
        if parent is None and _is_installed(name):
            return None
        return _Module(None, b"", Path(locations[0]))
    assert spec.origin is not None
    file = Path(spec.origin)
    if parent is None and _is_in_use(name):
        raise InputError(
            f"{shown}: imports {name}, which is {file.relative_to(folder)} beside it as well as "
            f"{'a module of Python' if name in sys.stdlib_module_names else 'an installed one'}; expected another name "
            "for the one beside it."
        )
    return _Module(file, file.read_bytes(), None if locations is None else Path(locations[0]))


def _is_installed(name: str) -> bool:
    """Whether Python finds a module of that name with code in it, and not only a folder."""
    finders = [finder for finder in sys.meta_path if not isinstance(finder, Instance)]
    specs = (finder.find_spec(name, None) for finder in finders)
    return any(spec is not None and spec.loader is not None for spec in specs)


def _is_in_use(name: str) -> bool:
    """Whether a module is Python's own, or was installed and has been imported."""
    if name in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    return file is not None and any(Path(file).resolve().is_relative_to(one) for one in installed)
