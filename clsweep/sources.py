"""The files of one's own that targets come from, read without importing them: a name may be other code tomorrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from clsweep import own
from clsweep.results.writing import write_bytes
from clsweep.targets import Target

_DIGEST: Final = 12  # characters


def digest(targets: Iterable[Target]) -> str:
    """Twelve characters of the SHA-256 of the files that targets name, and of the modules of one's own they import.

    This includes those that an argument names by a `_target_` of its own.

    Returns:
        Empty where all of them are installed, such as those of clsweep and of PyTorch.
    """
    contents = {
        target.key if path == target.path else f"{target.key} {path}": _content(path)
        for target in targets
        for path in target.paths
    }
    found = "".join(f"{key}\0{content}\0" for key, content in sorted(contents.items()) if content)
    return hashlib.sha256(found.encode()).hexdigest()[:_DIGEST] if found else ""


def named(targets: Iterable[Target]) -> list[Path]:
    """The files of one's own that targets name, without what these import."""
    paths = [path for target in targets for path in target.paths]
    return list(dict.fromkeys(own.read(path)[main].file for path in paths for main in [own.main(path)] if main))


def copy(targets: Iterable[Target], folder: Path) -> None:
    """Put the files that `digest` covers beside a run's results, like a method's file.

    Args:
        targets: what the run is made of.
        folder: the run's; it exists.
    """
    for target in targets:
        for path in target.paths:
            for module in own.read(path).values():
                place = folder / module.place
                place.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(module.source, place)


def _content(path: str) -> str:
    """A digest of the module of a dotted path and of those it needs; empty where it is an installed one."""
    modules, main = own.read(path), own.main(path)
    if main is None:
        return ""
    others = {one.place: one.digest for name, one in modules.items() if name != main}
    found = hashlib.sha256(modules[main].source)
    for place, content in sorted(others.items()):
        found.update(f"\0{place}\0{content}".encode())
    return found.hexdigest()
