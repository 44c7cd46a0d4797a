"""Let ``python -m distgrad`` be the command ``distgrad``."""

import sys

from distgrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
