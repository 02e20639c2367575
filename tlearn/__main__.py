"""`python -m tlearn` is `tlearn`: the process of a command, which has a word for a signal while it still imports."""

import os
import signal
import sys
from types import FrameType

from tlearn.errors import Stopped


def main() -> int:
    """Run the command that this process was started with; return its exit code."""
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        stop = Stopped(signal.Signals(number))
        if os.getpid() == process:  # of a child guard.py says it
            os.write(2, f"tlearn: {stop.line}\n".encode())
        os._exit(stop.code)

    for each in Stopped.WORDS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, end)
    from tlearn import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
