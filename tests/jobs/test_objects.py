"""Both jobs with every path on an object store: a server on the loopback address that fails now and then."""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import Any

import buckets
import instant
import pyarrow.parquet as pq
import pytest
from buckets import Faults
from processes import TLEARN, Head, joined, started, wait_for
from support import save_model

from tlearn import storage
from tlearn.cli import main
from tlearn.config import PreprocessConfig, ScoreConfig, digest
from tlearn.demo import drawings
from tlearn.errors import IntegrityError, LockedError, StorageError, UsageError
from tlearn.scoring import compute, table
from tlearn.scoring import job as scoring
from tlearn.scoring import output as outputs
from tlearn.scoring.ledger import Ledger
from tlearn.storage import lease, remote, stores
from tlearn.storage.remote import Remote

moto_server = pytest.importorskip("moto.server", reason="moto[server] (extra dev) is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))  # where copies are kept
        with buckets.served(patch) as faults:
            yield faults


@pytest.fixture(scope="module")
def ray_with_store(faults: Faults, head: Head) -> Iterator[None]:
    """Ray's processes have the address of the store and the keys."""
    names = [name for name in os.environ if name.startswith("AWS_")] + ["XDG_CACHE_HOME"]
    settings = {"runtime_env": {"env_vars": {name: os.environ[name] for name in names}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(settings))  # as of a job that was submitted
        with joined(head.address):
            yield


def upload(folder: Path, location: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{location}/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture
def bucket(faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with a model and 20 pictures, whose scoring takes no time."""
    place = buckets.make("photos")
    upload(Path(instant.save_model(tmp_path / "model")), f"{place}/model")
    for number in range(20):
        storage.write_bytes(f"{place}/in/cat/{number:02} #1%20.jpg", b"x" * (number + 1))
    instant.install(monkeypatch)
    yield place
    faults.every, faults.is_careless = None, False


def score(bucket: str, tmp_path: Path, output: str = "table/") -> dict[str, Any]:
    config = ScoreConfig(
        model=f"{bucket}/model",
        input=f"{bucket}/in",
        output=f"{bucket}/{output}",
        cache=str(tmp_path / "cache"),
        max_error_rate=1.0,
    )
    return scoring.score(config).to_json()


def rows(bucket: str) -> list[dict[str, Any]]:
    found = []
    for name in storage.names(f"{bucket}/table"):
        with storage.open_input(f"{bucket}/table/{name}") as file:
            found += pq.read_table(file).to_pylist()
    return found


def test_a_table_on_an_object_store_grows_as_one_on_a_disk_does(bucket: str, tmp_path: Path) -> None:
    first = score(bucket, tmp_path)
    assert (first["listed"], first["added"], first["statuses"]) == (20, 20, {"scored": 20})
    assert score(bucket, tmp_path)["added"] == 0
    storage.write_bytes(f"{bucket}/in/new.jpg", b"new one")
    assert score(bucket, tmp_path)["added"] == 1
    assert table.latest(f"{bucket}/table/")["path"].to_pylist() == sorted(row["path"] for row in rows(bucket))
    assert sorted(row["path"] for row in rows(bucket)) == sorted(
        [f"cat/{number:02} #1%20.jpg" for number in range(20)] + ["new.jpg"]
    )
    assert Ledger(f"{bucket}/table").verify() == []
    assert storage.names(f"{bucket}/table/_tlearn") == []


def test_a_single_file_on_an_object_store(bucket: str, tmp_path: Path) -> None:
    for _ in range(2):
        for name in ("scores.parquet", "scores.csv"):
            assert score(bucket, tmp_path, name)["added"] == 20
    with storage.open_input(f"{bucket}/scores.parquet") as file:
        assert pq.read_table(file).num_rows == 20
    assert main(["scores", f"{bucket}/scores.parquet", "--output", f"{bucket}/newest.csv"]) == 0
    for name in ("scores.csv", "newest.csv"):
        assert storage.read(f"{bucket}/{name}").data.count(b"\r\n") == 21
    storage.write_bytes(f"{bucket}/labels.csv", b"path,label\n")
    with pytest.raises(UsageError, match="found other data"):
        score(bucket, tmp_path, "labels.csv")


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Slow Down"])
def test_faults_of_the_store_that_pass_are_not_noticed(
    status: str, bucket: str, faults: Faults, tmp_path: Path
) -> None:
    faults.every, faults.status = 7, status
    summary = score(bucket, tmp_path)
    faults.every = None
    assert faults.num_faults > 3
    assert summary["statuses"] == {"scored": 20} and len(rows(bucket)) == 20


def test_requests_that_time_out_are_made_again(
    bucket: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "READ_SECONDS", 0.5)
    stores._store.cache_clear()
    faults.every, faults.status, faults.num_faults = 30, "stall", 0
    summary = score(bucket, tmp_path)
    faults.every = None
    stores._store.cache_clear()
    assert faults.num_faults
    assert summary["statuses"] == {"scored": 20} and len(rows(bucket)) == 20


def test_a_store_that_does_not_answer_ends_with_7_and_the_run_goes_on_later(
    bucket: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = compute.chunks

    def then_broken(*arguments: Any) -> Iterator[Any]:
        yield from chunks(*arguments)
        faults.every, faults.status = 1, "403 Forbidden"

    with monkeypatch.context() as patch:
        patch.setattr(compute, "chunks", then_broken)
        with pytest.raises(StorageError):
            score(bucket, tmp_path)
    faults.every = None
    storage.remove(f"{bucket}/table/_tlearn/lease.json")  # of this process, which would be gone
    assert not [name for name in storage.names(f"{bucket}/table") if name.endswith(".parquet")]
    assert score(bucket, tmp_path)["added"] == 20
    assert len(rows(bucket)) == 20


def test_a_lease_on_an_object_store_is_respected_and_taken_over_when_old(bucket: str) -> None:
    folder = f"{bucket}/table/_tlearn"
    with lease.Lease(folder), pytest.raises(LockedError), lease.Lease(folder):
        pass
    facts = {"owner": "someone", "host": "elsewhere", "boot": "x", "pid": 1, "started": "1"}
    storage.write_bytes(f"{folder}/lease.json", json.dumps(facts).encode())
    with pytest.raises(LockedError), lease.Lease(folder):
        pass
    with lease.Lease(folder, seconds=0.0) as held:
        held.check()


def test_of_leases_that_want_a_folder_of_a_store_one_gets_it(bucket: str) -> None:
    start, end = threading.Barrier(4), threading.Barrier(4)

    def want(folder: str) -> bool:
        start.wait(20)
        try:
            with lease.Lease(folder, seconds=60 if folder.endswith("free") else 0.0) as held:
                end.wait(20)
                held.check()
                return True
        except LockedError:
            end.wait(20)
            return False

    with ThreadPoolExecutor(4) as threads:
        for number in range(5):
            storage.create(f"{bucket}/{number}/dead/lease.json", b"{}")
            for folder in (f"{bucket}/{number}/free", f"{bucket}/{number}/dead"):
                assert sorted(threads.map(want, [folder] * 4)) == [False] * 3 + [True]


def test_a_store_that_ignores_conditions_is_said_and_scored_as_before(
    bucket: str, faults: Faults, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.1)
    faults.is_careless = True
    assert score(bucket, tmp_path)["added"] == 20
    assert score(bucket, tmp_path)["added"] == 0
    said = [message for message in caplog.messages if "ignores If-None-Match" in message]
    assert len(said) == 2 and len(rows(bucket)) == 20
    assert storage.names(f"{bucket}/table/_tlearn") == []


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_with_store")
def test_actors_read_and_write_the_object_store(
    bucket: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, pictures and table there, a real Ray, a store that fails now and then."""
    monkeypatch.undo()
    save_model(tmp_path / "real", PreprocessConfig(image_size=32, short_side=36))
    upload(tmp_path / "real", f"{bucket}/real")
    drawings.draw_folder(tmp_path / "drawn", num_train=2, num_val=2, num_test=10, seed=5)
    upload(tmp_path / "drawn" / "test", f"{bucket}/drawn")
    config = ScoreConfig(
        model=f"{bucket}/real", input=f"{bucket}/drawn", output=f"{bucket}/table/", cache=str(tmp_path / "cache")
    )
    faults.every, faults.status, faults.num_faults = 13, "503 Slow Down", 0
    scored = scoring.score(config)
    faults.every = None
    assert faults.num_faults
    assert scored.exceeds(config.max_error_rate) and (scored.statuses == {"scored": 10, "unreadable": 1})
    assert len({row["path"] for row in rows(bucket)}) == len(rows(bucket)) == 11
    assert Ledger(f"{bucket}/table").verify() == []


def test_a_bucket_that_is_not_there_ends_with_an_error_that_names_it(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3://nowhere/in"):
        scoring.score(ScoreConfig(model=f"{bucket}/model", input="s3://nowhere/in", output=str(tmp_path / "t.parquet")))
    with pytest.raises(StorageError, match="s3://nowhere"):
        storage.write_bytes("s3://nowhere/x", b"1")


EPOCHS = 12
NUM_TRAIN, NUM_VAL = 24, 8
FP32 = ["--engine", "torch", "--precision", "fp32"]
SMALL = [
    *FP32, "--arch", "vgg_tiny", "--weights", "none",
    "--preprocess.image-size", "32", "--preprocess.short-side", "40", "--head.width", "16",
    "--optim.num-epochs", str(EPOCHS), "--optim.global-batch-size", "8", "--quiet",
]  # fmt: skip


def train(place: str) -> list[str]:
    return ["train", "--data", f"{place}/data", "--cache", f"{place}/cache", "--output", f"{place}/run", *SMALL]


def read_json(folder: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = storage.read_json(storage.join(folder, name))
    return content


def left_by(run: str) -> set[str]:
    paths = {entry.path for entry in storage.stream(run) if not entry.path.startswith("checkpoints/")}
    return {"events" if path.startswith("events.out.tfevents.") else path for path in paths}


def scored(place: str) -> list[dict[str, Any]]:
    words = ["--model", f"{place}/run/model", "--input", f"{place}/data/test", "--output", f"{place}/scores.parquet"]
    assert main(["score", *words, "--cache", f"{place}/cache", "--max-error-rate", "1", *FP32, "--quiet"]) == 0
    with storage.open_input(f"{place}/scores.parquet") as file:
        rows: list[dict[str, Any]] = pq.read_table(file).drop(["model", "run", "scored_at", "modified"]).to_pylist()
    return rows


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_with_store")
def test_a_run_on_an_object_store_that_is_killed_ends_as_one_on_a_disk_that_is_not(
    faults: Faults, tmp_path: Path
) -> None:
    drawings.draw_folder(tmp_path / "data", num_train=NUM_TRAIN, num_val=NUM_VAL, num_test=6, seed=3)
    place = buckets.make("training")
    upload(tmp_path / "data", f"{place}/data")
    run = f"{place}/run"
    attempts = [f"train-{digest(run)[:8]}-{number:03}" for number in (1, 2)]
    attempt = f"{run}/checkpoints/{attempts[0]}"
    metrics = storage.join(attempt, "metrics.jsonl")
    with started(*TLEARN, *train(place)) as driver:
        wait_for(lambda: "metrics.jsonl" in storage.names(attempt) and storage.read(metrics).data, driver)
        driver.kill()
    assert len(storage.read(storage.join(attempt, "metrics.jsonl")).data.splitlines()) < EPOCHS
    assert not storage.exists(f"{run}/summary.json")

    assert main([*train(place), "--resume", "require"]) == 0
    assert main([*train(place), "--resume", "require"]) == 0  # finished: nothing to do
    assert main(train(str(tmp_path))) == 0
    summary, expected = read_json(run, "summary.json"), read_json(f"{tmp_path}/run", "summary.json")
    assert (summary["features_computed"], expected["features_computed"]) == (0, 2 * NUM_TRAIN + NUM_VAL)
    assert summary["features_reused"] == 2 * NUM_TRAIN + NUM_VAL
    assert [summary[name] for name in ("epochs", "best_epoch", "val_loss", "quality")] == [
        expected[name] for name in ("epochs", "best_epoch", "val_loss", "quality")
    ]
    assert storage.folders(f"{run}/checkpoints") == attempts
    assert left_by(run) == left_by(f"{tmp_path}/run") >= {"events", "metrics.jsonl", "report.html", "model/model.json"}
    models = [read_json(f"{folder}/model", "model.json") for folder in (run, f"{tmp_path}/run")]
    assert models[0]["weights_sha256"] == models[1]["weights_sha256"]
    rows = scored(place)
    assert len(rows) == 7 and rows == scored(str(tmp_path))


def test_a_machine_fetches_a_file_once_however_many_ask_for_it(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    open_input = Remote.open_input

    def fetch(source: Remote) -> BufferedReader:
        fetched.append(source.location)
        time.sleep(0.2)
        return open_input(source)

    monkeypatch.setattr(Remote, "open_input", fetch)
    for content in (b"one", b"other one"):
        storage.write_bytes(f"{bucket}/file", content)
        with ThreadPoolExecutor(4) as threads:
            copies = set(threads.map(storage.at_hand, [f"{bucket}/file"] * 4))
        assert [copy.read_bytes() for copy in copies] == [content]
    assert len(fetched) == 2
    with pytest.raises(FileNotFoundError, match="nothing"):
        storage.at_hand(f"{bucket}/nothing")


class NoLease:
    """Every run holds it."""

    def __init__(self, folder: str):
        self.owner = uuid.uuid4().hex

    def __enter__(self) -> "NoLease":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def check(self) -> None:
        pass


@pytest.mark.timeout(3000)
def test_two_runs_without_any_lease_lose_no_row_and_double_none(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They commit at the same moment in every round: each waits for the other when all is computed."""
    num_rounds = int(os.environ.get("TLEARN_ROUNDS", "8"))
    monkeypatch.setattr(scoring, "Lease", NoLease)
    both = threading.Barrier(2)
    publish = outputs.GrowingTable.publish

    def together(*arguments: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):  # the other has nothing to commit
            both.wait(1.0)
        try:
            return publish(*arguments)
        except storage.Taken:
            refused.append(1)
            raise

    refused: list[int] = []
    monkeypatch.setattr(outputs.GrowingTable, "publish", together)

    def one(cache: Path) -> None:
        with contextlib.suppress(StorageError, IntegrityError):  # the other has removed what it had computed
            score(bucket, cache)

    with ThreadPoolExecutor(2) as threads:
        for number in range(num_rounds):
            both.reset()
            for name in "abc":
                storage.write_bytes(f"{bucket}/in/{number:03}-{name}.jpg", f"{number} {name}".encode())
            list(threads.map(one, [tmp_path / "a", tmp_path / "b"]))
            paths = [row["path"] for row in rows(bucket)]
            assert len(paths) == len(set(paths)), f"round {number}"
    both.abort()
    assert refused
    score(bucket, tmp_path / "a")
    assert sorted(row["path"] for row in rows(bucket)) == sorted(entry.path for entry in storage.stream(f"{bucket}/in"))
    assert Ledger(f"{bucket}/table").verify() == []
