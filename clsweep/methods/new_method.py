"""`python -m clsweep --new-method FILE`: a method to begin with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from clsweep.errors import InputError
from clsweep.paths import expanded

OPTION = "--new-method"
_TEMPLATE = "methods/templates/my_idea.py"
_RUN = "python -m clsweep +benchmark=split_mnist dataset=mnist_5k budget=quick"


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether the option is among the command line's arguments."""
    return any(one == OPTION or one.startswith(f"{OPTION}=") for one in arguments)


def command(arguments: Sequence[str]) -> str:
    """Write the file that the command line names.

    Args:
        arguments: the command line's, with the option among them.

    Returns:
        What to tell the user.

    Raises:
        InputError: anything else is asked for, or the file can't be written; one that is there is left as it is.
    """
    words = [part for one in arguments for part in (one.split("=", 1) if one.startswith(f"{OPTION}=") else [one])]
    if len(words) != 2 or words[0] != OPTION or not words[1].endswith(".py"):
        raise InputError(
            f"{OPTION}: expected the path of the Python file to be written and nothing else, as in {OPTION} my_idea.py."
        )
    _write(expanded(words[1]))
    plain = re.fullmatch(r"[\w./~-]+", words[1])  # Hydra reads other characters as its own
    run = [
        *_RUN.split(),
        f"regularizer.file={words[1] if plain else QuotedString(words[1], Quote.single).with_quotes()}",
    ]
    return f"written  {words[1]}: a short method, to be changed into yours\nrun it   {shlex.join(run)}"


def _write(file: Path) -> None:
    template = resources.files("clsweep").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(template)
    except FileExistsError as error:
        raise InputError(f"{OPTION} {file}: is there already; expected the path of a new file.") from error
    except OSError as error:
        raise InputError(f"{OPTION} {file}: {error.strerror}; expected a folder that can be written to.") from error
