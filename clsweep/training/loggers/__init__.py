"""Loggers: observers that write what a run measures for a tool that shows it; see `clsweep.training.observers`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from clsweep.errors import InputError


def require(package: str) -> None:
    """Check that the package of a logger is installed; it isn't imported, which may take seconds.

    Args:
        package: its name, which is that of the logger, too.

    Raises:
        InputError: it isn't.
    """
    if sys.modules.get(package) is None and find_spec(package) is None:
        raise InputError(
            f"logger={package}: the package {package} is not installed; expected pip install {package} before it."
        )
