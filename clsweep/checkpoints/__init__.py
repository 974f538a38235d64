"""What a run leaves after each context, so that it can go on there: packing, what is packed, and the files."""

import shutil
from pathlib import Path
from typing import Final

FOLDER: Final = "checkpoints"


def remove(folder: Path) -> None:
    """Remove those of a run, from its folder."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
