"""What a run leaves after each context, so that it can resume there: packing, what is packed, and the files."""

from contextlib import suppress
from pathlib import Path
from typing import Final

FOLDER: Final = "checkpoints"


def remove(folder: Path) -> None:
    """Remove a run's checkpoints from its folder, and nothing else that lies there."""
    place = folder / FOLDER
    for path in (*place.glob("context-*.pt"), *place.glob(".context-*.partial")):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        place.rmdir()
