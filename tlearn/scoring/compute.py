"""The part of the scoring job that needs a network: the chunks of a stream, by actors or by a child."""

import functools
import os
import time
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from tlearn import storage
from tlearn.console import Progress
from tlearn.distributed.chunks import ChunkResult
from tlearn.network import arithmetic
from tlearn.scoring.planning import Places
from tlearn.scoring.stream import Stream
from tlearn.scoring.table import Row
from tlearn.scoring.task import Limits, Task
from tlearn.storage import Entry

if TYPE_CHECKING:
    from tlearn.scoring.actor import Score

SCORER = "tlearn.scoring.actor:Score"


def chunks(places: Places, stream: Stream) -> Iterator[tuple[ChunkResult, float]]:
    """Let actors write the missing chunks of a stream, or a child that is one.

    Yields what became of each, and the images per second after the start, 0.0 if there are too few. With nothing to
    compute neither Ray nor torch is loaded.
    """
    waiting = stream.chunks()
    first = next(filter(None, waiting), None)
    if first is None:
        return
    from tlearn.distributed import launch, meters, pool

    config, model = places.config, places.model.digest
    if not launch.is_alone():
        launch.start_ray()
        launch.wait_for_room([{"CPU": 1}], config.wait_seconds)
        launch.require_shared([storage.join(config.model, "model.json"), stream.first_file()], [places.runs])
    actors = launch.pool(config.num_workers, stream.num_missing, config.decode)
    task = _task(places, on_gpu=actors.gpus_per_actor > 0)
    started = time.monotonic()
    with launch.causes(), Progress("scored", stream.num_images, num_parallel=actors.num_actors) as progress:
        for result in pool.run(chain([first], waiting), SCORER, task, actors):
            progress.advance(result.num_images, of=stream.num_images)
            meters.count("images_scored", result.num_images - result.num_failed, model=model)
            meters.count("images_failed", result.num_failed, model=model)
            yield result, progress.rate()
        meters.count("stage_seconds", time.monotonic() - started, stage="score")


def one(places: Places, entry: Entry) -> Row:
    """The row of a file that was to share the row of another, which has failed: too few for a pool."""
    return _scorer(_task(places, on_gpu=False)).rows([entry]).rows[0]


@functools.cache
def _scorer(task: Task) -> "Score":
    from tlearn.distributed.nodes import Here, Threads
    from tlearn.scoring.actor import Score

    num_cpus = os.cpu_count() or 1
    return Score(task, Threads(num_cpus, Here(num_cpus)))


def _task(places: Places, *, on_gpu: bool) -> Task:
    config, model = places.config, places.model
    return Task(
        model=storage.absolute(config.model),
        model_digest=model.digest,
        arithmetic=arithmetic.of_model(model.arithmetic, config.engine, config.precision, on_gpu=on_gpu),
        input=places.input.folder,
        runs=places.runs,
        batch_size=config.batch_size,
        limits=Limits(config.abstain_below or 0.0, config.unknown_rate),
        cascade=config.cascade == "auto" and not on_gpu,
    )
