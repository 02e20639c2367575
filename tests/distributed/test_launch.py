"""Two nodes of Ray on this machine; /proc/self/cwd is a path that every process sees something else at."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import instant
import pytest
import ray
from processes import Head
from ray.cluster_utils import Cluster

from tlearn.cli import main
from tlearn.demo import drawings
from tlearn.distributed import launch
from tlearn.errors import UsageError

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc for a path that nodes do not share"),
]

PRIVATE = "/proc/self/cwd"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the driver, and no process of the nodes, is."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        patch.chdir(tmp_path)
        launch.start_ray()
        yield tmp_path
        ray.shutdown()
    cluster.shutdown()


def test_a_path_that_one_node_does_not_see_is_named_before_anything_is_computed(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drawings.draw_folder(folder / "data", num_train=8, num_val=4, num_test=2, seed=1)
    instant.save_model(folder / "model")
    (folder / "out").mkdir()
    before = sorted(folder.rglob("*"))
    launch.require_shared([f"{folder}/data/val/cat/0001.jpg", "s3://nowhere/x"], [f"{folder}/out", "s3://nowhere/y"])
    launch.require_shared([f"{folder}/nothing"], [])  # whoever reads it says so
    for files, folders in (([f"{PRIVATE}/data/val/cat/0001.jpg"], []), ([], [f"{folder}/out", f"{PRIVATE}/out"])):
        with pytest.raises(UsageError, match=rf"node \S+ does not see {(files or folders[1:])[0]}: put it on"):
            launch.require_shared(files, folders)
    assert sorted(folder.rglob("*")) == before

    shared = {"--data": f"{folder}/data", "--cache": f"{folder}/cache", "--output": f"{folder}/run"}
    for flag, path in shared.items():
        words = {**shared, flag: path.replace(str(folder), PRIVATE)}
        arguments = [word for pair in words.items() for word in pair]
        assert main(["train", *arguments, "--arch", "vgg_tiny", "--weights", "none", "--quiet"]) == 2
        assert f"does not see {words[flag]}" in capfd.readouterr().err
    assert not (folder / "cache" / "features").exists()

    shared = {"--model": f"{folder}/model", "--input": f"{folder}/data/test", "--output": f"{folder}/table/"}
    for flag, path in shared.items():
        words = {**shared, flag: path.replace(str(folder), PRIVATE)}
        arguments = [word for pair in words.items() for word in pair]
        assert main(["score", *arguments, "--cache", f"{folder}/cache", "--quiet"]) == 2
        assert f"does not see {words[flag].rstrip('/')}" in capfd.readouterr().err
    assert not list((folder / "table").glob("*.parquet"))


def test_a_driver_that_is_terminated_may_take_its_time_to_end() -> None:
    """As scoring starts Ray: in a thread, so that only what the main thread does afterwards can be in its way."""
    code = """
import os, signal, sys, threading, time
from tlearn.distributed import launch

def end(*_):
    time.sleep(4)
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
started = threading.Event()
threading.Thread(target=lambda: (launch.start_ray(), started.set(), threading.Event().wait()), daemon=True).start()
started.wait()
launch.start_ray()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    own = {**os.environ, "RAY_ADDRESS": "local"}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 143, done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "environment", "says"),
    [
        ("import ray; ray.__version__ = '2.1.0'", {}, "another Ray or Python there .*2.1.0"),
        ("pass", {"RAY_AUTH_TOKEN": "fedcba9876543210" * 4}, "its token may be missing here"),
        (
            "pass",
            {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": "/nonexistent"},
            "its token may be missing here",
        ),
    ],
    ids=["version", "wrong token", "no token"],
)
def test_a_cluster_that_this_process_does_not_fit_ends_with_7_and_a_line(
    change: str, environment: dict[str, str], says: str, head: Head, tmp_path: Path
) -> None:
    instant.save_model(tmp_path / "model")
    drawings.draw_folder(tmp_path / "data", num_train=2, num_val=2, num_test=2, seed=1)
    words = ["--model", f"{tmp_path}/model", "--input", f"{tmp_path}/data/test", "--output", f"{tmp_path}/scores/"]
    code = f"{change}; import sys; from tlearn.cli import main; sys.exit(main())"
    own = {**os.environ, "RAY_ADDRESS": head.address, **environment}
    own = {name: value for name, value in own.items() if value}
    done = subprocess.run(
        [sys.executable, "-c", code, "score", *words, "--cache", f"{tmp_path}/cache", "--quiet"],
        env=own,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 7 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(rf"expected a Ray at {head.address} \(from RAY_ADDRESS\).*{says}", done.stderr)
