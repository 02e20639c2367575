"""`tlearn train`, for `ray job submit --working-dir . -- python jobs/train.py ...`."""

import sys

from tlearn.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    sys.exit(main())
