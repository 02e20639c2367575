"""The command line, as python -m tlearn."""

import sys

from tlearn.cli import main

if __name__ == "__main__":
    sys.exit(main())
