"""The files of one's own that targets come from, read without importing them: a name may be other code tomorrow."""

from __future__ import annotations

import hashlib
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from clsweep import paths
from clsweep.errors import InputError
from clsweep.methods import files
from clsweep.targets import Target

_DIGEST: Final = 12  # characters
_INSTALLED: Final = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]


def digest(targets: Iterable[Target]) -> str:
    """Twelve characters of the SHA-256 of the files that targets name, and of the modules beside these they import.

    Returns:
        Empty where all of them are installed, such as those of clsweep and of PyTorch.
    """
    own = _files(targets)
    if not own:
        return ""
    found = "".join(f"{key}\0{_content(file)}\0" for key, file in sorted(own.items()))
    return hashlib.sha256(found.encode()).hexdigest()[:_DIGEST]


def copy(targets: Iterable[Target], folder: Path) -> None:
    """Put what `digest` is of beside a run's results, as a method's file is.

    Args:
        targets: what the run is made of.
        folder: the run's; it exists.
    """
    for file in _files(targets).values():
        try:
            files.read(str(file)).copy_to(folder)
        except InputError:
            shutil.copy(file, folder)


def _files(targets: Iterable[Target]) -> dict[str, Path]:
    """Those of one's own, by the key of their target."""
    return {target.key: file for target in targets for file in [_file(target.path)] if file is not None}


def _file(path: str) -> Path | None:
    """The file of a dotted path; None where it is an installed one, or isn't there, which importing it says."""
    package, *names = path.split(".")[:-1]
    if package == "clsweep":
        return None
    for folder in dict.fromkeys([*map(_resolved, sys.path), paths.here()]):
        found = list(_down(folder, [package, *names]))
        if found:
            installed = any(_resolved(found[-1]).is_relative_to(one) for one in _INSTALLED)
            return None if installed else found[-1]
    return None


def _down(folder: Path, names: list[str]) -> Iterator[Path]:
    """The files of a package and the modules in it, in the order of a dotted path."""
    for name in names:
        module, inside = folder / f"{name}.py", folder / name / "__init__.py"
        if inside.is_file():
            yield inside
        elif module.is_file():
            yield module
        folder = folder / name


def _resolved(path: str | Path) -> Path:
    return paths.absolute(path).resolve() if str(path) else paths.here()


def _content(file: Path) -> str:
    try:
        return files.read(str(file)).digest("sha256")
    except InputError:  # what it imports beside itself can't be told: its own text then
        return hashlib.sha256(file.read_bytes()).hexdigest()
