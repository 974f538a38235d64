"""`python -m clsweep`."""

import sys

from clsweep.cli import main

if __name__ == "__main__":
    sys.exit(main())
