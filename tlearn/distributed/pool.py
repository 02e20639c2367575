"""The primitive of both jobs: a list cut into chunks, an actor pool that turns each chunk into one file.

Only paths go into an actor and only small rows come out; what is large the actor writes itself.
"""

import dataclasses
import importlib
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from tlearn import errors
from tlearn.config import DecodeChoice
from tlearn.distributed.chunks import Chunk
from tlearn.errors import InputError, TrainingError

_MAX_DEATHS = 3


class Work(Protocol):
    """What an actor does: built once, called once a chunk; returns a small row."""

    def __call__(self, chunk: Chunk) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Pool:
    """How many actors, and what each holds of the cluster."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    decode: DecodeChoice = "here"
    workers: tuple[int, int] | None = None
    """The fewest and the most that were asked for."""

    @property
    def num_threads(self) -> int:
        """Threads that compute in each actor."""
        return max(int(self.cpus_per_actor), 1)

    @property
    def decode_threads(self) -> int | None:
        """Threads that decode ahead of the network: one beside a processor's, several before a GPU; None with tasks."""
        if self.decode == "pool":
            return None
        return self.num_threads if self.gpus_per_actor else 1


def pool(workers: tuple[int, int] | None, num_chunks: int, decode: DecodeChoice = "here") -> Pool:
    """One actor for each GPU of the cluster, or one with one thread for each CPU, unless `workers` says otherwise.

    The most may be more than have room: those that wait are what an autoscaler sees, and start on nodes that come. On
    CPUs two actors of one thread are faster than one of two. Where tasks decode, at least one CPU is left to them:
    actors that wait for tasks would hold the CPUs that these wait for. Raises ValueError if the fewest have no room.
    """
    resources = ray.cluster_resources()
    num_gpus, num_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    available = num_gpus or num_cpus
    if decode == "pool":
        if num_cpus < 2:
            raise InputError(f"expected 2 CPUs or more in the cluster, got {num_cpus}: leave out --decode pool")
        available = min(available, num_cpus - 1)
    lowest, highest = workers or (1, available)
    if lowest > available:
        raise InputError(
            f"expected at most {available} workers ({num_cpus} CPUs, {num_gpus} GPUs in the cluster), got {lowest}"
        )
    num_actors = max(min(highest, num_chunks), 1)
    if decode == "pool":
        num_actors = min(num_actors, available)
    cpus_per_actor = cpus_of_each(min(num_actors, available), on_gpus=num_gpus > 0)
    if decode == "pool":
        cpus_per_actor = 1 if num_gpus else (num_cpus - 1) // num_actors
    return Pool(num_actors, cpus_per_actor, 1 if num_gpus else 0, decode, workers)


def _refitted(old: Pool, num_chunks: int) -> Pool:
    """For the nodes that there are now, lost ones and new ones; no actor has more of a node than it has threads for."""
    now = pool(old.workers and (1, old.workers[1]), num_chunks, old.decode)
    cpus_per_actor = min(now.cpus_per_actor, old.cpus_per_actor)
    return dataclasses.replace(old, num_actors=now.num_actors, cpus_per_actor=cpus_per_actor)


def cpus_of_each(num_workers: int, *, on_gpus: bool) -> int:
    """The most CPUs, 1 or more, that so many workers (each with a GPU or none) can have on the nodes of the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def has_room(num_cpus: int) -> bool:
        rooms = [int(node.get("CPU", 0)) // num_cpus for node in nodes]
        if on_gpus:
            rooms = [min(room, int(node.get("GPU", 0))) for room, node in zip(rooms, nodes, strict=True)]
        return sum(rooms) >= num_workers

    most = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    return next((count for count in range(most, 1, -1) if has_room(count)), 1)


class _Actor:
    """Between Ray Data's batches and a Work."""

    def __init__(self, work: str, arguments: dict[str, Any]):
        module, _, name = work.partition(":")
        self.work: Work = getattr(importlib.import_module(module), name)(**arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        results = []
        for row in batch.to_pylist():
            with pa.ipc.open_stream(row["rows"]) as reader:
                results.append(self.work(Chunk(row["id"], reader.read_all())))
        return pa.Table.from_pylist(results)


def run(
    chunks: Iterable[Chunk], work: str, arguments: dict[str, Any], pool: Pool, name: str | None = None
) -> Iterator[dict[str, Any]]:
    """Give every chunk to one of the pool's actors; yield what each returned, as it comes, each once.

    `work` is the module:class of a Work: what that imports, torch above all, only the actors load.
    `name` is what Ray's dashboard calls this; the class names the actors.
    An actor that dies ends a round; the next one goes on with new actors. Raises TrainingError when that has
    happened too often in a row without a chunk done in between. With an actor a node may be gone: the next round has
    as many actors as the cluster then has room for.
    """
    pending = {chunk.id: chunk for chunk in chunks}
    num_deaths = 0
    while pending:
        try:
            for result in _round(list(pending.values()), work, arguments, pool, name):
                del pending[result["chunk"]]
                num_deaths = 0
                yield result
        except RayActorError as error:
            if error.actor_init_failed:
                raise _initial_error(error) from None
            num_deaths += 1
            if num_deaths > _MAX_DEATHS:
                raise TrainingError(
                    f"expected actors that live, {num_deaths} died one after the other ({_first_line(error)}): "
                    "look for a lack of memory, or try fewer --workers"
                ) from error
            pool = _refitted(pool, len(pending))


def _round(
    chunks: list[Chunk], work: str, arguments: dict[str, Any], pool: Pool, name: str | None
) -> Iterator[dict[str, Any]]:
    items = [{"id": chunk.id, "rows": _to_bytes(chunk.rows)} for chunk in chunks]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the limit on restarts has no other name yet (ray#65227)
        results = dataset.map_batches(
            type(work.partition(":")[2], (_Actor,), {}),
            fn_constructor_kwargs={"work": work, "arguments": arguments},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=pool.num_actors),
            num_cpus=pool.cpus_per_actor,
            num_gpus=pool.gpus_per_actor or None,
            max_restarts=0,  # Ray Data's own default is to restart a dead actor for ever
        )
    results.set_name(name)
    yield from results.iter_rows()


def _initial_error(error: RayActorError) -> Exception:
    """What a Work's __init__ raised, of which Ray keeps the text only; it would raise it again in a new actor."""
    name, _, text = str(error).strip().splitlines()[-1].partition(": ")
    kind = getattr(errors, name.rpartition(".")[2], TrainingError)
    return kind(text) if kind is not TrainingError else TrainingError(f"an actor could not start: {name}: {text}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
