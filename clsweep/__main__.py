"""`python -m clsweep`: what is slow to import comes after interrupts are taken care of."""

import sys

from clsweep import process


def _command() -> int:
    from clsweep.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(process.run_last("clsweep", _command))
