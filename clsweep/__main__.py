"""`python -m clsweep`, and the command `clsweep`: what is slow to import comes after interrupts are taken care of."""

import os
import sys

import clsweep


def _command() -> int:
    from clsweep import cli

    return cli.main()


def main() -> int:
    """Run the command line in `sys.argv`, as the last thing that this process does; see `clsweep.cli.main`."""
    from clsweep import process

    return process.run_last("clsweep", _command)


if __name__ == "__main__":
    # The current folder, which `-m` puts first, comes last: a file there called glob.py isn't Python's own.
    if not sys.flags.safe_path and not clsweep.__file__.startswith(f"{sys.path[0]}{os.sep}"):
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
