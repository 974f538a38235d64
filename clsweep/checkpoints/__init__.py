"""What a run leaves after each context, so that it can go on there: packing, what is packed, and the files."""

from contextlib import suppress
from pathlib import Path
from typing import Final

FOLDER: Final = "checkpoints"


def remove(folder: Path) -> None:
    """Remove those of a run, from its folder; what else lies beside them is somebody else's."""
    place = folder / FOLDER
    for path in (*place.glob("context-*.pt"), *place.glob(".context-*.partial")):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        place.rmdir()
