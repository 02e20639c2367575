"""Scoring and features on several real Ray nodes: one is lost in the middle, and the results are those of one node."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import torch
from pictures import picture
from processes import PYTHONPATH, wait_for
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from safetensors.torch import load_file
from support import save_model

from tlearn import storage
from tlearn.config import PreprocessConfig, ScoreConfig
from tlearn.console import Progress
from tlearn.data.manifest import File
from tlearn.demo import drawings
from tlearn.distributed import launch, pool
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import Threads
from tlearn.features import compute as features
from tlearn.features.compute import Compute, Task
from tlearn.features.cut import Cut
from tlearn.network import weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.frozen import Frozen
from tlearn.scoring import compute
from tlearn.scoring import job as scoring
from tlearn.scoring.actor import Score

PREPROCESS = PreprocessConfig(image_size=64, short_side=72)

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head with one CPU; a test adds to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH, prepend=os.pathsep)
        # A dead node is noticed after two seconds instead of half a minute.
        noticed = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": noticed}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", cluster.address)
        launch.start_ray()
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight chunks: 64 pictures and a broken one."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(64):
        (folder / f"{number:02}.png").write_bytes(picture(number))
    (folder / "broken.png").write_bytes(picture(64)[:700])
    return folder


def note(folder: str, chunk: str) -> None:
    """Which node a chunk was done on; and time, so that a node can be lost, or come, before all is done."""
    root = Path(folder).parent
    path = root / "done" / ray.get_runtime_context().get_node_id() / chunk
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    time.sleep(0.5)
    wait_for(lambda: not (root / "hold").exists())


class SlowScore(Score):
    def __call__(self, chunk: Chunk) -> ChunkResult:
        result = super().__call__(chunk)
        note(self.task.input, chunk.id)
        return result


class SlowCompute(Compute):
    def __init__(self, task: Task, threads: Threads):
        super().__init__(task, threads)
        self.data = task.data

    def __call__(self, chunk: Chunk) -> ChunkResult:
        result = super().__call__(chunk)
        note(self.data, chunk.id)
        return result


def num_done(data: Path) -> dict[str, int]:
    """Chunks of each node."""
    return {folder.name: len(list(folder.iterdir())) for folder in (data.parent / "done").glob("*")}


def score(tmp_path: Path, **settings: Any) -> list[dict[str, Any]]:
    config = ScoreConfig(
        model=str(tmp_path / "model"),
        input=str(tmp_path / "data"),
        output=str(tmp_path / "scores.parquet"),
        cache=str(tmp_path / "cache"),
        engine="torch",
        precision="fp32",
        quiet=True,
        **settings,
    )
    assert scoring.score(config).listed == 65
    return rows(tmp_path / "scores.parquet")


def rows(table: Path) -> list[dict[str, Any]]:
    """Without what differs from run to run."""
    return pq.read_table(table).sort_by("path").drop_columns(["run", "scored_at"]).to_pylist()  # type: ignore[no-any-return]


def during(work: Callable[[], Any], happens: Callable[[], object]) -> Any:
    """What the work returns, done in another thread."""
    with ThreadPoolExecutor(1) as thread:
        doing = thread.submit(work)
        happens()
        return doing.result()


def require_nothing_left() -> None:
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}


def lose(cluster: Cluster, node: Any, data: Path) -> None:
    """As soon as it has done a chunk."""
    wait_for(lambda: node.node_id in num_done(data))
    cluster.remove_node(node, allow_graceful=False)


def test_scores_are_the_same_when_a_node_is_lost_and_when_one_comes(
    tmp_path: Path, data: Path, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", PREPROCESS)
    monkeypatch.setattr(compute, "SCORER", f"{__name__}:SlowScore")
    lost = nodes.add_node(num_cpus=1)
    with_loss = during(lambda: score(tmp_path), lambda: lose(nodes, lost, data))
    assert 0 < num_done(data)[lost.node_id] < 8

    shutil.rmtree(tmp_path / "done")
    (tmp_path / "hold").touch()

    def add() -> None:
        wait_for(lambda: num_done(data))
        new = nodes.add_node(num_cpus=1)
        wait_for(lambda: new.node_id in num_done(data))
        (tmp_path / "hold").unlink()

    with_addition = during(lambda: score(tmp_path, workers="1:2"), add)

    monkeypatch.undo()
    expected = score(tmp_path)
    assert [row["status"] for row in expected] == ["scored"] * 64 + ["unreadable"]
    assert with_loss == expected
    assert with_addition == expected
    require_nothing_left()


def test_features_are_the_same_bytes_when_a_node_is_lost(
    tmp_path: Path, data: Path, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = Frozen(5, PREPROCESS, tensors=weights.load("none", ""))
    files = [
        File("train", path.name, "cat", path.stat().st_size, 0, storage.sha256_file(path))
        for path in sorted(data.iterdir())
    ]

    def compute(name: str) -> dict[str, bytes]:
        cut = Cut("none", str(tmp_path / name), 5, PREPROCESS, Arithmetic(), frozen.digest())
        plan = features.plan([(files, ("plain", "mirror"))], cut)
        actors = launch.nodes().pool(None, len(plan))
        assert features.run(plan, str(data), cut, actors, Progress("features", 65)) == (128, 1)
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in tmp_path.rglob(f"{name}/**/*.arrow")}

    expected = compute("one")
    run = pool.run
    slowly = f"{__name__}:SlowCompute"
    monkeypatch.setattr(pool, "run", lambda work, _, *more: run(work, slowly, *more))
    lost = nodes.add_node(num_cpus=1)
    found = during(lambda: compute("two"), lambda: lose(nodes, lost, data))
    assert 0 < num_done(data)[lost.node_id] < 9
    assert len(found) == 18 and found == expected
    require_nothing_left()


def test_folders_are_planned_by_tasks_of_a_cluster_and_each_picture_is_scored_once(
    tmp_path: Path, data: Path, nodes: Cluster
) -> None:
    save_model(tmp_path / "model", PREPROCESS)
    more = nodes.add_node(num_cpus=1)
    other = tmp_path / "other"
    other.mkdir()
    for number in range(64, 80):
        (other / f"{number}.png").write_bytes(picture(number))

    def added() -> tuple[int, int]:
        config = ScoreConfig(
            model=str(tmp_path / "model"),
            input=(str(data), str(other)),
            output=f"{tmp_path}/table/",
            cache=str(tmp_path / "cache"),
            engine="torch",
            precision="fp32",
            quiet=True,
        )
        scored = scoring.score(config)
        return scored.listed, scored.added

    assert added() == (81, 81)
    assert added() == (81, 0)
    (other / "new.png").write_bytes(picture(80))
    assert added() == (82, 1)
    nodes.remove_node(more)
    paths = [row["path"] for file in (tmp_path / "table").glob("*.parquet") for row in rows(file)]
    assert len(paths) == len(set(paths)) == 82
    assert len(list((tmp_path / "cache").rglob("*-of-002.duckdb"))) == 2
    require_nothing_left()


RAY = "from ray.scripts.scripts import main; main()"
WAIT = """
import ray, time
ray.init()
while len(ray.nodes()) < 2:
    time.sleep(0.2)
"""
TLEARN = """
import sys
from tlearn import cli
from tlearn.scoring import compute
compute.SCORER = "test_nodes:SlowScore"
sys.exit(cli.main())
"""


class Network:
    """Two namespaces joined by a cable, each with a Ray node of one CPU."""

    def __init__(self, name: str, ray_folder: str):
        self.names = [f"{name}-{end}" for end in ("head", "more")]
        self.ray_folder = ray_folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")]),
            "RAY_ADDRESS": "198.18.0.1:6379",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0" * 64,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Gloo would take the address that the host's name has, which is often loopback.
            "GLOO_SOCKET_IFNAME": "cable",
        }

    def ip(self, command: str) -> str:
        return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout

    def open(self) -> None:
        for name in self.names:
            self.ip(f"netns add {name}")
            self.ip(f"-n {name} link set lo up")
        self.ip("-n {} link add cable type veth peer name cable netns {}".format(*self.names))
        for number, name in enumerate(self.names):
            self.ip(f"-n {name} address add 198.18.0.{number + 1}/30 dev cable")
            self.ip(f"-n {name} link set cable up")

    def popen(self, end: int, code: str, *words: str) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", self.names[end], sys.executable, "-c", code, *words]
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def start(self, end: int) -> None:
        noticed = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}
        words = [f"--node-ip-address=198.18.0.{end + 1}", "--num-cpus=1", "--block", "--disable-usage-stats"]
        if end == 0:
            words += ["--head", "--port=6379", "--include-dashboard=false", f"--system-config={json.dumps(noticed)}"]
            words += [f"--temp-dir={self.ray_folder}"]
        else:
            words += ["--address=198.18.0.1:6379"]
        self.popen(end, RAY, "start", *words)

    def drive(self, code: str, *words: str) -> None:
        assert self.popen(0, code, *words).wait(200) == 0

    def close(self) -> None:
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):  # was not made
                while pids := self.ip(f"netns pids {name}").split():
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
                self.ip(f"netns delete {name}")
        for process in self.started:
            process.wait(60)


@pytest.fixture
def network_of_two(tmp_path: Path) -> Iterator[Network]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and the command ip, for network namespaces")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a path of a socket has 107 bytes at most
        network = Network(f"tlearn-{os.getpid()}", folder)
        try:
            network.open()
            yield network
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no rights to make network namespaces: {error.stderr.strip()}")
        finally:
            network.close()


def test_a_node_behind_a_cut_cable_is_a_lost_node(tmp_path: Path, data: Path, network_of_two: Network) -> None:
    save_model(tmp_path / "model", PREPROCESS)
    words = [
        "score", "--model", str(tmp_path / "model"), "--input", str(data), "--cache", str(tmp_path / "cache"),
        "--engine", "torch", "--precision", "fp32", "--quiet", "--output",
    ]  # fmt: skip
    for end in (0, 1):
        network_of_two.start(end)
    network_of_two.drive(WAIT)

    def cut() -> None:
        wait_for(lambda: len(num_done(data)) == 2)
        network_of_two.ip(f"-n {network_of_two.names[0]} link set cable down")

    during(lambda: network_of_two.drive(TLEARN, *words, str(tmp_path / "two.parquet"), "--workers", "2"), cut)
    network_of_two.drive(TLEARN, *words, str(tmp_path / "one.parquet"))
    expected = rows(tmp_path / "one.parquet")
    assert len(expected) == 65
    assert rows(tmp_path / "two.parquet") == expected


def test_two_workers_on_two_nodes_make_the_weights_that_one_makes(tmp_path: Path, network_of_two: Network) -> None:
    drawings.draw_folder(tmp_path / "images", num_train=24, num_val=8, num_test=0, seed=1)
    for end in (0, 1):
        network_of_two.start(end)
    network_of_two.drive(WAIT)
    found = []
    for workers in ("2", "1"):
        run = tmp_path / workers
        network_of_two.drive(
            TLEARN, "train", "--data", str(tmp_path / "images"), "--output", str(run),
            "--cache", str(tmp_path / "cache"), "--weights", "none", "--engine", "torch", "--precision", "fp32",
            "--preprocess.image-size", "32", "--preprocess.short-side", "36", "--optim.num-epochs", "2",
            "--head.width", "16", "--workers", workers,
        )  # fmt: skip
        found.append(load_file(run / "model" / "model.safetensors"))
    for name, tensor in found[1].items():
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-3, atol=1e-4)
