"""Run the command line as `python -m handler.cli`, without its installed script."""

import sys

from handler.cli import main

if __name__ == "__main__":
    sys.exit(main())
