"""What the cluster has, and how many actors of which size fit on it: arithmetic, without Ray."""

import dataclasses
import math
from dataclasses import dataclass

from tlearn.config import DecodeChoice
from tlearn.errors import InputError


@dataclass(frozen=True, slots=True)
class Here:
    """Pictures are decoded by threads of the process that computes."""

    num_threads: int


@dataclass(frozen=True, slots=True)
class ByTasks:
    """Pictures are decoded by tasks on any free CPUs of the cluster."""


Decode = Here | ByTasks

_CPUS_PER_SHARE, _GIB_PER_SHARE, _MOST_SHARES = 2, 2.5, 8
"""Of actors that share a GPU. The threads of one process wait for each other: on 16 cores 16 of them decode 890
photographs a second, 16 processes 5,100 and more. Each takes 2.2 GiB of the GPU."""
_LIKELY_GIB = 10.0
"""Memory of a GPU of which nothing is known: those of data centres have 16 GB and more."""


@dataclass(frozen=True, slots=True)
class Threads:
    """What an actor may run at the same time."""

    compute: int
    decode: Decode


@dataclass(frozen=True, slots=True)
class Pool:
    """How many actors, and what each holds of the cluster."""

    num_actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    decode: DecodeChoice = "here"
    workers: tuple[int, int] | None = None
    """The fewest and the most that were asked for."""
    is_child: bool = False
    """One actor that is no actor of Ray, but a child of this process."""

    @property
    def threads(self) -> Threads:
        """Of each actor: one decodes beside a processor's, several before a GPU."""
        compute = max(int(self.cpus_per_actor), 1)
        if self.decode == "pool":
            return Threads(compute, ByTasks())
        return Threads(compute, Here(compute if self.gpus_per_actor else 1))


@dataclass(frozen=True, slots=True)
class Node:
    """What one node has for tasks and actors."""

    num_cpus: float
    num_gpus: float = 0
    id: str = ""
    host: str = ""
    gib_of_gpu: float = 0.0
    """Memory of its smallest GPU; 0.0 where it is not known."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes that live, as they were when the cluster was asked."""

    nodes: tuple[Node, ...]

    @property
    def num_cpus(self) -> int:
        return int(sum(node.num_cpus for node in self.nodes)) or 1

    @property
    def num_gpus(self) -> int:
        return int(sum(node.num_gpus for node in self.nodes))

    @property
    def has_gpus(self) -> bool:
        """Whether GPUs compute: they do wherever there are any."""
        return self.num_gpus > 0

    def _shares(self, num_chunks: int) -> int:
        """How many actors share a GPU: 1, 2, 4 or 8, of which Ray knows the exact fraction.

        By the node with the fewest CPUs, or the least memory, for each.
        """
        rooms = [
            min(node.num_cpus / node.num_gpus / _CPUS_PER_SHARE, (node.gib_of_gpu or _LIKELY_GIB) / _GIB_PER_SHARE)
            for node in self.nodes
            if node.num_gpus
        ]
        most = min(_MOST_SHARES, num_chunks / max(self.num_gpus, 1), *rooms)
        return 1 << int(math.log2(max(most, 1)))

    def cpus_of_each(self, num_workers: int, *, on_gpus: bool, shares: int = 1) -> int:
        """The most CPUs, 1 or more, that so many workers (each with a GPU, a share of one or none) can have."""

        def has_room(num_cpus: int) -> bool:
            rooms = [int(node.num_cpus) // num_cpus for node in self.nodes]
            if on_gpus:
                rooms = [min(room, int(node.num_gpus) * shares) for room, node in zip(rooms, self.nodes, strict=True)]
            return sum(rooms) >= num_workers

        most = max((int(node.num_cpus) for node in self.nodes), default=1)
        return next((count for count in range(most, 1, -1) if has_room(count)), 1)

    def pool(self, workers: tuple[int, int] | None, num_chunks: int, decode: DecodeChoice = "here") -> Pool:
        """Some actors for each GPU, or one with one thread for each CPU, unless `workers` says otherwise; then each of
        them has a GPU, where there are any.

        The most may be more than have room: those that wait are what an autoscaler sees, and start on nodes that come.
        On CPUs two actors of one thread are faster than one of two. Where tasks decode, at least one CPU is left to
        them: actors that wait for tasks would hold the CPUs that these wait for. Raises InputError if the fewest have
        no room.
        """
        shares = self._shares(num_chunks) if workers is None and decode == "here" else 1
        available = self.num_gpus * shares or self.num_cpus
        if decode == "pool":
            if self.num_cpus < 2:
                raise InputError(
                    f"expected 2 CPUs or more in the cluster, got {self.num_cpus}: leave out --decode pool"
                )
            available = min(available, self.num_cpus - 1)
        lowest, highest = workers or (1, available)
        if lowest > available:
            raise InputError(
                f"expected at most {available} workers ({self.num_cpus} CPUs, {self.num_gpus} GPUs in the cluster), "
                f"got {lowest}"
            )
        num_actors = max(min(highest, num_chunks), 1)
        gpus_per_actor = int(self.has_gpus) / shares
        if decode == "here":
            cpus_per_actor = self.cpus_of_each(min(num_actors, available), on_gpus=self.has_gpus, shares=shares)
        else:
            num_actors = min(num_actors, available)
            cpus_per_actor = 1 if self.has_gpus else (self.num_cpus - 1) // num_actors
        return Pool(num_actors, cpus_per_actor, gpus_per_actor, decode, workers)

    def child(self, workers: tuple[int, int] | None, decode: DecodeChoice) -> Pool | None:
        """One child with all CPUs; None where several actors, GPUs or tasks that decode are asked for."""
        if self.has_gpus or decode != "here" or workers not in (None, (1, 1)):
            return None
        return Pool(1, self.num_cpus, 0, decode, workers, is_child=True)

    def refitted(self, old: Pool, num_chunks: int) -> Pool:
        """The pool for these nodes, where some are lost or new; no actor has more CPUs than it has threads for."""
        now = self.pool(old.workers and (1, old.workers[1]), num_chunks, old.decode)
        cpus_per_actor = min(now.cpus_per_actor, old.cpus_per_actor)
        gpus_per_actor = now.gpus_per_actor or old.gpus_per_actor  # nodes with GPUs may come back
        return dataclasses.replace(
            old, num_actors=now.num_actors, cpus_per_actor=cpus_per_actor, gpus_per_actor=gpus_per_actor
        )
