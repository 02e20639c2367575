"""What test modules share of other processes: commands of tlearn and Ray, a Ray of two CPUs, waiting; without torch."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
FOLDERS = [str(TESTS), *sorted(str(folder) for folder in TESTS.iterdir() if folder.is_dir())]
PYTHONPATH = os.pathsep.join(FOLDERS)
"""For processes that import test modules."""

# Started in the background of a script, this process would hand SIGINT on as ignored.
_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
TLEARN = [sys.executable, "-c", f"{_SIGINT}; import sys; from tlearn.cli import main; sys.exit(main())"]
RAY = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())"]


@dataclass(frozen=True)
class Head:
    """A Ray of two CPUs and no GPU on this machine, whatever the machine has."""

    address: str
    dashboard: str
    """URL of the job server."""


@contextlib.contextmanager
def ray_head() -> Iterator[Head]:
    """Start one whose processes know the tests' modules and report their figures several times a second."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
    # Beside another Ray on this machine the agent, which starts jobs, would find its port taken.
    arguments |= {"dashboard_agent_listen_port": free_port(), "metrics_agent_port": free_port()}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        # Ray notes its newest cluster in its folder: others are not to find this one, nor its jobs another.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", folder)
            patch.setenv("RAY_metrics_report_interval_ms", "200")
            patch.setenv("PYTHONPATH", PYTHONPATH, prepend=os.pathsep)
            patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
            cluster = Cluster(initialize_head=True, head_node_args=arguments)
        yield Head(cluster.address, f"http://{cluster.webui_url}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", folder)
            cluster.shutdown()


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """This process, and those that it starts, as drivers of the Ray at an address."""
    import ray

    from tlearn.distributed import launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less for every training
        launch.start_ray()
        yield
        ray.shutdown()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def started(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive what is done with it."""
    here = {**os.environ, **environment}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    # A process group of its own, as a shell gives a command: Ctrl-C reaches all of it and nothing else.
    process = subprocess.Popen(words, env=here, text=True, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    """Until it holds; while the process that brings it about runs, if there is one."""
    deadline = time.monotonic() + 200
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read() if process.stderr else "it has ended"
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.02)
