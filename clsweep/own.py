"""Modules of one's own that targets come from: found and read without running them, and run as they were read.

A file may be edited while a process lives. What is digested, what is copied, and what is imported are one text: a
module is run afresh where its file, or one that it imports, isn't what it was when it was run. Within `kept`, which
surrounds a command or a call from Python, each file stays as it was first read. Installed packages are Python's to
import.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from clsweep import imports, paths

_INSTALLED: Final = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]
_PACKAGES: Final = {"site-packages", "dist-packages"}  # of any installation: a user's, the system's, a cluster's module
_BUILT: Final = ("torch", "torchvision")  # what people build from source, and leave where they built it
_NEVER: Final = {"clsweep", "hydra_plugins", "__main__", *sys.stdlib_module_names}
_PACKAGE: Final = "__init__.py"


@dataclass(frozen=True)
class Own:
    """A module of one's own, as it was read.

    Attributes:
        file: where it is.
        folder: the one of `sys.path` that it was found in; its path from there is the module's name.
        source: what is in the file.
        needs: the modules of one's own, by name, that it imports; files that it names in a string, by their path.
    """

    file: Path
    folder: Path
    source: bytes
    needs: frozenset[str]

    @property
    def place(self) -> str:
        """The file's path from the folder."""
        return self.file.relative_to(self.folder).as_posix()

    @property
    def is_package(self) -> bool:
        """Whether other modules are in it."""
        return self.file.name == _PACKAGE

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the source, in hexadecimal digits."""
        return hashlib.sha256(self.source).hexdigest()


@dataclass(frozen=True)
class _Kept:
    """What has been read: files, and what dotted paths need."""

    sources: dict[Path, bytes]
    modules: dict[str, dict[str, Own]]


_kept: _Kept | None = None
_first: Path | None = None  # the folder that is looked in before all others


@contextmanager
def kept() -> Iterator[None]:
    """Let each file stay what it was when it was first read, whatever is done to it meanwhile."""
    global _kept
    if _kept is not None:  # the outer one rules
        yield
        return
    _kept = _Kept({}, {})
    try:
        yield
    finally:
        _kept = None


@contextmanager
def found_first_in(folder: Path) -> Iterator[None]:
    """Look for modules in a folder first, such as a run's with its copies; afterwards names lead where they led before.

    Args:
        folder: absolute.
    """
    global _kept, _first
    before, modules = (_kept, _first), dict(sys.modules)
    _kept, _first = _Kept({}, {}), folder.resolve()
    try:
        yield
    finally:
        _kept, _first = before
        for name, module in list(sys.modules.items()):
            if modules.get(name) is not module and isinstance(_loader_of(module), _Read):
                forget(name, module)
        for name, module in modules.items():
            if name not in sys.modules:
                put_back(name, module)


def main(path: str) -> str | None:
    """The module that a dotted path is in, by its name; None where it is no module of one's own."""
    return next(reversed(_located(path.rpartition(".")[0])), None)


def read(path: str) -> dict[str, Own]:
    """The modules of one's own that a dotted path needs: its own, its packages, and what they import, by name.

    Args:
        path: of a class or a function.

    Returns:
        An empty dict where it is installed, or isn't there: importing it will say so.
    """
    if _kept is None:
        return _read(path)
    if path not in _kept.modules:
        _kept.modules[path] = _read(path)
    return _kept.modules[path]


def _read(path: str) -> dict[str, Own]:
    found: dict[str, Own] = {}
    waiting = list(_located(path.rpartition(".")[0]).items())
    while waiting:
        name, (folder, file) = waiting.pop()
        if name in found:
            continue
        source = _source(file)
        needed = {one: place for one, place in _needed(name, folder, file, source).items() if one != name}
        found[name] = Own(file, folder, source, frozenset(needed))
        waiting += needed.items()
    return found


@contextmanager
def importable(*dotted: str) -> Iterator[None]:
    """Let Python's import find the modules that some paths need, as they are read now; other versions are forgotten.

    The current folder comes last, so that a glob.py in it doesn't hide Python's own.
    """
    modules = {name: one for path in dotted for name, one in read(path).items()}
    states = {name: _state(name, modules) for name in modules}
    for name in modules:
        if (there := sys.modules.get(name)) is not None and _is_of_before(there, name, modules, states[name]):
            forget(name, there)
    finder = _Finder(modules, states)
    folder = str(paths.here())
    is_there = folder in sys.path or "" in sys.path
    sys.meta_path.insert(0, finder)
    if not is_there:
        sys.path.append(folder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if not is_there and folder in sys.path:
            sys.path.remove(folder)


class _Read(imports.Kept):
    """Runs a module as it was read, and knows the digest of all that it needs."""

    def __init__(self, name: str, module: Own, state: str) -> None:
        super().__init__(name, module.file, module.source)
        self.state = state


@dataclass(frozen=True, eq=False)
class _Finder:
    """Finds the modules that were read; see `importlib.abc.MetaPathFinder`."""

    modules: Mapping[str, Own]
    states: Mapping[str, str]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self.modules.get(name)
        if module is None:
            return None
        inside = [str(module.file.parent)] if module.is_package else None
        loader = _Read(name, module, self.states[name])
        return importlib.util.spec_from_file_location(
            name, module.file, loader=loader, submodule_search_locations=inside
        )


def _is_of_before(there: ModuleType, name: str, modules: Mapping[str, Own], state: str) -> bool:
    """Whether what is imported isn't what was read."""
    loader = _loader_of(there)
    if isinstance(loader, _Read):
        return loader.state != state
    if isinstance(loader, imports.Kept):  # a method's, which has begun anew with this run
        return False
    file = getattr(there, "__file__", None)
    if file is None:  # made by somebody, from no file
        return False
    if Path(file).resolve() != modules[name].file.resolve():
        return True
    # Somebody else's import: it is the same text where that is older than this process.
    return any(modules[one].file.stat().st_mtime >= _began() for one in _reached(name, modules))


def _loader_of(module: ModuleType) -> object:
    return getattr(getattr(module, "__spec__", None), "loader", None)


@cache
def _began() -> float:
    import psutil  # here, since only few commands need it

    return float(psutil.Process(os.getpid()).create_time())


def forget(name: str, module: ModuleType) -> None:
    """Take a module out, and off its package, where `from . import name` would find it."""
    del sys.modules[name]
    package, _, leaf = name.rpartition(".")
    parent = sys.modules.get(package)
    if getattr(parent, leaf, None) is module:
        delattr(parent, leaf)


def put_back(name: str, module: ModuleType) -> None:
    """Undo `forget`."""
    sys.modules[name] = module
    package, _, leaf = name.rpartition(".")
    if package in sys.modules and not hasattr(sys.modules[package], leaf):  # a package may have called a function so
        setattr(sys.modules[package], leaf, module)


def _state(name: str, modules: Mapping[str, Own]) -> str:
    """A digest of a module and of all that it needs, the places of the files included."""
    reached = [modules[one] for one in sorted(_reached(name, modules))]
    text = "".join(f"{one.file}\0{one.digest}\0" for one in reached)
    return hashlib.sha256(text.encode()).hexdigest()


def _reached(name: str, modules: Mapping[str, Own]) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += modules[one].needs
    return found


def _source(file: Path) -> bytes:
    if _kept is None:
        return file.read_bytes()
    if file not in _kept.sources:
        _kept.sources[file] = file.read_bytes()
    return _kept.sources[file]


def _needed(name: str, folder: Path, file: Path, source: bytes) -> dict[str, tuple[Path, Path]]:
    """What a module imports of one's own, its packages, and the files beside it that it names: where they are."""
    package = name if file.name == _PACKAGE else name.rpartition(".")[0]
    found = _located(package)
    tree = imports.parsed(source)
    for imported in imports.imported_names(tree, package):
        found |= _located(imported)
    named = [one for one in imports.named_files(tree, file.parent) if one != file]
    return {one.relative_to(folder).as_posix(): (folder, one) for one in named} | found


def is_installed(file: Path) -> bool:
    """Whether a file is part of Python or of an installed package, wherever that was installed."""
    return _is_installed(paths.absolute(file), _folders())


@cache
def _is_installed(file: Path, folders: Sequence[Path]) -> bool:
    real = file.resolve()  # a package's files may be links, to the cache of who installed it
    if not _PACKAGES.isdisjoint((*file.parts, *real.parts)) or any(map(real.is_relative_to, (*_INSTALLED, *_built()))):
        return True
    return any(real in _installed_in(folder) for folder in folders if real.is_relative_to(folder))


@cache
def _built() -> list[Path]:
    found = itertools.chain.from_iterable(map(specs, _BUILT))
    return [Path(place).resolve() for spec in found for place in spec.submodule_search_locations or ()]


@cache
def _installed_in(folder: Path) -> frozenset[Path]:
    """What was installed into a folder beside one's own files, as by `pip install --target`."""
    records = [record.read_text(encoding="utf-8", errors="replace") for record in folder.glob("*.dist-info/RECORD")]
    names = (line.rsplit(",", 2)[0].strip('"') for text in records for line in text.splitlines())
    return frozenset(folder / name for name in names)


def specs(name: str) -> Iterator[ModuleSpec]:
    """What Python finds by a name without dots, in order: it would import the first. Nothing is imported here."""
    finders = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("clsweep.")]
    yield from (spec for finder in finders if (spec := finder.find_spec(name, None)) is not None)


def _folders() -> tuple[Path, ...]:
    """Where modules are looked for."""
    return _folders_of(tuple(sys.path), paths.here())


@cache  # a fingerprint asks for each of its values
def _folders_of(path: tuple[str, ...], here: Path) -> tuple[Path, ...]:
    return tuple(dict.fromkeys([*map(_resolved, path), here.resolve()]))


def _hooked(name: str) -> Iterator[Path]:
    """The folder of a module that only an import hook finds, as `pip install -e` may leave one."""
    spec = next(specs(name), None)
    if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
        place = Path(spec.origin).resolve()
        yield place.parent.parent if place.name == _PACKAGE else place.parent


def _located(dotted: str) -> dict[str, tuple[Path, Path]]:
    """The modules on a dotted path, outermost first: the folder of `sys.path` and the file of each, by name."""
    names = dotted.split(".")
    if not dotted or names[0] in _NEVER:
        return {}
    first = [] if _first is None else [_first]
    for folder in itertools.chain(first, _folders(), _hooked(names[0])):
        found = {name: (folder, file) for name, file in _down(folder, names)}
        if found:
            return {} if is_installed(list(found.values())[-1][1]) else found
    return {}


def _down(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for count, name in enumerate(names, 1):
        dotted, module, inside = ".".join(names[:count]), folder / f"{name}.py", folder / name / _PACKAGE
        if inside.is_file():
            yield dotted, inside
        elif module.is_file():
            yield dotted, module
            return
        folder = folder / name


def _resolved(path: str | Path) -> Path:
    return paths.absolute(path).resolve() if str(path) else paths.here()
