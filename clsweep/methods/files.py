"""A method's file and the modules of one's own that it imports: together they are the method.

`read` takes all of them into memory, once. What is run (`method_instances`), what its digest says and what is copied is
then the same text, whatever happens to the files.

The file's folder comes first where the file imports a module, as it does for `python my_method.py`. A module beside it
with the name of one of Python's own, or of an installed one that is in use, is refused: to take one for the other would
break whoever imports the other. clsweep itself is always the installed one, and a folder without `__init__.py` is a
module only where nothing installed has its name, as in Python. What belongs to a file is found without running it, in
its import statements, wherever they stand, in `import_module("name")`, and in strings such as `"part.py"`, which it may
run by itself. A module that is imported in any other way is refused when that happens: the digest lacks it.

Modules of one's own that lie elsewhere belong to it as those beside it do: in the current folder, on PYTHONPATH, or
where `pip install -e` has left them. What is installed otherwise goes by its version; see `clsweep.own`.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path, PurePosixPath

from clsweep import imports, own
from clsweep.errors import InputError
from clsweep.paths import short
from clsweep.results.writing import write_bytes

_THIS_INSTALLATION = ("clsweep", "hydra_plugins")
INSTALLATION = [Path(__file__).resolve().parent.parent.parent / name for name in _THIS_INSTALLATION]
_LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)


@dataclass(frozen=True)
class Module:
    """A module that belongs to a method, as it was read.

    Attributes:
        file: where it is; None for a package without `__init__.py`.
        content: of that file.
        folder: that of a package, where its modules are; None for another module.
        place: the file's path from the folder that it was found in, and in a copy of the method.
    """

    file: Path | None
    content: bytes
    folder: Path | None
    place: str

    def place_of(self, file: Path) -> str:
        """The place of a file in this package, which may lie beside the method's file or elsewhere."""
        assert self.folder is not None
        package = PurePosixPath(self.place) if self.file is None else PurePosixPath(self.place).parent
        return (package / file.relative_to(self.folder)).as_posix()


class MethodFile:
    """A method's file with the modules that belong to it, as they were read; see `read`.

    Args:
        path: of the file, absolute, links resolved: where its neighbours are.
        name: of the file, which may be a link's.
        shown: the file as it is called in messages.
        source: its content.
        modules: those that belong to it, by the names that they are imported by.
    """

    def __init__(self, path: Path, name: str, shown: str, source: bytes, modules: Mapping[str, Module]) -> None:
        self.path = path
        self.name = name
        self.shown = shown
        self.source = source
        self.modules = modules

    @property
    def neighbours(self) -> dict[str, bytes]:
        """The other files that belong to it: contents by their paths in a copy, in order."""
        files = {module.place: module.content for module in self.modules.values() if module.file is not None}
        return {place: files[place] for place in sorted(files, key=lambda place: PurePosixPath(place).parts)}

    def digest(self, algorithm: str) -> str:
        """A digest of everything that belongs to the method.

        Without neighbours it is that of the file's content. Neither folder nor name of the file are in it.

        Args:
            algorithm: one of `hashlib`'s.

        Returns:
            Hexadecimal digits.
        """
        digest = hashlib.new(algorithm, self.source)
        for name, content in self.neighbours.items():
            digest.update(f"\0{name}\0{hashlib.new(algorithm, content).hexdigest()}".encode())
        return digest.hexdigest()

    def mentions(self, name: str) -> bool:
        """Whether a name stands anywhere in its code: as an attribute, a variable, an argument or a whole text."""
        contents = [self.source, *(module.content for module in self.modules.values())]
        try:
            trees = [ast.parse(content) for content in contents]
        except (SyntaxError, ValueError):  # one isn't Python's, and may read anything
            return True
        return any(name in vars(node).values() for tree in trees for node in ast.walk(tree))

    def find(self, name: str) -> Module | None:
        """A module beside the file, by its dotted name, whether or not it could be seen that the file imports it."""
        return _find(name, self.path.parent, self.modules.get(name.rpartition(".")[0]), self.shown)

    def copy_to(self, folder: Path) -> None:
        """Write the file and its neighbours, as they were read, so that the copy runs as the file does.

        Args:
            folder: where; it exists.
        """
        write_bytes(self.source, folder / self.name)
        for name, content in self.neighbours.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(content, folder / name)


def read(file: str) -> MethodFile:
    """Read a method's file, and the modules that belong to it.

    Args:
        file: its path.

    Raises:
        InputError: it can't be read, or a module beside it has the name of another one.
    """
    path, shown = Path(file).resolve(), str(short(Path(file)))
    if path.suffix not in SOURCE_SUFFIXES:
        raise InputError(f"regularizer.file={shown}: expected a Python file (.py).")
    try:
        source = path.read_bytes()
        modules = _belonging(path, source, shown)
    except OSError as error:
        raise InputError(f"regularizer.file={shown}: cannot be read ({error.strerror}: {error.filename}).") from error
    return MethodFile(path, Path(file).name, shown, source, modules)


def _belonging(file: Path, source: bytes, shown: str) -> dict[str, Module]:
    """The modules of one's own that a file imports, directly or through each other, by name.

    Files that it names in a string are among them, by their paths.
    """
    folder = file.parent
    found: dict[str, Module] = {}
    from_elsewhere: set[str] = set()
    waiting = [("", source)]
    while waiting:
        package, text = waiting.pop()
        tree = imports.parsed(text)
        for path in imports.named_files(tree, folder):
            name = path.relative_to(folder).as_posix()
            if name not in found and path != file:
                found[name] = Module(path, path.read_bytes(), None, name)
                waiting.append(("", found[name].content))
        for name in imports.imported_names(tree, package):
            parts = name.split(".")
            if parts[0] not in found and _find(parts[0], folder, None, shown) is None:
                from_elsewhere.add(parts[0])
            if parts[0] in from_elsewhere:
                found = elsewhere(name) | found
                continue
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


def _find(name: str, folder: Path, parent: Module | None, shown: str) -> Module | None:
    """A module beside the file, or in a package beside it.

    Args:
        name: dotted.
        folder: the file's.
        parent: its package; None for a module that is in none.
        shown: the file, for messages.

    Raises:
        InputError: it has the name of another module, which may be meant.
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
        return Module(None, b"", Path(locations[0]), name.replace(".", "/"))
    assert spec.origin is not None
    file = Path(spec.origin)
    if parent is None and _is_in_use(name):
        raise InputError(
            f"{shown}: imports {name}, which is {file.relative_to(folder)} beside it as well as "
            f"{'a module of Python' if name in sys.stdlib_module_names else 'an installed one'}; expected another name "
            "for the one beside it."
        )
    place = file.relative_to(folder).as_posix() if parent is None else parent.place_of(file)
    return Module(file, file.read_bytes(), None if locations is None else Path(locations[0]), place)


def elsewhere(name: str) -> dict[str, Module]:
    """The modules of one's own that an import leads to where nothing beside the file has its name, and their imports.

    Args:
        name: dotted, of a module or of what is in one.

    Returns:
        By name; empty where it is installed, or isn't there: importing it will say so.
    """
    if _is_in_use(name.partition(".")[0]):  # an import gets what is there
        return {}
    return {
        found: Module(one.file, one.source, one.file.parent if one.is_package else None, one.place)
        for found, one in own.read(f"{name}.*").items()
    }


def _is_installed(name: str) -> bool:
    """Whether Python finds a module of that name with code in it, and not only a folder."""
    return any(spec.loader is not None for spec in own.specs(name))


def _is_in_use(name: str) -> bool:
    """Whether a module is Python's own, or was installed and has been imported."""
    if name in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and own.is_installed(Path(file))
