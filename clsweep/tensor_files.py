"""Files of tensors and plain containers: written whole, read without unpickling, and read as they were written."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from clsweep.errors import InputError, named
from clsweep.paths import short
from clsweep.results.writing import write_by

_CPU = torch.device("cpu")


def write(value: object, path: Path) -> None:
    """Write tensors, and containers of them, whole or not at all, without a second copy in memory.

    Args:
        value: what `torch.load(..., weights_only=True)` reads.
        path: of the file.

    Raises:
        OSError: it can't be written; what was there before is as it was.
    """
    write_by(lambda file: _save(value, file), path)


def _save(value: object, file: BinaryIO) -> None:
    try:
        torch.save(value, file)
    except RuntimeError as error:  # of torch's archive, whose end is missing where the disk is full, or at an interrupt
        if isinstance(error.__context__, OSError | KeyboardInterrupt | SystemExit):
            raise error.__context__ from error
        raise


def read(path: Path, device: torch.device = _CPU) -> Any:
    """What a file holds; nothing is run.

    Args:
        path: of the file.
        device: where tensors go that weren't on the CPU.

    Raises:
        InputError: it isn't there, is damaged, or holds more than tensors and plain containers.
    """
    try:
        damaged = _damaged(path)
        if damaged is None:
            return torch.load(
                path, map_location=lambda storage, where: _placed(storage, where, device), weights_only=True
            )
        reason = f"its part {damaged} isn't as it was written"
    except OSError as error:
        raise InputError(f"{short(path)}: {error.strerror or error}; expected a file that a run left.") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{short(path)}: holds more than tensors and plain containers, and reading that would run code; expected "
            "the file as a run left it."
        ) from error
    except Exception as error:  # a damaged file raises whatever its parser runs into
        reason = named(error)
    raise InputError(f"{short(path)}: is damaged, or no file of tensors ({reason}); expected it as a run left it.")


def _damaged(path: Path) -> str | None:
    """The first part whose content isn't what its checksum is of, which torch doesn't look at."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _placed(storage: Any, where: str, device: torch.device) -> Any:
    return storage if "cpu" in (where, device.type) else storage.to(device=device)
