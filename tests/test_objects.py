"""Scoring with input, model and table on an object store: a server on the loopback address that fails now and then."""

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import test_nightly
import test_scoring
from conftest import ray_here
from pyarrow import fs

from tlearn import drawings, lease, scoring, storage, table
from tlearn.errors import LockedError, StorageError
from tlearn.ledger import Ledger

moto_server = pytest.importorskip("moto.server", reason="moto[server] (extra dev) is not installed")

STALL_SECONDS = 5.0


class Faults:
    """A WSGI application between the client and the store: every `every`-th request is answered with a fault.

    The status "stall" is no answer for longer than the client waits.
    """

    def __init__(self, application: Any):
        self.application = application
        self.every: int | None = None
        self.status = "503 Slow Down"
        self.num_faults = 0
        self.address = ""
        self._count = itertools.count(1)

    def __call__(self, environment: dict[str, Any], start_response: Any) -> Any:
        if self.every and next(self._count) % self.every == 0:
            self.num_faults += 1
            if self.status == "stall":
                time.sleep(STALL_SECONDS)
                return self.application(environment, start_response)
            start_response(self.status, [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"]
        return self.application(environment, start_response)


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    import threading

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        application.address = f"127.0.0.1:{server.server_port}"
        storage._filesystem.cache_clear()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield application
        server.shutdown()
        thread.join()


@pytest.fixture
def bucket(faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with a model and 20 pictures, whose scoring takes no time."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    name = "photos"
    system, _ = storage.filesystem("s3://photos")
    fs.FileSystem.from_uri(f"s3://{name}?scheme=http&endpoint_override={faults.address}&allow_bucket_creation=true")[
        0
    ].create_dir(name)
    model = Path(test_scoring.save_model(tmp_path / "model"))
    for path in model.iterdir():
        storage.write_bytes(f"s3://{name}/model/{path.name}", path.read_bytes())
    for number in range(20):
        storage.write_bytes(f"s3://{name}/in/cat/{number:02} #1%20.jpg", b"x" * (number + 1))

    def compute(config: Any, run: str, folder: str, model: Any, missing: list[int], num_images: int) -> float:
        with storage.open_input(f"{folder}/plan.parquet") as file:
            plan = pq.ParquetFile(file)
            for number in missing:
                rows = [
                    test_scoring.row_of(config.input, e, model, run) for e in plan.read_row_group(number).to_pylist()
                ]
                table.write_part(f"{folder}/{table.part_name(number)}", rows, model.classes, None)
        return 0.0

    monkeypatch.setattr(scoring, "_compute", compute)
    monkeypatch.setattr(scoring, "_start_ray", lambda: None)
    yield f"s3://{name}"
    faults.every = None
    system.delete_dir_contents(name)


def score(bucket: str, tmp_path: Path, output: str = "table/") -> dict[str, Any]:
    config = scoring.ScoreConfig(
        model=f"{bucket}/model",
        input=f"{bucket}/in",
        output=f"{bucket}/{output}",
        cache=str(tmp_path / "cache"),
        max_error_rate=1.0,
    )
    return scoring.score(config)[0]


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
    assert sorted(row["path"] for row in rows(bucket)) == sorted(
        [f"cat/{number:02} #1%20.jpg" for number in range(20)] + ["new.jpg"]
    )
    assert Ledger(f"{bucket}/table").verify() == []
    assert storage.names(f"{bucket}/table/_tlearn") == []


def test_a_single_file_on_an_object_store(bucket: str, tmp_path: Path) -> None:
    assert score(bucket, tmp_path, "scores.parquet")["added"] == 20
    with storage.open_input(f"{bucket}/scores.parquet") as file:
        assert pq.read_table(file).num_rows == 20


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Slow Down"])
def test_faults_of_the_store_that_pass_are_not_noticed(
    status: str, bucket: str, faults: Faults, tmp_path: Path
) -> None:
    faults.every, faults.status = 7, status
    summary = score(bucket, tmp_path)
    faults.every = None
    assert faults.num_faults > 3
    assert summary["statuses"] == {"scored": 20} and len(rows(bucket)) == 20


def test_requests_that_time_out_are_made_again(bucket: str, faults: Faults, tmp_path: Path) -> None:
    faults.every, faults.status = 60, "stall"
    started = time.monotonic()
    summary = score(bucket, tmp_path)
    faults.every = None
    assert faults.num_faults and time.monotonic() - started > 2
    assert summary["statuses"] == {"scored": 20} and len(rows(bucket)) == 20


def test_a_store_that_does_not_answer_ends_with_7_and_the_run_goes_on_later(
    bucket: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = scoring._compute

    def then_broken(*arguments: Any) -> float:
        rate = compute(*arguments)
        faults.every, faults.status = 1, "403 Forbidden"
        return rate

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_compute", then_broken)
        with pytest.raises(OSError):
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


@pytest.mark.cluster
def test_actors_read_and_write_the_object_store(
    bucket: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, pictures and table there, a real Ray, a store that fails now and then."""

    monkeypatch.undo()
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        assert name in os.environ  # Ray's processes inherit them
    test_nightly.save_model(tmp_path / "real", cache)
    for path in (tmp_path / "real").iterdir():
        storage.write_bytes(f"{bucket}/real/{path.name}", path.read_bytes())
    drawings.draw_folder(tmp_path / "drawn", num_train=2, num_val=2, num_test=10, seed=5)
    for path in (tmp_path / "drawn" / "test").iterdir():
        storage.write_bytes(f"{bucket}/drawn/{path.name}", path.read_bytes())
    with ray_here():
        config = scoring.ScoreConfig(
            model=f"{bucket}/real", input=f"{bucket}/drawn", output=f"{bucket}/table/", cache=str(tmp_path / "cache")
        )
        summary, code = scoring.score(config)
    assert (code, summary["statuses"]) == (4, {"scored": 10, "unreadable": 1})
    assert len({row["path"] for row in rows(bucket)}) == len(rows(bucket)) == 11
    assert Ledger(f"{bucket}/table").verify() == []


def test_a_bucket_that_is_not_there_ends_with_an_error_that_names_it(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3://nowhere/in"):
        scoring.score(
            scoring.ScoreConfig(model=f"{bucket}/model", input="s3://nowhere/in", output=str(tmp_path / "t.parquet"))
        )
    with pytest.raises(StorageError, match="s3://nowhere"):
        storage.write_bytes("s3://nowhere/x", b"1")
