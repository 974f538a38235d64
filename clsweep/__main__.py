"""`python -m clsweep`: what is slow to import comes after interrupts are taken care of."""

import os
import sys

import clsweep


def _command() -> int:
    from clsweep.cli import main

    return main()


if __name__ == "__main__":
    # The current folder, which `-m` puts first, comes last: a file there called glob.py isn't Python's own.
    if not sys.flags.safe_path and not clsweep.__file__.startswith(f"{sys.path[0]}{os.sep}"):
        sys.path.append(sys.path.pop(0))
    from clsweep import process

    sys.exit(process.run_last("clsweep", _command))
