"""Training on several real Ray nodes: a worker killed, a node lost, a node added; every sample counted once."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from processes import wait_for
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from safetensors.torch import load_file

from tlearn.demo import drawings
from tlearn.distributed import launch

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600)]

# The frozen layers in every step and a picture a step, so that an epoch lasts long enough to be disturbed.
SETTINGS = [
    "--augment", "full", "--preprocess.image-size", "32", "--preprocess.short-side", "40", "--head.width", "16",
    "--optim.num-epochs", "30", "--optim.global-batch-size", "2", "--checkpoint-every-seconds", "0.5",
    "--weights", "none", "--engine", "torch", "--precision", "fp32", "--max-failures", "6",
]  # fmt: skip


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with one CPU; the test adds to it."""
    # A dead node is noticed after two seconds instead of half a minute; its workers are not waited for for a minute.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "12")
    noticed = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": noticed}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    launch.start_ray()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def start(data: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    """A driver of its own, that looks for new nodes every two seconds."""
    code = "import sys; from tlearn.training import ray_train; ray_train._RESIZE_SECONDS = 2.0\n"
    code += "from tlearn import cli; sys.exit(cli.main())"
    arguments = ["train", "--data", str(data), "--output", str(run), "--cache", str(data / "cache")]
    command = [sys.executable, "-c", code, *arguments, *SETTINGS, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def result(driver: subprocess.Popen[str], run: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    _, said = driver.communicate(timeout=200)
    assert driver.returncode == 0, said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(run / "model" / "model.safetensors")


def updates_done(run: Path) -> list[int]:
    """Of the epochs that are under way, by the checkpoints within them."""
    found = []
    for path in run.glob("checkpoints/*/checkpoint_*/progress.json"):
        try:
            found.append(json.loads(path.read_bytes())["start"])
        except (OSError, ValueError):  # removed, or being written
            continue
    return [start for start in found if start]


def num_workers(run: Path) -> list[int]:
    """Of each epoch done."""
    path = run / "metrics.jsonl"
    return [json.loads(line)["num_workers"] for line in path.read_text().splitlines()] if path.exists() else []


def workers_now() -> list[int]:
    """The processes of the training workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"TrainWorker" in name:
            found.append(int(path.parent.name))
    return found


def test_a_killed_worker_a_lost_node_and_a_new_one_change_no_result(tmp_path: Path, nodes: Cluster) -> None:
    data, run = tmp_path / "data", tmp_path / "disturbed"
    drawings.draw_folder(data, num_train=80, num_val=10, num_test=0, seed=1)
    lost = nodes.add_node(num_cpus=1)
    disturbed = start(data, run, "--workers", "1:2")
    wait_for(lambda: len(workers_now()) == 2 and updates_done(run))
    os.kill(workers_now()[0], signal.SIGKILL)
    # Until the dead worker's CPU is free again the run may go on with one.
    wait_for(lambda: num_workers(run)[-1:] == [2])
    nodes.remove_node(lost, allow_graceful=False)
    wait_for(lambda: num_workers(run)[-1:] == [1])
    nodes.add_node(num_cpus=1)
    lines, weights = result(disturbed, run)
    undisturbed = tmp_path / "undisturbed"
    expected_lines, expected = result(start(data, undisturbed, "--workers", "1"), undisturbed)

    assert [line["train_count"] for line in lines] == [80] * 30
    assert [count for count, _ in itertools.groupby(num_workers(run))][-3:] == [2, 1, 2], num_workers(run)
    # AdamW moves a weight whose gradient is all rounding by up to 1e-4 an update, in 1,200 updates.
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-3)
    for line, other in zip(lines, expected_lines, strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], abs=1e-3)
    # Nothing is left behind.
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}
