"""The same commands through Ray's job server: `ray start --head`, `ray job submit`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tlearn import drawings

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parent.parent
RAY = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a client of a one-node cluster that lives as long as this module."""
    dashboard = free_port()
    values = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    values.pop("RAY_ADDRESS", None)
    command = [*RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [f"--port={free_port()}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    # Beside another Ray on this machine the agent, which starts jobs, would find its port taken.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    command += [f"--temp-dir={tmp_path_factory.mktemp('r')}"]
    head = subprocess.Popen(command, env=values, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while subprocess.run([*RAY, "job", "list"], env=values, capture_output=True).returncode:
            assert head.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield values
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)


def submit(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    line = [*RAY, "job", "submit", "--working-dir", str(PROJECT), "--", sys.executable, *command]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)


def test_jobs_run_through_ray_job_submit(environment: dict[str, str], cache: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    drawings.draw_folder(data, num_train=40, num_val=12, num_test=10, seed=2)
    run = tmp_path / "run"
    small = ["--preprocess.image-size", "64", "--preprocess.short-side", "72", "--optim.num-epochs", "2"]
    small += ["--precision", "bf16"]
    train = ["jobs/train.py", "frozen", "--data", str(data), "--output", str(run), "--cache", str(cache), *small]
    done = submit(environment, *train)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((run / "summary.json").read_bytes())["num_train"] == 40
    assert "class indices: {'cat': 0, 'dog': 1}" in done.stdout
    scores = tmp_path / "scores.parquet"
    done = submit(
        environment,
        *["jobs/score.py", "--model", f"{run}/model", "--input", f"{data}/test", "--output", str(scores)],
        *["--max-error-rate", "0.2"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert pq.read_table(scores).num_rows == 11
    # A driver that ends with 3 is a failed job, and the one line that says why is in its output.
    done = submit(environment, "jobs/train.py", "--data", str(tmp_path / "nowhere"), "--output", str(run))
    assert done.returncode == 1
    assert "expected a folder at" in done.stdout
