"""What a seed draws: a storage, a folder of small files, some writers, and what goes wrong."""

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

import instant
from doubles import MemoryIndex, Parquet
from invariants import Checker, Input
from schedule import HOUR, SECOND, Rates, Schedule, Writer
from storages import Bucket, Disk

from tlearn.config import ScoreConfig
from tlearn.network import description
from tlearn.network.description import Description
from tlearn.scoring import job
from tlearn.scoring.ledger import Ledger
from tlearn.storage.remote import Remote

ROOTS = {"disk": "/sim", "bucket": "s3://sim"}
NAMES = ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg", "dog/d.jpg", "e.jpg", "f.jpg", "g.jpg", "h.jpg", "i/j.jpg", "k.jpg")


class World:
    """What a seed draws: storage, files, writers and what goes wrong."""

    has_lease = False
    """Without, writers are kept apart by nothing but the commit."""

    def __init__(self, seed: int):
        self.seed = seed
        self.schedule = schedule = Schedule(seed, Rates())
        draw = schedule.random
        self.kind = draw.choice(["disk", "bucket"])
        self.rates = schedule.rates = _rates(draw)
        self.parquet = Parquet()
        self.local = {host: Disk(schedule) for host in "ab"}
        self.disk = Disk(schedule)
        self.bucket = Bucket(schedule, ROOTS["bucket"])
        self.store = self.disk if self.kind == "disk" else self.bucket
        root = ROOTS[self.kind]
        self.input = Input(self.store, f"{root}/input")
        self.is_growing = draw.random() < 0.8
        self.output = f"{root}/out/table" if self.is_growing else f"{root}/out/one.parquet"
        self.work = f"{root}/out/table/_tlearn" if self.is_growing else f"{root}/out/.one.parquet.work"
        self.has_lease = self.has_lease or draw.random() < 0.6
        self.chunk_size = draw.choice([1, 2, 3])
        self.waves = draw.choice([(), (1, 2), (2, 3), (4,)])
        self.checker = Checker(schedule, self.parquet, self.input, self.output, [model.digest for model in models()])
        self.store.on_change = self.checker.look
        schedule.on_edit, schedule.on_power_loss = self.edit, self.lose_power
        self.edits_left = 6
        self.indexes: dict[tuple[str, str], MemoryIndex] = {}
        self.open: dict[Writer, MemoryIndex] = {}
        self.read: dict[str, list[Any]] = {}
        self.num_uuids = 0
        for name in draw.sample(NAMES, draw.choice([1, 1, 2, 2, 3, 4, 6, 10])):
            self.input.put(name, self.draw_bytes())

    @property
    def host_disk(self) -> Disk:
        return self.local[self.schedule.current.host]

    def at(self, location: str) -> Any:
        if location.startswith(ROOTS["disk"] + "/"):
            return self.disk.at(location)
        if location.startswith(ROOTS["bucket"] + "/"):
            return Remote(location)
        return self.host_disk.at(location)

    def draw_bytes(self) -> bytes:
        draw = self.schedule.random
        return draw.choice([b"", b"bad", b"x", b"yy", b"zz", b"zzz", b"uvw", b"%d" % draw.randrange(100)])

    def edit(self) -> None:
        if self.edits_left == 0:
            return
        self.edits_left -= 1
        draw = self.schedule.random
        name = draw.choice(NAMES)
        if name in self.input.present and draw.random() < 0.3:
            self.schedule.note("edit", name, "removed", by="user")
            self.input.remove(name)
        else:
            data = self.draw_bytes()
            self.schedule.note("edit", name, repr(data), by="user")
            self.input.put(name, data)

    def lose_power(self) -> None:
        self.indexes.clear()
        self.checker.has_lost_power = True
        self.disk.lose_power()
        self.checker.has_lost_power = False

    def run(self) -> None:
        """Let the writers run, then one command that nothing disturbs; the schedule knows what was violated."""
        schedule, draw = self.schedule, self.schedule.random
        commands = {}
        for number in range(draw.choice([1, 2, 2, 2, 2, 3, 4])):
            writer = Writer(f"run {number + 1}", draw.choice("ab"), 10 + number, int(draw.random() * 60 * SECOND))
            commands[writer] = functools.partial(self.score, draw.choice([0, 0, 0, 1]))
        schedule.run(commands)
        if schedule.violation is not None:
            return
        if not self.input.present:
            self.input.put(NAMES[0], b"x")
        schedule.advance(schedule.now + 24 * HOUR)  # by then it is listed
        schedule.note("undisturbed", by="world")
        if not schedule.alone(Writer("last", "a", 1000), self._end):
            schedule.violate(f"an undisturbed command does not end well: {schedule.trace[-1]}")

    def _end(self) -> None:
        self.score(0)
        sentences = [self.checker.final(models()[0].digest), self.checker.left_over(self.work)]
        if self.is_growing:
            sentences += Ledger(self.output).verify()
        for sentence in sentences:
            if sentence is not None:
                self.schedule.violate(sentence)
                return

    def score(self, model: int) -> None:
        out = f"{self.output}/" if self.is_growing else self.output
        job.score(_config(f"model{model}", self.input.folder, out))


@functools.cache
def _config(model: str, folder: str, output: str) -> ScoreConfig:
    return ScoreConfig(model=model, input=folder, output=output, cache="/cache")


def _rates(draw: random.Random) -> Rates:
    """Of some worlds everything fails, of others one thing."""
    return Rates(
        switch=draw.choice([0.02, 0.1, 0.3, 0.8]),
        crash=draw.choice([0.0, 0.002, 0.01, 0.03]),
        pause=draw.choice([0.0, 0.0, 0.002, 0.01]),
        power_loss=draw.choice([0.0, 0.0, 0.001, 0.005]),
        edit=draw.choice([0.0, 0.0, 0.01, 0.05]),
        failure=draw.choice([0.0, 0.01, 0.05, 0.2]),
        lag=draw.choice([0.0, 0.3, 0.8]),
    )


@functools.cache
def models() -> list[Description]:
    """Two, to be made before storage is simulated."""
    with tempfile.TemporaryDirectory() as folder:
        return [description.verify(instant.save_model(Path(folder) / f"model{n}", n)) for n in range(2)]
