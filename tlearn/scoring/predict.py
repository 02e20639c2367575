"""Pictures to rows with a model, without Ray: what an actor does with a chunk, and a Python program with its files.

model = predict.load("runs/a/model")
for row in model.predict(["a.jpg", "s3://bucket/b.jpg"]):
    print(row.path, row.status, row.prediction, row.probability)
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from os import PathLike, fspath
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from tlearn import storage
from tlearn.config import CascadeChoice, EngineChoice, PrecisionChoice, PreprocessConfig
from tlearn.data.fetch import Decoder, Fetched, fetch
from tlearn.errors import InputError, IntegrityError, UsageError
from tlearn.evaluation import deferral, drift, metrics, novelty
from tlearn.evaluation.drift import Histograms, Reference
from tlearn.network import arithmetic, description, model
from tlearn.network.description import Description, Novelty
from tlearn.network.device import Device
from tlearn.network.frozen import require_finite
from tlearn.network.model import Classifier, Model
from tlearn.scoring import table
from tlearn.scoring.table import Row
from tlearn.scoring.task import Limits

Item = TypeVar("Item")

_NUM_LAUNCHED = 2
"""Batches under way: a GPU works on the second while the first is looked at."""
_BATCHES_OF_WINDOW = 8
"""After so many pictures a stream's rows are given, also of those that the large network has to look at."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The rows of some files in their order, and the histograms of those with a prediction."""

    rows: list[Row]
    histograms: Histograms
    """Empty where the model folder has none to compare with, or there is no prediction."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network says of a picture."""

    probabilities: np.ndarray[Any, Any]  # (classes,)
    pooled: np.ndarray[Any, Any]  # (channels,)
    novelty: float | None
    stage: int
    """Size in pixels of what it has seen."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A network that is ready on its device, and when its answers stand."""

    name: Literal["small", "large"]
    classifier: Classifier
    points: Tensor | None
    novelty: Novelty | None
    limit: float = 0.0
    """Margin below which the next stage is asked."""
    max_novelty: float = 100.0
    """Percentile beyond which it is, too."""

    @classmethod
    def of(cls, model: Model, device: Device, name: Literal["small", "large"]) -> Self:
        network, cascade = (model.large, None) if name == "large" else (model.small, model.description.cascade)
        assert network is not None
        classifier = network.prepare(device.name)
        points = None if network.points is None else network.points.float().to(device.name)
        if cascade is None:
            return cls(name, classifier, points, model.description.novelty)
        return cls(name, classifier, points, cascade.novelty, cascade.limit, cascade.max_novelty)

    def answers(self, pixels: Tensor) -> "_Launched":
        """Of (batch, 3, size, size) uint8; what is under way on a GPU."""
        logits, pooled = self.classifier.outputs(pixels)
        distances = None if self.points is None else novelty.distances(self.points, pooled)
        return _Launched(metrics.probabilities(logits), deferral.margins(logits), pooled, distances)


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model that is ready on its device. Made by `load` or `of`."""

    description: Description
    stages: tuple[Stage, ...]
    """The small network first, where it may answer; the last one answers everything."""
    device: Device
    limits: Limits
    folder: str = ""
    """Of the model, where it was loaded from one."""

    def __repr__(self) -> str:
        return f"Predictor({self.folder!r}: {self.description})"

    @classmethod
    def of(cls, model: Model, device: Device, limits: Limits, *, cascade: bool) -> Self:
        """Move a model to its device; with `cascade` its small network answers first, if it has one."""
        large = Stage.of(model, device, "large")
        if not cascade or model.small is None:
            return cls(model.description, (large,), device, limits)
        small = Stage.of(model, device, "small")
        # What may be unknown is for the large network to say.
        small = replace(small, max_novelty=min(small.max_novelty, limits.max_novelty))
        return cls(model.description, (small, large), device, limits)

    @property
    def large(self) -> Classifier:
        """The network that may answer everything."""
        return self.stages[-1].classifier

    def predict(self, paths: Iterable[str | PathLike[str]]) -> Iterator[Row]:
        """One row for every file of a list of local paths or URIs, in their order; what cannot be read is a row too.

        Raises InputError for a batch with a feature beyond float16, IntegrityError for a model that gives NaN.
        """
        if isinstance(paths, str | PathLike):
            raise UsageError(f"expected a list of paths, got one path: predict([{fspath(paths)!r}])")
        try:
            names = [fspath(path) for path in paths]
        except TypeError:
            raise UsageError(f"expected a list of paths, got {paths!r}") from None
        fetched = _decoded(names, self.stages[0].classifier.preprocess)
        files = zip(names, fetched, strict=True)
        size = _BATCHES_OF_WINDOW * self.device.batch_size
        return chain.from_iterable(self.scores(window, self._again).rows for window in _batches(files, size))

    def _again(self, paths: Sequence[str]) -> Iterator[Fetched]:
        return _decoded(paths, self.large.preprocess)

    def scores(self, files: Iterable[tuple[str, Fetched]], again: Decoder) -> Scores:
        """Of files (path, what it holds for the first stage), read as a stream.

        `again` reads those for the next stage of which the first is not sure. Raises as `predict` does.
        """
        known: list[tuple[str, Fetched]] = []
        answers: dict[int, Answer] = {}
        first: dict[int, np.ndarray[Any, Any]] = {}
        todo: Iterable[tuple[int, Fetched]] = _kept(files, known)
        for number, stage in enumerate(self.stages):
            open_ones: list[Iterable[tuple[int, Fetched]]] = []
            for batch in self._answered(stage, todo):
                if number == 0:
                    first |= {at: answer.pooled for at, (answer, _) in batch.items()}
                answers |= {at: answer for at, (answer, stands) in batch.items() if stands}
                rest = [at for at, (_, stands) in batch.items() if not stands]
                if rest:  # read while the next batch is looked at
                    open_ones.append(zip(rest, again([known[at][0] for at in rest]), strict=True))
            todo = _same(chain.from_iterable(open_ones), known)
        rows = [self._row(path, fetched, answers.get(at)) for at, (path, fetched) in enumerate(known)]
        return Scores(rows, self._histograms(answers, first))

    def _answered(self, stage: Stage, files: Iterable[tuple[int, Fetched]]) -> Iterator[dict[int, tuple[Answer, bool]]]:
        """Batch by batch what a stage says of those that were decoded, by their number, and whether it stands."""
        decoded = ((at, fetched.pixels) for at, fetched in files if fetched.pixels is not None)
        launched: deque[tuple[list[int], _Launched]] = deque()
        for batch in _batches(decoded, self.device.batch_size):
            pixels = self.device.stack([pixels for _, pixels in batch])
            launched.append(([at for at, _ in batch], stage.answers(pixels)))
            if len(launched) == _NUM_LAUNCHED:
                yield self._finish(stage, *launched.popleft())
        for numbers, outputs in launched:
            yield self._finish(stage, numbers, outputs)

    def _finish(self, stage: Stage, numbers: list[int], outputs: "_Launched") -> dict[int, tuple[Answer, bool]]:
        require_finite([outputs.pooled])
        probabilities, pooled = outputs.probabilities.cpu().numpy(), outputs.pooled.cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise IntegrityError(
                f"expected probabilities, model {self.description.digest} gives what is no number: "
                "its weights are at fault, train it again"
            )
        stands = outputs.margins.cpu() >= stage.limit
        novelties: list[float] | list[None] = [None] * len(numbers)
        if outputs.distances is not None and stage.novelty is not None:
            percentiles = novelty.percentiles(stage.novelty.distances, outputs.distances)
            stands &= percentiles <= stage.max_novelty
            novelties = percentiles.tolist()
        size = stage.classifier.preprocess.image_size
        columns = zip(numbers, probabilities, pooled, novelties, stands.tolist(), strict=True)
        return {at: (Answer(row, mean, novel, size), stand) for at, row, mean, novel, stand in columns}

    def _histograms(self, answers: dict[int, Answer], first: dict[int, np.ndarray[Any, Any]]) -> Histograms:
        """Of what was answered, with the features of the first stage, which has seen all."""
        name = self.stages[0].name
        reference = Reference.from_json(self.description.reference_of(name))
        if reference is None or not answers:
            return {}
        probabilities = np.stack([answer.probabilities for answer in answers.values()])
        return {name: reference.count(drift.series(probabilities, np.stack([first[at] for at in answers])))}

    def _row(self, path: str, fetched: Fetched, answer: Answer | None) -> Row:
        """`answer` is None unless the file was decoded."""
        row = Row(
            path=path,
            status=fetched.status,
            label=table.label_of(path, self.description.classes),
            error=fetched.error,
            width=fetched.width,
            height=fetched.height,
            bytes=fetched.size,
            modified=fetched.modified,
            sha256=fetched.sha256,
            model=self.description.digest,
            scored_at=datetime.now(UTC),
        )
        if answer is None:
            return row
        names, best = self.description.classes.names, int(answer.probabilities.argmax())
        # The small network passes on what may be a stranger.
        is_large = answer.stage == self.large.preprocess.image_size
        return replace(
            row,
            status=self.limits.status(answer.probabilities[best], answer.novelty if is_large else None),
            prediction=names[best],
            probability=float(answer.probabilities[best]),
            probabilities=dict(zip(names, answer.probabilities.tolist(), strict=True)),
            novelty=answer.novelty,
            stage=answer.stage,
        )


@dataclass(frozen=True, slots=True)
class _Launched:
    """Of a batch that a GPU may still be working on."""

    probabilities: Tensor  # (batch, classes)
    margins: Tensor  # (batch,)
    pooled: Tensor  # (batch, channels)
    distances: Tensor | None  # (batch,)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of so many, the last one of what is left."""
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])


def _kept(files: Iterable[tuple[str, Fetched]], known: list[tuple[str, Fetched]]) -> Iterator[tuple[int, Fetched]]:
    """Each file by its number; `known` takes up all that is known of it but its pixels."""
    for at, (path, fetched) in enumerate(files):
        known.append((path, replace(fetched, pixels=None)))
        yield at, fetched


def _same(files: Iterable[tuple[int, Fetched]], known: list[tuple[str, Fetched]]) -> Iterator[tuple[int, Fetched]]:
    """Files that were read again, if they hold what they held; `known` takes up why one does not."""
    for at, fetched in files:
        path, before = known[at]
        if fetched.size is not None and fetched.sha256 != before.sha256:
            fetched = Fetched("changed", "written to while it was scored", size=fetched.size, modified=fetched.modified)
        known[at] = (path, replace(fetched, pixels=None))
        yield at, fetched


def load(
    folder: str,
    engine: EngineChoice = "auto",
    precision: PrecisionChoice = "auto",
    cascade: CascadeChoice = "auto",
    limits: Limits = Limits(),  # noqa: B008 frozen
) -> Predictor:
    """The model of a folder, path or URI, in the arithmetic that `tlearn score` takes on this machine.

    Raises InputError where there is no model, IntegrityError where it is damaged.
    """
    trained, on_gpu = description.describe(folder).arithmetic, torch.cuda.is_available()
    best = arithmetic.of_model(trained, engine, precision, on_gpu=on_gpu)
    loaded, device = model.load(folder, best), Device.here(os.cpu_count() or 1, best.engine)
    ready = Predictor.of(loaded, device, limits, cascade=cascade == "auto" and not on_gpu)
    return replace(ready, folder=folder)


def _decoded(paths: Sequence[str], preprocess: PreprocessConfig) -> Iterator[Fetched]:
    """What files anywhere hold, in their order; threads are a few files ahead."""
    num_threads = os.cpu_count() or 1
    ahead: deque[Future[Fetched]] = deque()
    with ThreadPoolExecutor(num_threads) as threads:
        for path in paths:
            ahead.append(threads.submit(_fetch, path, preprocess))
            if len(ahead) > 4 * num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _fetch(path: str, preprocess: PreprocessConfig) -> Fetched:
    folder, _, name = storage.absolute(path).rpartition("/")
    try:
        return fetch(folder or "/", storage.encode_name(os.fsencode(name)), preprocess)
    except InputError as error:  # a URI of a kind that nobody knows
        return Fetched(status="io_error", error=str(error))
