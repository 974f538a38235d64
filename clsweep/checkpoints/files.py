"""The files of a run's checkpoints, `checkpoints/context-03.pt` and so on: the last two are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from clsweep import tensor_files
from clsweep.checkpoints import FOLDER
from clsweep.errors import InputError
from clsweep.paths import short

_FORMAT: Final = 2  # to be raised when a method, an optimizer or the loop keeps its state in another shape
_KEPT: Final = 2
_NAME: Final = re.compile(r"context-(\d+)\.pt")
_INSTEAD: Final = "going on without it"


class Store:
    """The checkpoints in a folder.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def save(self, learned: int, content: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, and remove those before the last two.

        Args:
            learned: how many contexts have been.
            content: tensors, plain containers, numbers and texts.

        Raises:
            OSError: it can't be written; what was there before is as it was.
        """
        self._folder.mkdir(exist_ok=True)
        tensor_files.write(content | {"format": _FORMAT}, self._folder / f"context-{learned:02d}.pt")
        for path in self._paths()[_KEPT:]:
            path.unlink(missing_ok=True)

    def load(self, device: torch.device, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """The contents, the latest first.

        Args:
            device: where tensors go that weren't on the CPU.
            tell: is given a sentence for each one that is damaged, and passed over.
        """
        for path in self._paths():
            try:
                content = tensor_files.read(path, device)
            except InputError as error:
                tell(f"{str(error).partition('; expected')[0]}; {_INSTEAD}")
                continue
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                tell(f"{short(path)}: is no checkpoint of this version of clsweep; {_INSTEAD}")
                continue
            yield content

    def _paths(self) -> list[Path]:
        """Those that are there, the latest first."""
        found = {path: name for path in self._folder.glob("context-*.pt") if (name := _NAME.fullmatch(path.name))}
        return sorted(found, key=lambda path: int(found[path][1]), reverse=True)
