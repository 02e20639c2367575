"""What Ray's dashboard and Prometheus see of a scoring run."""

import re
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from pictures import picture
from processes import wait_for
from ray._private import state
from support import save_model

from tlearn.config import PreprocessConfig, ScoreConfig, TrainConfig
from tlearn.distributed import meters
from tlearn.distributed.chunks import Chunk
from tlearn.distributed.nodes import Node, Nodes
from tlearn.features import compute as features
from tlearn.scoring import job as scoring


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_prometheus_counts_what_the_table_holds(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    for number in range(10):
        (tmp_path / "input" / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "input" / "broken.png").write_bytes(picture(10)[:700])
    digest = save_model(tmp_path / "model", PreprocessConfig(image_size=32, short_side=36))
    config = ScoreConfig(
        model=str(tmp_path / "model"),
        input=str(tmp_path / "input"),
        output=str(tmp_path / "scores.parquet"),
        cache=str(tmp_path / "cache"),
        engine="torch",
        precision="fp32",
        workers=1,
        max_error_rate=1.0,
        quiet=True,
    )
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}"

    def exported() -> str:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return str(answer.read(), "utf-8")

    def figures() -> dict[str, float]:
        found = re.findall(r"^ray_tlearn_(\w+)\{(.*)\} (\S+)$", exported(), re.MULTILINE)
        return {f"{name} {tag}": float(value) for name, tags, value in found for tag in tags.split(",")}

    before = figures()
    scored = scoring.score(config)
    statuses = Counter(pq.read_table(config.output)["status"].to_pylist())
    wait_for(lambda: f'images_failed_total model="{digest}"' in figures())
    found = figures()
    assert found[f'images_scored_total model="{digest}"'] == statuses["scored"] == 10
    assert found[f'images_failed_total model="{digest}"'] == statuses["unreadable"] == 1
    stage = 'stage_seconds_total stage="score"'
    assert 0 < found[stage] - before.get(stage, 0.0) < scored.seconds_total
    assert "Score" in {actor["ActorClassName"] for actor in state.actors().values()}


def test_features_are_counted_where_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[Any, ...]] = []
    monkeypatch.setattr(meters, "count", lambda *figures: counted.append(figures))
    monkeypatch.setattr("tlearn.features.compute.run", lambda *_: (7, 0))
    monkeypatch.setattr("tlearn.distributed.launch.nodes", lambda: Nodes((Node(2, 0),)))
    plan: Any = [Chunk("id", pa.table({"views": [["plain"]] * 8}))]
    cut: Any = None
    assert features.compute(TrainConfig(data="", output="", quiet=True), plan, cut) == 7
    assert counted == [("features_computed", 7)]
