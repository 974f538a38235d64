"""A method's file when it is run: each `Instance` starts anew, the modules that belong to it included."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

from clsweep import own
from clsweep.checkpoints.code import Code
from clsweep.errors import InputError, RunError, named, place
from clsweep.imports import Kept
from clsweep.methods.files import INSTALLATION, MethodFile, Module, elsewhere
from clsweep.methods.undisturbed import DEVICE, DTYPE, GRAD_MODE, current_folder, enter_folder, settings_put_back
from clsweep.paths import short


class Instance:
    """A method's file as a module that has been run, and those that belong to it, none of which another run has seen.

    While it is `active`, they are what the file's imports find, now and later, and what is in `sys.modules`, where
    dataclasses and pickle look a class's module up; the current folder, `sys.path` and `os.environ` are as the file
    left them. Afterwards all is as it was before. Other settings of the process that importing it changes are put back
    at once, or refused where they would decide what training computes. What it finds in other folders, which it puts on
    `sys.path` itself, doesn't belong to the method, but starts anew as well.

    Args:
        of: the method.

    Attributes:
        module: the file's.
        code: what its modules hold, for checkpoints; only while it is active.

    Raises:
        InputError: running it raised, or changed a setting of the process that may not change.
    """

    def __init__(self, of: MethodFile) -> None:
        self._of = of
        self._imported: dict[str, ModuleType] = {}
        self._where: _Where | None = None
        self._is_active = False
        self._starts = True
        name = f"clsweep_custom_{of.path.stem}"
        self._names = {name, *of.modules}
        self._outside = _where()
        spec = importlib.util.spec_from_file_location(name, of.path, loader=Kept(name, of.path, of.source))
        assert spec is not None
        self.module = self._imported[name] = importlib.util.module_from_spec(spec)
        with settings_put_back() as changed, self.active():
            _execute(self.module, of)
            self.code = Code(self._own, self._names)
        self._starts = False
        if wrong := [name for name in (DEVICE, DTYPE, GRAD_MODE) if name in changed]:
            raise InputError(
                f"{of.shown}: importing it changes {wrong[0]}, which would hold for the network's training, too; "
                "expected it to be changed within the functions, after which it is put back."
            )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the file's imports find its own modules; nested, it changes nothing."""
        if self._is_active:
            yield
            return
        self._is_active = True
        before = self._taken_out()
        _put_in(self._imported)
        sys.meta_path.insert(0, self)
        self._outside = _where()
        _go(self._where)
        try:
            yield
        finally:
            self._is_active = False
            sys.meta_path.remove(self)
            self._imported = self._taken_out()
            _put_in(before)
            self._where = _where()
            _go(self._outside)

    def _taken_out(self) -> dict[str, ModuleType]:
        """Its modules that are in `sys.modules`, by name, which are not there any more."""
        there = self._own()
        for name, module in there.items():
            own.forget(name, module)
        return there

    def _own(self) -> dict[str, ModuleType]:
        """Its modules that have been imported, by name, while it is active."""
        return {name: sys.modules[name] for name in sorted(self._names) if name in sys.modules}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """One of the method's modules, for Python's import; see `importlib.abc.MetaPathFinder`.

        Raises:
            InputError: a module of one's own is imported in a way that the method's digest doesn't see.
            RunError: the same, in one of the method's functions.
        """
        module = self._of.modules.get(name)
        if module is not None:
            return _spec(name, module)
        package = name.rpartition(".")[0]
        if package in self._of.modules or (not package and self._is_importing()):
            self._refuse(name, self._of.find(name) or self._from_elsewhere(name))
        return self._brought_along(name, path)

    def _from_elsewhere(self, name: str) -> Module | None:
        """A module of one's own that lies elsewhere, unless in a folder that the file has put on `sys.path`."""
        found = elsewhere(name).get(name)
        if found is None or found.file is None or not self._added().isdisjoint(found.file.parents):
            return None
        return found

    def _added(self) -> set[Path]:
        """The folders that the file has put on `sys.path`."""
        return {Path(entry).resolve() for entry in set(sys.path) - set(self._outside.path)}

    def _brought_along(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """A module in a folder that the file has put on `sys.path`; others are Python's to find."""
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            return None
        file = Path(spec.origin).resolve()
        is_brought_along = not self._added().isdisjoint(file.parents)
        in_package = path is not None and not self._is_installed_there(name.partition(".")[0])
        if (in_package or is_brought_along) and self._is_beside(file):
            self._refuse(name, Module(file, b"", None, file.relative_to(self._of.path.parent).as_posix()))
        if not is_brought_along:
            return None
        self._names.add(name)
        return spec

    def _is_installed_there(self, package: str) -> bool:
        """Whether a package is one that Python found below the method's folder, as `pip install -e` leaves it."""
        file = getattr(sys.modules.get(package), "__file__", None)
        return package not in self._names and file is not None and self._is_beside(Path(file).resolve())

    def _is_beside(self, file: Path) -> bool:
        """Whether a file is below the method's folder, and not in a folder of installed modules there."""
        own = self._of.path.parent
        installed = [Path(entry).resolve() for entry in self._outside.path]
        others = [one for one in (*installed, *INSTALLATION) if one != own and one.is_relative_to(own)]
        is_below = file.is_relative_to(own) and file.relative_to(own) != Path("__init__.py")
        return is_below and not any(file.is_relative_to(one) for one in others)

    def _refuse(self, name: str, found: Module | None) -> None:
        if found is None:
            return
        where = found.file or found.folder or Path()
        is_beside = where.is_relative_to(self._of.path.parent)
        shown = f"{found.place} beside it" if is_beside else short(where)
        instead = ".".join(part for part in Path(found.place).with_suffix("").parts if part != "__init__")
        raise (InputError if self._starts else RunError)(
            f"{self._of.shown}: imports {name}, which is {shown}, in a way that can't be seen before it runs; "
            f"expected a statement such as import {instead}, in a function if need be, that makes it part of the "
            "method."
        )

    def _is_importing(self) -> bool:
        """Whether the import under way stands in one of the method's own files."""
        frame = sys._getframe(2)
        while frame.f_back is not None and _is_of_import(frame.f_code):
            frame = frame.f_back
        own = {str(self._of.path), *(str(module.file) for module in self._of.modules.values())}
        return frame.f_code.co_filename in own


def _put_in(modules: Mapping[str, ModuleType]) -> None:
    for name, module in modules.items():
        own.put_back(name, module)


def _is_of_import(code: CodeType) -> bool:
    return code.co_filename.startswith("<frozen importlib") or code.co_filename == importlib.__file__


class _Where(NamedTuple):
    """Where the process is and looks for things."""

    path: list[str]
    folder: str | None
    environment: dict[str, str]


def _where() -> _Where:
    return _Where(sys.path[:], current_folder(), dict(os.environ))


def _go(where: _Where | None) -> None:
    if where is None or where == _where():
        return
    sys.path[:] = where.path
    enter_folder(where.folder)
    for name in os.environ.keys() - where.environment.keys():
        del os.environ[name]
    os.environ.update(where.environment)


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
        raise InputError(
            f"{of.shown}{place(error, str(of.path))}: importing it raised {named(error)}{_advice(error)}."
        ) from error


def _advice(error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError) or error.name is None or "." in error.name:
        return ""
    return f"; expected {error.name} to be installed, or {error.name}.py beside the file"


def _spec(name: str, module: Module) -> ModuleSpec:
    if module.file is None:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(module.folder)]
        return spec
    is_source = module.file.suffix in SOURCE_SUFFIXES
    made = importlib.util.spec_from_file_location(
        name,
        module.file,
        loader=Kept(name, module.file, module.content) if is_source else None,
        submodule_search_locations=None if module.folder is None else [str(module.folder)],
    )
    assert made is not None
    return made
