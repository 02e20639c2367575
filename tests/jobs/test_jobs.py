"""Both jobs on a real Ray on this machine, with a tiny network, on drawn pictures made small."""

import dataclasses
import json
import os
import shutil
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from processes import TLEARN, started, wait_for
from safetensors.torch import load_file
from test_elastic import updates_done

from tlearn.cli import main
from tlearn.demo import drawings
from tlearn.features import phases
from tlearn.network import arithmetic, description
from tlearn.training.gate import Gate

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

TINY = ["--arch", "vgg_tiny", "--weights", "none"]
PUBLISHED = ["--arch", "vgg16", "--weights", "imagenet"]
# Without int8, which costs a calibration and a gate; bf16 is fp32 where the processor has none.
SMALL = ["--preprocess.image-size", "64", "--preprocess.short-side", "72", "--precision", "bf16", *TINY]
NUM_EPOCHS = 12
EPOCHS = ["--optim.num-epochs", str(NUM_EPOCHS)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    drawings.draw_folder(folder, num_train=60, num_val=24, num_test=20, seed=1)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache without published weights."""
    return tmp_path_factory.mktemp("features")


def arguments(data: Path, run: Path, cache: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--output", str(run), "--cache", str(cache), *SMALL, *more]


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def run(data: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "first"
    assert main(["train", *arguments(data, folder, features, *EPOCHS)]) == 0
    return folder


def test_training_leaves_the_files_that_the_design_names(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "manifest.parquet", "metrics.jsonl", "summary.json", "model", "report.html"}
    assert names >= {"pictures.parquet", "layers.parquet"}
    assert any(name.startswith("events.out.tfevents.") for name in names)
    assert {path.name for path in (run / "model").iterdir()} == {"model.safetensors", "model.json", "README.md"}
    assert not [path for path in run.rglob("*.tmp")]
    summary = read_json(run / "summary.json")
    assert summary["num_train"] == 60 and summary["num_val"] == 24 and summary["skipped"] == 1
    assert summary["features_computed"] == 2 * 60 + 24 and summary["features_reused"] == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, NUM_EPOCHS + 1))
    best = min(lines, key=lambda line: line["val_loss"])
    assert (summary["best_epoch"], summary["val_accuracy"]) == (best["epoch"], best["val_accuracy"])
    described = description.describe(str(run / "model"))
    assert summary["temperature"] == described.temperature != 1.0
    assert summary["quality"]["accuracy"] == summary["val_accuracy"]
    assert summary["quality"]["log_loss"] <= summary["val_loss"] + 1e-6


def test_a_bad_file_is_a_row_with_a_reason(run: Path) -> None:
    rows = pq.read_table(run / "manifest.parquet").to_pylist()
    assert len(rows) == 60 + 24 + 1
    bad = [row for row in rows if row["status"] != "ok"]
    assert [(row["path"], row["status"]) for row in bad] == [("train/cat/broken.jpg", "unreadable")]
    assert "truncated" in bad[0]["error"]


def test_the_same_command_again_changes_nothing(data: Path, features: Path, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main(["train", *arguments(data, run, features, *EPOCHS)]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_other_settings_do_not_touch_a_run(
    data: Path, features: Path, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments(data, run, features, *EPOCHS, "--optim.lr", "1e-3")]) == 2
    assert "optim.lr 0.0001 there, 0.001 here" in capfd.readouterr().err
    assert main(["train", *arguments(data, run, features, *EPOCHS, "--resume", "never")]) == 2
    absent = run.parent / "absent"
    assert main(["train", *arguments(data, absent, features, "--resume", "require")]) == 2


def test_another_learning_rate_computes_no_features(data: Path, features: Path, run: Path, tmp_path: Path) -> None:
    more = ["--optim.num-epochs", "1", "--optim.lr", "1e-3", "--json"]
    assert main(["train", *arguments(data, tmp_path / "run", features, *more)]) == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["features_computed"] == 0 and summary["features_reused"] == 2 * 60 + 24


def test_scores_have_one_row_for_every_listed_file(run: Path, data: Path, tmp_path: Path) -> None:
    import duckdb
    import pandas as pd

    output = tmp_path / "scores.parquet"
    assert main(["score", "--model", f"{run}/model", "--input", f"{data}/test", "--output", str(output)]) == 0
    rows = pq.read_table(output).to_pylist(maps_as_pydicts="strict")
    assert [row["path"] for row in rows] == sorted(path.name for path in (data / "test").iterdir())
    assert [row["path"] for row in rows if row["status"] != "scored"] == ["broken.jpg"]
    for row in rows:
        if row["status"] == "scored":
            assert row["probability"] == pytest.approx(max(row["probabilities"].values()))
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert row["error"] is None and row["label"] is None and row["width"] > 0
        else:
            assert row["prediction"] is None and row["probability"] is None and row["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    assert len(pd.read_parquet(output)) == 21
    count = duckdb.sql(
        f"select count(*) from '{output}' where status = 'scored' and probabilities['cat'] > -1"
    ).fetchall()
    assert count == [(20,)]


def middle(evaluated: list[dict[str, Any]]) -> float:
    """Half of the images are less sure than that."""
    return statistics.median(max(row["probabilities"].values()) for row in evaluated)


def test_scores_of_validation_images_equal_the_last_evaluation(run: Path, data: Path, tmp_path: Path) -> None:
    evaluated = pq.read_table(run / "validation.parquet").to_pylist()
    output, limit = tmp_path / "val.parquet", middle(evaluated)
    words = ["--model", f"{run}/model", "--input", f"{data}/val", "--output", str(output), "--workers", "1"]
    assert main(["score", *words, "--abstain-below", str(limit)]) == 0
    scored = {f"val/{row['path']}": row for row in pq.read_table(output).to_pylist(maps_as_pydicts="strict")}
    assert len(evaluated) == len(scored) == 24
    assert {row["status"] for row in scored.values()} == {"scored", "uncertain"}
    for row in evaluated:
        found = scored[row["path"]]
        assert found["label"] == row["label"]
        assert found["status"] == ("uncertain" if found["probability"] < limit else "scored")
        assert found["probabilities"]["dog"] == pytest.approx(row["probabilities"]["dog"], abs=1e-3)


@pytest.mark.long
def test_two_workers_make_the_weights_that_one_makes(data: Path, features: Path, tmp_path: Path) -> None:
    more = ["--optim.num-epochs", "2", "--optim.global-batch-size", "22", "--quiet"]
    for count in ("1", "2"):
        run = tmp_path / count
        assert main(["train", "notebook", *arguments(data, run, features, *more, "--workers", count)]) == 0
    one, two = weights_of(tmp_path / "1"), weights_of(tmp_path / "2")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5)


def num_epochs_done(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


# The cluster has two CPUs, and so the workers two threads.
_TWO_CPUS = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])"
ON_TWO_CPUS = [*TLEARN[:-1], f"{_TWO_CPUS}; {TLEARN[-1]}"]
ALONE = {"RAY_ADDRESS": "local"}


@pytest.mark.parametrize(
    ("first", "then"),
    [({}, ALONE), *(pytest.param(*both, marks=pytest.mark.long) for both in [({}, {}), (ALONE, {}), (ALONE, ALONE)])],
)
def test_a_killed_run_ends_as_if_it_had_not_been_killed_by_ray_train_or_without(
    data: Path, features: Path, run: Path, tmp_path: Path, first: dict[str, str], then: dict[str, str]
) -> None:
    killed = tmp_path / "killed"
    command = ["train", *arguments(data, killed, features, *EPOCHS)]
    with started(*ON_TWO_CPUS, *command, **first) as driver:
        wait_for(lambda: num_epochs_done(killed) >= 2, driver)
        driver.kill()
    assert not (killed / "summary.json").exists()
    with started(*ON_TWO_CPUS, *command, "--resume", "require", **then) as driver:
        _, said = driver.communicate(timeout=200)
        assert driver.returncode == 0, said
    assert len(list((killed / "checkpoints").glob("train-*"))) == 2
    for name, tensor in weights_of(run).items():
        assert torch.equal(tensor, weights_of(killed)[name]), name
    lines = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, NUM_EPOCHS + 1))


@pytest.mark.parametrize(
    ("send", "number", "code", "word"),
    [
        (os.kill, signal.SIGTERM, 143, "terminated"),
        # Ctrl-C on a terminal reaches the whole process group: Ray's processes too.
        (os.killpg, signal.SIGINT, 130, "stopped"),
    ],
)
def test_a_stopped_run_writes_a_checkpoint_within_the_epoch_and_ends(
    data: Path,
    features: Path,
    tmp_path: Path,
    send: Callable[[int, int], None],
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    """With a Ray of its own, which it has to end as well."""
    run = tmp_path / "run"
    more = ["--optim.num-epochs", "100000", "--optim.global-batch-size", "1", "--quiet"]
    command = [*TLEARN, "train", *arguments(data, run, features, *more)]
    with started(*command, RAY_ADDRESS="local") as driver:
        wait_for(lambda: (run / "metrics.jsonl").exists(), driver)
        assert not updates_done(run)
        send(driver.pid, number)
        _, said = driver.communicate(timeout=100)
    assert driver.returncode == code and f"{word}; the same command goes on from here" in said, said
    assert "Traceback" not in said and not list(run.glob("lease*"))
    assert updates_done(run) and list(run.glob("checkpoints/*/stop"))


@pytest.mark.long
def test_a_damaged_checkpoint_is_not_used(data: Path, features: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "summary.json").unlink()
    for path in copy.glob("checkpoints/*/checkpoint_*/trainable.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert main(["train", *arguments(data, copy, features, *EPOCHS)]) == 0
    for name, tensor in weights_of(copy).items():
        assert torch.equal(tensor, weights_of(run)[name]), name


@pytest.mark.long
def test_int8_that_changes_predictions_is_not_kept(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="openvino (extra cpu) is not installed")
    monkeypatch.setattr(arithmetic, "has_int8", lambda: True)
    monkeypatch.setattr(Gate, "passes", False)
    run, more = tmp_path / "run", ["--optim.num-epochs", "1", "--precision", "auto", *PUBLISHED]
    assert main(["train", *arguments(data, run, cache, *more)]) == 0
    assert "int8 features change the predictions" in capfd.readouterr().out
    summary = read_json(run / "summary.json")
    assert summary["arithmetic"] == f"openvino-{arithmetic.native_precision()}"
    assert summary["gate_num_val"] == summary["gate_num_asked"] == 24 and 0 <= summary["agreement"] <= 1
    assert description.describe(str(run / "model")).arithmetic.ranges == ()
    assert read_json(run / "config.json")["arithmetic"]["precision"] == arithmetic.native_precision()

    score = ["score", "--model", f"{run}/model", "--input", f"{data}/test", "--output", f"{tmp_path}/scores.parquet"]
    assert main([*score, "--precision", "int8"]) == 2
    assert "train it with --precision int8" in capfd.readouterr().err
    assert main([*score, "--precision", "int8", "--engine", "torch"]) == 2
    assert "expected openvino for --precision int8, got torch" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True),
        ({"int8_val_accuracy": 0.980}, False),
        ({"int8_val_accuracy": 0.986}, True),
        ({"agreement": 0.985}, False),
        ({"int8_val_loss": 0.061}, False),
        ({"gate_num_val": 20, "agreement": 0.95, "int8_val_accuracy": 0.94}, True),
        ({"gate_num_val": 20, "agreement": 0.90}, False),
    ],
)
def test_the_gate_allows_half_a_point_or_one_image(changes: dict[str, Any], passes: bool) -> None:
    figures = Gate(
        500, plain_val_loss=0.05, plain_val_accuracy=0.99, int8_val_loss=0.05, int8_val_accuracy=0.99, agreement=0.998,
        gate_num_asked=500,
    )  # fmt: skip
    assert dataclasses.replace(figures, **changes).passes is passes


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    drawings.draw_folder(folder, num_train=36, num_val=24, num_test=6, seed=2, kinds=drawings.KINDS)
    return folder


@pytest.mark.long
def test_three_classes_are_fine_tuned_scored_and_reported(three: Path, features: Path, tmp_path: Path) -> None:
    run, more = tmp_path / "run", ["--optim.head-epochs", "2", "--optim.num-epochs", "1", "--balance"]
    assert main(["train", "finetune", *arguments(three, run, features, *more)]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["epoch"]) for line in lines] == [(1, 1), (1, 2), (2, 3)]
    assert [line["train_count"] for line in lines] == [72, 72, 36]  # with mirror images, then a crop of each
    summary = read_json(run / "summary.json")
    assert summary["classes"] == ["cat", "dog", "rabbit"]
    assert summary["frozen_blocks"] == (5 if summary["best_epoch"] < 3 else 4)
    assert set(summary["quality"]["per_class"]) == {"cat", "dog", "rabbit"}
    assert "rabbit" in (run / "report.html").read_text(encoding="utf-8")

    evaluated = pq.read_table(run / "validation.parquet").to_pylist()
    output, limit = tmp_path / "val.parquet", middle(evaluated)
    score = ["score", "--model", f"{run}/model", "--input", f"{three}/val", "--output", str(output)]
    assert main([*score, "--abstain-below", str(limit)]) == 0
    scored = {f"val/{row['path']}": row for row in pq.read_table(output).to_pylist(maps_as_pydicts="strict")}
    for row in evaluated:
        found = scored[row["path"]]
        assert found["status"] == ("scored" if found["probability"] >= limit else "uncertain")
        for name, value in row["probabilities"].items():
            assert found["probabilities"][name] == pytest.approx(value, abs=2e-3)


@pytest.mark.long
def test_fresh_crops_learn_the_same_whether_pixels_are_kept_or_decoded(
    data: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--augment", "full", "--optim.num-epochs", "1", "--engine", "torch", "--precision", "fp32"]
    assert main(["train", *arguments(data, tmp_path / "kept", features, *more)]) == 0
    monkeypatch.setattr(phases, "fits", lambda plans, cut: cut.frozen_blocks > 0)
    empty = tmp_path / "cache"
    empty.mkdir()
    assert main(["train", *arguments(data, tmp_path / "decoded", empty, *more)]) == 0
    kept, decoded = weights_of(tmp_path / "kept"), weights_of(tmp_path / "decoded")
    assert all(torch.equal(kept[name], decoded[name]) for name in kept)
    num_bytes = {sum(file.stat().st_size for file in path.iterdir()) for path in (empty / "features").iterdir()}
    assert max(num_bytes) < 60 * 72 * 72 * 3  # what the pixels would take


def test_auto_says_the_figures_and_takes_their_case(
    data: Path, features: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = ["--optim.num-epochs", "1", "--workers", "1"]
    command = ["train", "auto", *arguments(data, tmp_path / "run", features, *more)]
    assert main(command) == 0
    said = capfd.readouterr().out
    assert "auto: very few images (30 in the smallest class, 1,000 are many)" in said and "separability" in said
    config = read_json(tmp_path / "run" / "config.json")
    assert config["config"]["recipe"] == "auto" and config["config"]["optim"]["num_epochs"] == 1
    assert config["config"]["optim"]["global_batch_size"] == 16
    assert config["requested"]["optim"]["global_batch_size"] == 64
    assert main(command) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--device", "gpu", "--workers", "4"], "at most 0 workers on GPUs (2 CPUs, 0 GPUs in the cluster), got 4"),
        (["--workers", "5:9"], "got 5:9"),
    ],
)
def test_more_workers_than_the_cluster_has_end_with_2_and_both_numbers(
    data: Path, features: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(["train", *arguments(data, tmp_path / "run", features, *more)]) == 2
    assert said in capfd.readouterr().err
