"""A command that uses Ray is a child: whatever becomes of it, one line, a code, and nothing left. Without Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from processes import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

# The command as `tlearn score` runs it, with Python code in the place of its work.
PROGRAM = """
import ctypes, os, signal, subprocess, sys, time
from tlearn import cli
from tlearn.cli import commands
from tlearn.distributed import guard
from tlearn.errors import InputError

guard.END_SECONDS, guard._STILL_SECONDS, guard._LOOK_SECONDS = 1.0, 0.4, 0.1
guard._SILENT_SECONDS, guard._LEFT_SECONDS = 0.5, 0.1

def helper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)

def work(command):
{work}

commands.RUN["score"] = work
cli.check_paths = lambda config: None
sys.argv = ["tlearn", "score", "--model", "m", "--input", "i", "--output", "o.parquet"]
sys.exit(cli.main())
"""
NOTHING: tuple[int, str] = (0, "")


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """As in a terminal: what nohup starts, or a script in its background, ignores some signals."""
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def command(*lines: str) -> Iterator[subprocess.Popen[str]]:
    code = PROGRAM.format(work="\n".join(f"    {line}" for line in lines))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=90)
    return process.returncode, said


def is_running(process: int) -> bool:
    """Not as a zombie."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LOST = "tlearn: expected Ray to run as long as the command"


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("return 0", 0, ""),
        ("return 4", 4, ""),
        ("raise InputError('expected one thing, got another')", 3, "tlearn: expected one thing, got another"),
        ("os.write(2, b'*** SIGTERM in C++\\n' * 20); os._exit(1)", 7, f"{LOST}, it or this process was lost (exit"),
        ("os.abort()", 7, f"{LOST}, it or this process was lost (SIGABRT)"),
        ("os.kill(os.getpid(), 9)", 7, f"{LOST}, it or this process was lost (SIGKILL)"),
        ("ctypes.string_at(0)", 7, f"{LOST}, it or this process was lost (SIGSEGV)"),
        ("guard.beat(); time.sleep(9)", 7, "tlearn: expected answers of Ray, got none for"),
        ("guard.beat(); time.sleep(0.2); return 0", 0, ""),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(9)", 143, "tlearn: terminated; the same command goes on"),
    ],
)
def test_however_the_work_ends_there_is_a_code_and_at_most_one_line(line: str, code: int, says: str) -> None:
    with command(line) as process:
        found, said = ended(process)
    assert (found, said.count("\n")) == (code, 1 if says else 0), said
    assert said.startswith(says)


@pytest.mark.parametrize(
    ("number", "code", "send"),
    [
        (signal.SIGTERM, 143, os.kill),
        (signal.SIGHUP, 129, os.kill),
        (signal.SIGINT, 130, os.killpg),  # as a shell that gives it to all; a terminal does so by itself
    ],
)
def test_a_signal_ends_work_that_hears_none(
    number: signal.Signals, code: int, send: Callable[[int, int], None]
) -> None:
    """As C++ does not: Python's handlers wait for it to come back."""
    with command(
        "signal.pthread_sigmask(signal.SIG_BLOCK, {2, 15, 1})",
        "print('ready', flush=True)",
        "time.sleep(60)",
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        send(process.pid, number)
        found, said = ended(process)
    assert (found, said.count("\n")) == (code, 1), said


def test_work_that_is_told_twice_to_end_still_ends_as_it_wants() -> None:
    with command(
        "try:",
        "    print('ready', flush=True); time.sleep(60)",
        "except KeyboardInterrupt:",
        "    time.sleep(0.5)",
        "    print('checkpoint', flush=True)",
        "    raise KeyboardInterrupt from None",  # as ray.get does
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        for _ in range(3):
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.05)
        out, said = process.communicate(timeout=90)
    assert (process.returncode, out) == (143, "checkpoint\n") and said.count("\n") == 1


@pytest.mark.parametrize("end", ["return 0", "os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_no_process_is_left(end: str) -> None:
    with command("print(helper().pid, flush=True)", end) as process:
        assert process.stdout is not None
        helper = int(process.stdout.readline())
        ended(process)
    assert not is_running(helper)


def test_nothing_outlives_a_parent_that_is_killed() -> None:
    """Not what the child has started either, nor what keeps the command's output open."""
    with command("print(os.getpid(), helper().pid, flush=True)", "time.sleep(60)") as process:
        assert process.stdout is not None
        started = [int(number) for number in process.stdout.readline().split()]
        process.kill()
        ended(process)
        wait_for(lambda: not any(is_running(each) for each in started))


def test_a_process_that_stands_still_is_ended() -> None:
    with command(
        "child = helper()",
        "child.send_signal(signal.SIGSTOP)",
        "return 0 if child.wait() == -9 else 1",
    ) as process:
        assert ended(process) == NOTHING


def test_a_signal_that_is_ignored_stays_so() -> None:
    """nohup tlearn train, and a job in the background of a script."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with command("print('ready', flush=True); time.sleep(0.5); return 0") as process:
            assert process.stdout is not None and process.stdout.readline()
            os.killpg(process.pid, signal.SIGHUP)
            assert ended(process) == NOTHING
    finally:
        signal.signal(signal.SIGHUP, before)
