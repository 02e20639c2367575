"""The cache of features with real weights on small pictures; the actor's class is called as the plain class it is."""

import dataclasses
import hashlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import Arch, OptimConfig, PreprocessConfig, TrainConfig
from tlearn.data import images
from tlearn.data.fetch import Fetched, fetch
from tlearn.data.manifest import File, Listing
from tlearn.distributed.chunks import ChunkResult
from tlearn.distributed.nodes import Here, Threads
from tlearn.errors import IntegrityError
from tlearn.features import phases
from tlearn.features.cache import Features, Place, index, outcomes
from tlearn.features.compute import Compute, Task, num_views, plan
from tlearn.features.cut import Cut, Frozens, View
from tlearn.network import weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.frozen import Frozen

PREPROCESS = PreprocessConfig(image_size=64, short_side=72, max_bytes=40_000, max_pixels=20_000)
TINY = TrainConfig(data="", output="", weights="none", arch="vgg_tiny", preprocess=PREPROCESS)


def picture(seed: int, size: tuple[int, int] = (90, 80)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def add(folder: Path, name: str, data: bytes) -> File:
    (folder / name).write_bytes(data)
    return File("train", name, "cat", len(data), 0, hashlib.sha256(data).hexdigest())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def cut(cache: Path, frozen_blocks: int = 0, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Cut:
    frozen = Frozen(frozen_blocks, PREPROCESS, changes.get("arithmetic", Arithmetic()), tensors=tensors)
    plain = Cut(
        weights="imagenet",
        cache=str(cache),
        frozen_blocks=frozen_blocks,
        preprocess=PREPROCESS,
        arithmetic=Arithmetic(),
        frozen_digest=frozen.digest(),
    )
    return dataclasses.replace(plain, **changes)


def compute(files: list[File], data: Path, one: Cut, views: tuple[View, ...] = ("plain",)) -> list[ChunkResult]:
    """What an actor does, in this process."""
    work = Compute(Task(str(data), one), Threads(1, Here(1)))
    return [work(chunk) for chunk in plan([(files, views)], one)]


def places(files: list[File], view: View, one: Cut) -> list[Place]:
    return outcomes(files, view, one).places


def pixels_of(path: Path) -> Tensor:
    return images.load(path.read_bytes(), PREPROCESS)[0]


@pytest.mark.parametrize("arch", ["vgg11", "vgg11_bn"])
def test_what_is_not_pretrained_is_frozen_too(tmp_path: Path, arch: Arch) -> None:
    frozen = Frozen(2, PREPROCESS, arch=arch, tensors=weights.load("none", str(tmp_path), arch))
    one = dataclasses.replace(cut(tmp_path, 2), weights="none", arch=arch, frozen_digest=frozen.digest())
    assert one.load().digest() == frozen.digest()
    with pytest.raises(IntegrityError, match="every node must see the same --weights"):
        dataclasses.replace(one, arch="vgg16").load()


@pytest.fixture
def bad(data: Path) -> list[File]:
    """Files with one of each mistake, all listed as ok."""
    (gone := data / "gone.png").write_bytes(b"x")
    missing = add(data, gone.name, picture(50))
    gone.unlink()
    changed = add(data, "rewritten.png", picture(51))
    (data / "rewritten.png").write_bytes(picture(52))
    return [
        add(data, "broken.png", picture(53)[:500]),
        add(data, "heavy.png", picture(54, (120, 120))),
        add(data, "wide.png", picture(55, (1, 20_001))[:5000]),
        missing,
        changed,
    ]


def test_every_view_is_one_file_a_chunk_and_holds_what_the_frozen_layers_make(
    data: Path, own_cache: Path, pretrained: dict[str, Tensor]
) -> None:
    files = [add(data, f"{i}.png", picture(i)) for i in range(19)]
    one = cut(own_cache, 5, pretrained)
    results = compute(files, data, one, ("plain", "mirror"))
    assert [result.num_images for result in results] == [8, 8, 3]
    assert sum(result.num_failed for result in results) == 0
    frozen = one.load().prepare()
    for view in ("plain", "mirror"):
        folder = Path(one.folder(view))
        names = {path.name for path in folder.iterdir()}
        assert names == {f"{result.chunk}.arrow" for result in results}
        assert index(str(folder)).keys() == {file.sha256 for file in files}
        held = Features(places(files, view, one), one.shape)
        assert len(held) == 19
        for i in (0, 7, 8, 18):
            pixels = pixels_of(data / f"{i}.png")[None]
            expected = frozen(pixels.flip(3) if view == "mirror" else pixels)
            assert held.gather([i]).shape == (1, 512, 2, 2) and held.gather([i]).dtype == torch.float16
            torch.testing.assert_close(held.gather([i]).float(), expected.float(), rtol=4e-3, atol=4e-3)
    assert outcomes(files, "mirror", one).files == files
    assert not list(own_cache.rglob("*.tmp"))


def test_nothing_is_planned_twice_and_only_what_is_new(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    files = [add(data, f"{i}.png", picture(i)) for i in range(5)]
    (first,) = plan([(files, ("plain",))], one)
    assert first.rows["views"].to_pylist() == [["plain"]] * 5
    compute(files, data, one)
    assert plan([(files, ("plain",))], one) == []
    more = [*files, add(data, "new.png", picture(9)), add(data, "copy.png", picture(2))]
    (second,) = plan([(more, ("plain",))], one)
    assert second.rows["path"].to_pylist() == ["new.png"]
    both = plan([(more, ("plain", "mirror"))], one)
    assert [chunk.rows["views"].to_pylist() for chunk in both] == [[["mirror"]] * 5, [["plain", "mirror"]]]
    assert num_views(both) == 7
    compute(more, data, one, ("plain", "mirror"))
    assert plan([(more, ("plain", "mirror"))], one) == []
    assert len(places(more, "mirror", one)) == 7


def test_what_is_wanted_twice_is_computed_once(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    val, train = ([add(data, f"{i}.png", picture(i)) for i in of] for of in ((0, 1), (1, 2)))
    todo = plan([(val, ("plain",)), (train, ("plain", "mirror"))], one)
    wanted = {row["path"]: row["views"] for chunk in todo for row in chunk.rows.to_pylist()}
    assert wanted == {"0.png": ["plain"], "1.png": ["plain", "mirror"], "2.png": ["plain", "mirror"]}
    assert num_views(todo) == 5


def test_one_pool_computes_validation_and_training_images(
    data: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    val = dataclasses.replace(add(data, "0.png", picture(0)), split="val")
    listing = Listing([val, *[add(data, f"{i}.png", picture(i)) for i in (1, 2)]], Classes(("cat", "dog")))
    pools = []
    monkeypatch.setattr(phases, "compute", lambda _, todo, cut: pools.append(num_views(todo)) or 7)
    config = dataclasses.replace(TINY, data=str(data), cache=str(own_cache))
    prepared = phases.prepare(config, Frozens(config, weights.load("none", "", "vgg_tiny"), Arithmetic()), listing)
    assert pools == [1 + 2 * 2] and prepared.num_computed == 7
    # Nothing was computed here: as if every file had changed since it was listed.
    assert {file.status for file in prepared.listing.files} == {"changed"}
    assert {file.status for file in listing.files} == {"ok"}


@pytest.mark.parametrize(("head_lr", "rates"), [(None, [4e-5, 4e-5]), (1e-4, [1e-4, 4e-5])])
def test_the_head_may_learn_at_another_rate_before_the_layers_below_it(
    own_cache: Path, head_lr: float | None, rates: list[float]
) -> None:
    optim = OptimConfig(head_epochs=2, num_epochs=3, lr=4e-5, head_lr=head_lr)
    config = dataclasses.replace(TINY, cache=str(own_cache), frozen_blocks=4, optim=optim)
    frozens = Frozens(config, weights.load("none", "", "vgg_tiny"), Arithmetic())
    found = phases.prepare(config, frozens, Listing([], Classes(("cat", "dog")))).phases()
    assert [phase.optim.lr for phase in found] == rates
    assert [(phase.frozen_blocks, phase.optim.num_epochs) for phase in found] == [(5, 2), (4, 3)]


def test_files_of_equal_content_share_a_place(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    files = [add(data, f"{i}.png", picture(i // 2)) for i in range(6)]
    assert num_views(plan([(files, ("plain",))], one)) == 3
    compute(files, data, one)
    first, second, third, *_ = found = places(files, "plain", one)
    assert len(found) == 6 and first == second and first != third


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(picture(9))])
def test_a_copy_is_used_where_the_first_file_is_gone_or_changed(data: Path, own_cache: Path, change: Any) -> None:
    one = cut(own_cache)
    files = [add(data, f"{i}.png", picture(i // 3)) for i in range(6)]
    for name in ("0.png", "1.png"):
        change(data / name)
    compute(files, data, one)
    assert len(places(files, "plain", one)) == 6
    expected = pixels_of(data / "2.png")
    assert torch.equal(Features(places(files[:1], "plain", one), one.shape).gather([0])[0], expected)


def poison(folder: str, path: str, preprocess: PreprocessConfig) -> Fetched:
    """Ends its process at one picture, as a decoder with a fault would."""
    if path == "2.png":
        os.abort()
    return fetch(folder, path, preprocess)


def confused(folder: str, path: str, preprocess: PreprocessConfig) -> Fetched:
    raise KeyError(path)


def test_a_picture_that_kills_its_decoder_costs_one_picture(data: Path, tmp_path: Path) -> None:
    one = cut(tmp_path / "cache")
    files = [add(data, f"{i}.png", picture(i)) for i in range(3)]
    (chunk,) = plan([(files, ("plain", "mirror"))], one)
    task, threads = Task(str(data), one), Threads(1, Here(1))
    with pytest.raises(KeyError):
        Compute(task, threads, confused)(chunk)
    started = Path(one.folder("plain")) / f"{chunk.id}.started"
    assert started.exists(), "as an actor leaves it that dies"
    assert Compute(task, threads, poison)(chunk).num_failed == 1
    assert not started.exists()
    for view in ("plain", "mirror"):
        assert [file.status for file in outcomes(files, view, one).files] == ["ok", "ok", "decoder_crash"]
    assert plan([(files, ("plain", "mirror"))], one) == []


def test_chunks_are_named_after_their_content(data: Path, own_cache: Path) -> None:
    files = [add(data, f"{i}.png", picture(i)) for i in range(9)]
    one = cut(own_cache)

    def ids(of: list[File]) -> list[str]:
        return [chunk.id for chunk in plan([(of, ("plain",))], one)]

    assert ids(files) == ids(files) and len(set(ids(files))) == 2
    assert ids(files[:8]) == ids(files)[:1]
    assert ids(files[1:])[0] not in ids(files)


def test_files_without_a_hash_or_with_a_status_are_not_planned(data: Path, own_cache: Path) -> None:
    files = [add(data, f"{i}.png", picture(i)) for i in range(2)]
    files = [
        dataclasses.replace(files[0], sha256=None, status="missing", error="gone"),
        dataclasses.replace(files[1], status="io_error", error="no"),
    ]
    one = cut(own_cache)
    assert plan([(files, ("plain",))], one) == []
    found = outcomes(files, "plain", one)
    assert found.files == files and found.places == []


def test_other_layers_precision_or_preprocessing_have_folders_of_their_own(
    own_cache: Path, pretrained: dict[str, Tensor]
) -> None:
    nearly = {**pretrained, "block1_conv1.bias": pretrained["block1_conv1.bias"] + 1e-6}
    cuts = [
        cut(own_cache, 1, pretrained),
        cut(own_cache, 2, pretrained),
        cut(own_cache, 0),
        cut(own_cache, 1, pretrained, arithmetic=Arithmetic("torch", "bf16")),
        cut(own_cache, 1, nearly),
        cut(own_cache, 1, pretrained, preprocess=dataclasses.replace(PREPROCESS, short_side=73)),
        cut(own_cache, 1, pretrained, preprocess=dataclasses.replace(PREPROCESS, normalization="rescaled_bgr")),
        cut(own_cache, 1, pretrained, preprocess=dataclasses.replace(PREPROCESS, max_bytes=1)),
    ]
    folders = {one.folder(view) for one in cuts for view in ("plain", "mirror")}
    assert len(folders) == 2 * len(cuts)
    assert cut(own_cache, 1, pretrained).folder("plain") in folders
    assert all(Path(folder).parent == own_cache / "features" for folder in folders)


def test_other_weights_on_a_node_are_refused(data: Path, own_cache: Path, pretrained: dict[str, Tensor]) -> None:
    other = dataclasses.replace(cut(own_cache, 1, pretrained), frozen_digest="0123456789abcdef-torch-fp32")
    with pytest.raises(IntegrityError, match="every node must see the same --weights"):
        Compute(Task(str(data), other), Threads(1, Here(1)))


def test_bad_files_get_their_status_and_are_remembered_by_content(
    data: Path, own_cache: Path, bad: list[File], pretrained: dict[str, Tensor]
) -> None:
    one = cut(own_cache, 1, pretrained)
    files = [add(data, "first.png", picture(0)), *bad, add(data, "last.png", picture(1))]
    (result,) = compute(files, data, one)
    assert (result.num_images, result.num_failed) == (7, 5)
    found = outcomes(files, "plain", one)
    statuses = [file.status for file in found.files]
    assert statuses == ["ok", "unreadable", "too_large", "too_large", "changed", "changed", "ok"]
    assert all((file.error is None) == (file.status == "ok") for file in found.files)
    held = Features(found.places, one.shape)
    frozen = one.load().prepare()
    for row, name in enumerate(["first.png", "last.png"]):
        expected = frozen(pixels_of(data / name)[None])[0].float()
        torch.testing.assert_close(held.gather([row])[0].float(), expected, rtol=4e-3, atol=4e-3)
    # The next run tries again what depends on the moment, under any name, and nothing else.
    (again,) = plan([(files, ("plain",))], one)
    assert again.rows["path"].to_pylist() == ["gone.png", "rewritten.png"]
    (data / "renamed.png").write_bytes((data / "broken.png").read_bytes())
    renamed = dataclasses.replace(files[1], path="renamed.png")
    assert plan([([renamed], ("plain",))], one) == []
    (judged,) = outcomes([renamed], "plain", one).files
    assert judged.status == "unreadable" and places([renamed], "plain", one) == []


def test_changed_bytes_are_not_stored_under_the_old_name(data: Path, own_cache: Path, bad: list[File]) -> None:
    one = cut(own_cache)
    compute(bad, data, one)
    known = index(one.folder("plain"))
    changed = next(file for file in bad if file.path == "rewritten.png")
    assert changed.sha256 not in known
    assert hashlib.sha256((data / "rewritten.png").read_bytes()).hexdigest() not in known


def test_a_file_that_grew_too_large_is_changed(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    file = add(data, "grown.png", picture(0))
    (data / "grown.png").write_bytes(bytes(50_000))
    compute([file], data, one)
    found = outcomes([file], "plain", one)
    assert [judged.status for judged in found.files] == ["changed"] and found.places == []
    assert index(one.folder("plain")) == {}


def test_a_chunk_of_bad_files_only_is_written(data: Path, own_cache: Path, bad: list[File]) -> None:
    one = cut(own_cache)
    (result,) = compute(bad[:1], data, one)
    assert result.num_failed == 1
    (place,) = index(one.folder("plain")).values()
    assert (place.row, place.status) == (0, "unreadable") and place.error is not None and "PNG" in place.error


def test_what_an_earlier_version_could_not_read_is_tried_again(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    files = [add(data, "good.png", picture(0)), add(data, "broken.png", picture(1)[:500])]
    compute(files, data, one)
    assert plan([(files, ("plain",))], one) == []
    with pa.ipc.open_file(chunk_file(one)) as reader:
        batch = reader.get_batch(0)
    with pa.ipc.new_file(chunk_file(one), batch.schema.remove_metadata()) as writer:
        writer.write_batch(batch.replace_schema_metadata(None))
    (chunk,) = plan([(files, ("plain",))], one)
    assert chunk.rows["path"].to_pylist() == ["broken.png"]
    compute(files, data, one)
    assert plan([(files, ("plain",))], one) == []
    assert [file.status for file in outcomes(files, "plain", one).files] == ["ok", "unreadable"]


def chunk_file(one: Cut) -> Path:
    (path,) = Path(one.folder("plain")).iterdir()
    return path


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"<html>", bytes(1000)])
def test_what_is_no_chunk_file_counts_as_absent_and_is_computed_again(
    data: Path, own_cache: Path, content: bytes
) -> None:
    files, one = [add(data, f"{i}.png", picture(i)) for i in range(3)], cut(own_cache)
    compute(files, data, one)
    before = chunk_file(one).read_bytes()
    chunk_file(one).write_bytes(content)
    assert num_views(plan([(files, ("plain",))], one)) == 3
    compute(files, data, one)
    assert chunk_file(one).read_bytes() == before
    assert len(places(files, "plain", one)) == 3


def test_a_chunk_file_cut_off_anywhere_counts_as_absent(data: Path, own_cache: Path) -> None:
    files, one = [add(data, f"{i}.png", picture(i)) for i in range(2)], cut(own_cache)
    compute(files, data, one)
    path = chunk_file(one)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert index(str(path.parent)) == {} and not path.exists()


def test_a_chunk_file_of_another_kind_counts_as_absent(data: Path, own_cache: Path) -> None:
    files, one = [add(data, "0.png", picture(0))], cut(own_cache)
    compute(files, data, one)
    path = chunk_file(one)
    for table in (pa.table({"sha256": ["a"]}), pa.table({"other": [1]}).slice(1)):
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
        assert index(str(path.parent)) == {} and not path.exists()


def test_a_damaged_bit_in_the_head_or_foot_of_a_chunk_file_crashes_nothing(data: Path, own_cache: Path) -> None:
    files, one = [add(data, f"{i}.png", picture(i)) for i in range(2)], cut(own_cache)
    compute(files, data, one)
    path = chunk_file(one)
    whole = path.read_bytes()
    body = whole.index(files[0].sha256.encode() if files[0].sha256 else b"")
    positions = [*range(0, body + 400, 3), *range(len(whole) - 1200, len(whole), 3)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        for place in index(str(path.parent)).values():
            if place.status == "ok":
                gathered = Features([place], one.shape).gather([0])
                assert gathered.shape == (1, *one.shape) and gathered.dtype == torch.uint8


def test_features_are_gathered_in_any_order_pickle_small_and_reopen(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    files = [add(data, f"{i}.png", picture(i)) for i in range(12)]
    compute(files, data, one)
    held = Features(places(files, "plain", one), one.shape)
    expected = torch.stack([pixels_of(data / file.path) for file in files])
    rows = torch.tensor([11, 0, 7, 7, 3])
    assert torch.equal(held.gather(rows), expected[rows])
    assert torch.equal(held.gather([5]), expected[5:6])
    gathered = held.gather([5])
    gathered.zero_()
    assert torch.equal(held.gather([5]), expected[5:6]), "what is gathered is a copy"
    pickled = pickle.dumps(held)
    assert len(pickled) < 5000
    again = pickle.loads(pickled)
    assert len(again) == 12 and torch.equal(again.gather(rows), expected[rows])


@pytest.mark.parametrize("frozen_blocks", [0, 1])
def test_no_rows_are_gathered_as_no_features(
    data: Path, own_cache: Path, pretrained: dict[str, Tensor], frozen_blocks: int
) -> None:
    """A worker's share of the last batch may be empty."""
    one = cut(own_cache, frozen_blocks, pretrained)
    files = [add(data, "0.png", picture(0))]
    compute(files, data, one)
    held = Features(places(files, "plain", one), one.shape)
    nothing: tuple[Tensor, list[int]] = (torch.zeros(0, dtype=torch.int64), [])
    for rows in nothing:
        gathered = held.gather(rows)
        assert gathered.shape == (0, *one.shape)
        assert gathered.dtype == held.gather([0]).dtype


def test_with_nothing_frozen_the_pixels_are_stored(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    files = [add(data, "0.png", picture(0))]
    compute(files, data, one, ("plain", "mirror"))
    pixels = pixels_of(data / "0.png")
    for view, expected in (("plain", pixels), ("mirror", pixels.flip(2))):
        held = Features(places(files, view, one), one.shape)  # type: ignore[arg-type]
        assert held.gather([0]).dtype == torch.uint8 and torch.equal(held.gather([0])[0], expected)
    assert storage.local(str(own_cache)) == own_cache


def test_several_threads_write_what_one_writes(data: Path, own_cache: Path) -> None:
    one = cut(own_cache)
    files = [add(data, f"{i}.png", picture(i)) for i in range(20)]
    todo = plan([(files, ("plain",))], one)
    written = []
    for threads in (1, 4):
        for chunk in todo:
            Compute(Task(str(data), one), Threads(1, Here(threads)))(chunk)
        written.append({path.name: path.read_bytes() for path in Path(one.folder("plain")).iterdir()})
    assert written[0] == written[1]


def test_features_are_read_without_ray() -> None:
    code = "import sys, tlearn.features.cut, tlearn.features.cache; print({'ray', 'torch._dynamo'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"
