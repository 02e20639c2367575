"""Pictures decoded by tasks on a real Ray: what threads make of them, in their order, whatever dies."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support import build

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.console import Progress
from tlearn.data.fetch import Fetch, Fetched, fetch
from tlearn.data.manifest import File
from tlearn.distributed import decoders, launch, pool
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import ByTasks, Decode, Here, Threads
from tlearn.features import compute as features
from tlearn.features.cache import outcomes
from tlearn.features.compute import Compute, Task
from tlearn.features.cut import Cut
from tlearn.network import model
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.network.frozen import Frozen
from tlearn.scoring import plan
from tlearn.scoring.actor import Score
from tlearn.scoring.task import Task as ScoringTask

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

PREPROCESS = PreprocessConfig(image_size=32, short_side=36)
VIEWS: tuple[features.View, ...] = ("plain", "mirror")
# More than two tasks, the last one short.
PATHS = [f"{number:02}.png" for number in range(36)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One is broken; the last is listed and is not there."""
    folder = tmp_path_factory.mktemp("decoded")
    for number, path in enumerate(PATHS[:-1]):
        Image.new("RGB", (40 + number, 50), (5 * number, number, 0)).save(folder / path)
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:60])
    return folder


def assert_same(found: Fetched, expected: Fetched) -> None:
    for name in ("status", "error", "width", "height", "size", "modified", "sha256"):
        assert getattr(found, name) == getattr(expected, name)
    if expected.pixels is None or found.pixels is None:
        assert found.pixels is expected.pixels
    else:
        assert torch.equal(found.pixels, expected.pixels)


def test_tasks_make_of_every_file_what_threads_make_of_it(pictures: Path) -> None:
    by_tasks = decoders.decoder(str(pictures), PREPROCESS, ByTasks(), 8)
    expected = list(decoders.decoder(str(pictures), PREPROCESS, Here(2), 8)(PATHS))
    assert [one.status for one in expected].count("ok") == len(PATHS) - 2
    for one, other in zip(by_tasks(PATHS), expected, strict=True):
        assert_same(one, other)
    assert list(by_tasks([])) == []


def confused(folder: str, path: str, preprocess: PreprocessConfig) -> Fetched:
    raise KeyError(path)


def test_an_error_of_ours_is_no_crash(pictures: Path) -> None:
    with pytest.raises(KeyError):
        list(decoders.decoder(str(pictures), PREPROCESS, ByTasks(), 8, confused)(PATHS[:1]))


def test_only_so_many_tasks_are_under_way(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = []

    class Counted:
        def remote(self, *arguments: Any) -> Any:
            submitted.append(arguments)
            return plain.remote(*arguments)

    plain = decoders._decode
    monkeypatch.setattr(decoders, "_decode", Counted())
    for batch_size, num_ahead in ((8, 4), (64, 8)):
        submitted.clear()
        fetched = decoders.decoder(str(pictures), PREPROCESS, ByTasks(), batch_size)(PATHS[:1] * 16 * 12)
        for number in range(16 * 12):
            next(fetched)
            assert len(submitted) == min(number // 16 + 1 + num_ahead, 12)


class Decoding:
    """What an actor does with a chunk, without a network."""

    def __init__(self, folder: str, threads: Threads):
        self.decode = decoders.decoder(folder, PREPROCESS, threads.decode, 8)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        statuses = [fetched.status for fetched in self.decode(PATHS)]
        return ChunkResult(chunk.id, len(statuses), len(statuses) - statuses.count("ok"))


def test_actors_leave_room_for_the_tasks_that_they_wait_for(pictures: Path) -> None:
    work = [Chunk(str(number), pa.table({})) for number in range(6)]
    actors = launch.nodes().pool(None, len(work), "pool")
    assert actors.threads.decode == ByTasks()
    results = sorted(pool.run(work, f"{__name__}:Decoding", str(pictures), actors), key=lambda result: result.chunk)
    assert results == [ChunkResult(chunk.id, len(PATHS), 2) for chunk in work]


def test_features_are_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    digest = Frozen(0, PREPROCESS).digest()
    paths = [pictures / path for path in PATHS[:-1]]
    files = [File("train", path.name, "cat", path.stat().st_size, 0, storage.sha256_file(path)) for path in paths]
    written = []
    for decode in (Here(1), ByTasks()):
        cut = Cut("none", str(tmp_path / type(decode).__name__), 0, PREPROCESS, Arithmetic(), digest)
        todo = features.plan([(files, VIEWS)], cut)
        for chunk in todo:
            Compute(Task(str(pictures), cut), Threads(1, decode))(chunk)
        written.append([path.read_bytes() for view in VIEWS for path in sorted(Path(cut.folder(view)).iterdir())])
    assert written[0] == written[1] and len(written[0]) == 2 * len(todo)


def poison(folder: str, path: str, preprocess: PreprocessConfig) -> Fetched:
    """Ends its process at one picture, as a decoder with a fault would."""
    if path == "03.png":
        os.abort()
    return fetch(folder, path, preprocess)


class Poisoned(Compute):
    def __init__(self, task: Task, threads: Threads):
        super().__init__(task, threads, poison)


@pytest.mark.long
def test_a_picture_that_kills_actors_of_features_costs_one_picture(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [pictures / path for path in PATHS[:-1]]
    files = [File("train", path.name, "cat", path.stat().st_size, 0, storage.sha256_file(path)) for path in paths]
    cut = Cut("none", str(tmp_path), 0, PREPROCESS, Arithmetic(), Frozen(0, PREPROCESS).digest())
    todo = features.plan([(files, ("plain",))], cut)
    monkeypatch.setattr(features, "_ACTOR", f"{__name__}:Poisoned")
    actors = launch.nodes().pool((1, 1), len(todo), "here")
    progress = Progress("features", features.num_views(todo), unit="views", num_parallel=1)
    assert features.run(todo, str(pictures), cut, actors, progress) == (33, 2)
    judged = outcomes(files, "plain", cut).files
    assert {file.path: file.status for file in judged if file.status != "ok"} == {
        "03.png": "decoder_crash",
        "07.png": "unreadable",
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of noise."""
    folder = tmp_path_factory.mktemp("models") / "model"
    frozen, trainable = build(5, PREPROCESS, HeadConfig(width=16), 1)
    trainable.head.initialize(torch.Generator().manual_seed(0))
    draft = Draft(
        classes=Classes(("cat", "dog")),
        frozen_blocks=5,
        preprocess=PREPROCESS,
        head=HeadConfig(width=16),
        arithmetic=Arithmetic(),
        training={"recipe": "frozen", "num_train": 1, "num_val": 1},
        metrics={"val_accuracy": 1.0, "val_loss": 0.0},
        reference={},
    )
    model.save(folder, frozen.layers.state_dict(), trainable, draft)
    return folder


def rows_of(pictures: Path, saved: Path, run_folder: Path, decode: Decode, fetch: Fetch) -> Any:
    entries = storage.in_order(storage.stream(str(pictures)))
    columns: dict[str, list[Any]] = {
        name: [getattr(one, name) for one in entries] for name in ("path", "size", "modified")
    }
    columns |= {name: [None] * len(entries) for name in ("same_as", "result")}
    run_folder.mkdir()
    pq.write_table(pa.table(columns, schema=plan.SCHEMA), run_folder / "plan.parquet")
    task = ScoringTask(
        model=str(saved),
        model_digest=model.load(str(saved)).description.digest,
        arithmetic=Arithmetic(),
        input=str(pictures),
        runs=str(run_folder.parent),
        batch_size=8,
    )
    Score(task, Threads(1, decode), fetch)(Chunk(f"{run_folder.name}/000000", pa.table({})))
    return pq.read_table(run_folder / "000000.parquet").drop_columns("scored_at").to_pylist(maps_as_pydicts="strict")


@pytest.mark.long
def test_rows_are_the_same_but_for_a_picture_that_kills_its_process(
    pictures: Path, saved: Path, tmp_path: Path
) -> None:
    expected = rows_of(pictures, saved, tmp_path / "here", Here(1), fetch)
    found = rows_of(pictures, saved, tmp_path / "pool", ByTasks(), poison)
    assert [row["status"] for row in expected].count("scored") == len(PATHS) - 2
    for row, other in zip(found, expected, strict=True):
        if row["path"] == "03.png":
            assert (row["status"], row["error"]) == ("decoder_crash", "the process that decoded it died")
        else:
            # The others of its batch are in other places of other batches, which changes the last bits.
            assert row.pop("probability") == pytest.approx(other.pop("probability"), abs=1e-5)
            assert row.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-5)
            assert row == other
