"""What stands for storage in a simulated world answers as storage does."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simulate
import worlds
from schedule import Rates, Schedule, Writer
from seams import seams
from storages import Disk
from worlds import World

from tlearn.errors import TlearnError
from tlearn.storage.local import Local

NAMES = ("a", "b/c", "b/d", "b/e/f")


def result(at: Callable[[str], Any], operation: str, name: str, data: bytes) -> Any:
    """What an operation gives, or the kind of its error; `at` is a path in a folder."""
    folder, _, last = name.rpartition("/")

    def publish(*, replace: bool) -> None:
        at("merged").write(lambda sink: sink.write(data))
        at(name).publish(Path(str(at("merged").path)), replace=replace)

    operations: dict[str, Callable[[], Any]] = {
        "write": lambda: at(name).write(lambda sink: sink.write(data)),
        "create": lambda: bool(at(name).create(data)),
        "swap": lambda: bool(at(name).swap(data, at(folder).read(last, None).version)),
        "swap another": lambda: at(name).swap(data, "another version"),
        "link": lambda: publish(replace=False),
        "rename": lambda: publish(replace=True),
        "remove": lambda: at(name).remove(),
        "remove folder": lambda: at("b/e" if name == "a" else "b").remove_folder(),
        "read": lambda: at("").read(name, 2).data,
        "look": lambda: at(name).look().size,
        "open": lambda: at(name).open_input().read(),
        "exists": lambda: at(name).exists(),
        "kind": lambda: (at(name).kind(), at("b").kind()),
        "names": lambda: sorted(at(folder).names()),
        "folders": lambda: sorted(at("b").folders()),
        "stream": lambda: sorted(
            (found.path, found.size, found.kind) for found in at("").stream(lambda part: part != "e")
        ),
    }
    try:
        return operations[operation]()
    except (OSError, TlearnError) as error:
        return type(error).__name__


OPERATIONS = (
    "write", "create", "swap", "swap another", "link", "rename", "remove", "remove folder", "read", "look", "open",
    "exists", "kind", "names", "folders", "stream",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_the_simulated_disk_answers_as_a_disk(seed: int, tmp_path: Path) -> None:
    schedule = Schedule(seed, Rates(switch=0.0))
    schedule.current = Writer("one", "a", 1)
    schedule.writers = [schedule.current]
    disk, draw = Disk(schedule), random.Random(seed)
    disk.make_folder("/root")
    for _ in range(80):
        operation, name, data = draw.choice(OPERATIONS), draw.choice(NAMES), draw.choice([b"", b"x", b"yyy"])
        simulated = result(lambda path: disk.at(f"/root/{path}".rstrip("/")), operation, name, data)
        real = result(lambda path: Local(tmp_path / path), operation, name, data)
        assert simulated == real, f"{operation} of {name} with {data!r}"


class RealParquet:
    """Parquet itself in the place of its double."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pq, name)

    def read_table(self, data: bytes) -> pa.Table:
        return pq.read_table(pa.BufferReader(data))


@pytest.mark.parametrize("seed", [seed for seed in range(12) if World(seed).kind == "disk"])
def test_a_world_with_real_parquet_has_the_same_trace(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk. From an object store it is read piece by piece, and the double at once."""
    with seams():
        double = simulate.simulate(seed)
        monkeypatch.setattr(worlds, "Parquet", RealParquet)
        real = simulate.simulate(seed)
    assert simulate.told(real, 10**6).splitlines() == simulate.told(double, 10**6).splitlines()
