"""`python -m fanal` is the command `fanal`."""

import sys

from fanal.cli import main

if __name__ == "__main__":
    sys.exit(main())
