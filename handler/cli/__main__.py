"""`python -m handler.cli`: the command line without its installed script."""

import sys

from handler.cli import main

if __name__ == "__main__":
    sys.exit(main())
