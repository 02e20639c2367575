"""`tlearn score`, for `ray job submit --working-dir . -- python jobs/score.py ...`."""

import sys

from tlearn.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["score"]
    sys.exit(main())
