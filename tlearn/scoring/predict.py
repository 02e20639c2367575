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
from itertools import chain
from os import PathLike, fspath
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tlearn import storage
from tlearn.config import EngineChoice, PrecisionChoice, PreprocessConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.errors import InputError, IntegrityError, UsageError
from tlearn.evaluation import drift, metrics
from tlearn.evaluation.drift import Histograms, Reference
from tlearn.network import arithmetic, description, model
from tlearn.network.device import Device
from tlearn.network.frozen import require_finite
from tlearn.network.model import Classifier, Model
from tlearn.scoring import table
from tlearn.scoring.table import Row

_NUM_LAUNCHED = 2
"""Batches under way: a GPU works on the second while the first is looked at."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The rows of a batch in the order of its files, and the histograms of those with a prediction."""

    rows: list[Row]
    histograms: Histograms | None
    """None where the model folder has none to compare with, or there is no prediction."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model that is ready on its device. Made by `load` or `of`."""

    classifier: Classifier
    device: Device
    abstain_below: float = 0.0
    """A row whose probability is lower is uncertain."""
    run: str | None = None
    """For the column of that name."""
    folder: str = ""
    """Of the model, where it was loaded from one."""

    def __repr__(self) -> str:
        return f"Predictor({self.folder!r}: {self.classifier.description})"

    @classmethod
    def of(cls, model: Model, device: Device, abstain_below: float | None = None, run: str | None = None) -> Self:
        """Move a model to its device."""
        return cls(model.prepare(device.name, device.compile_for), device, abstain_below or 0.0, run)

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
        files = zip(names, _decoded(names, self.classifier.description.preprocess), strict=True)
        return chain.from_iterable(scores.rows for scores in self.scores(files))

    def scores(self, files: Iterable[tuple[str, Fetched]]) -> Iterator[Scores]:
        """Batch by batch, in the order of the files (path, what it holds), read as a stream.

        Raises InputError for one with a feature beyond float16.
        """
        launched: deque[_Launched] = deque()
        for batch in _batches(files, self.device.batch_size):
            launched.append(self._launch(batch))
            if len(launched) == _NUM_LAUNCHED:
                yield self._finish(launched.popleft())
        yield from map(self._finish, launched)

    def _launch(self, files: list[tuple[str, Fetched]]) -> "_Launched":
        pixels = [fetched.pixels for _, fetched in files if fetched.pixels is not None]
        if not pixels:
            return _Launched(files, None)
        logits, pooled = self.classifier.outputs(self.device.stack(pixels))
        return _Launched(files, (metrics.probabilities(logits), pooled))

    def _finish(self, launched: "_Launched") -> Scores:
        if launched.outputs is None:
            return Scores([self._row(path, fetched, None) for path, fetched in launched.files], None)
        require_finite(launched.outputs[1:])
        probabilities, pooled = (output.cpu().numpy() for output in launched.outputs)
        if not np.isfinite(probabilities).all():
            raise IntegrityError(
                f"expected probabilities, model {self.classifier.description.digest} gives what is no number: "
                "its weights are at fault, train it again"
            )
        # Only decoded files have a row of probabilities.
        of_decoded = iter(probabilities)
        rows = [
            self._row(path, fetched, None if fetched.pixels is None else next(of_decoded))
            for path, fetched in launched.files
        ]
        return Scores(rows, self._histograms(probabilities, pooled))

    def _histograms(self, probabilities: np.ndarray[Any, Any], pooled: np.ndarray[Any, Any]) -> Histograms | None:
        reference = Reference.from_json(self.classifier.description.reference)
        return None if reference is None else reference.count(drift.series(probabilities, pooled))

    def _row(self, path: str, fetched: Fetched, probabilities: np.ndarray[Any, Any] | None) -> Row:
        """`probabilities`: (classes,), None unless the file was decoded."""
        description = self.classifier.description
        row = Row(
            path=path,
            status=fetched.status,
            label=table.label_of(path, description.classes),
            error=fetched.error,
            width=fetched.width,
            height=fetched.height,
            bytes=fetched.size,
            modified=fetched.modified,
            sha256=fetched.sha256,
            model=description.digest,
            run=self.run,
            scored_at=datetime.now(UTC),
        )
        if probabilities is None:
            return row
        names, best = description.classes.names, int(probabilities.argmax())
        return replace(
            row,
            status="uncertain" if probabilities[best] < self.abstain_below else "scored",
            prediction=names[best],
            probability=float(probabilities[best]),
            probabilities=dict(zip(names, probabilities.tolist(), strict=True)),
        )


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch that a GPU may still be working on."""

    files: list[tuple[str, Fetched]]
    outputs: tuple[Tensor, Tensor] | None
    """Probabilities (pictures, classes) and pooled features (pictures, channels) of those that were decoded."""


def load(folder: str, engine: EngineChoice = "auto", precision: PrecisionChoice = "auto") -> Predictor:
    """The model of a folder, path or URI, in the arithmetic that `tlearn score` takes on this machine.

    Raises InputError where there is no model, IntegrityError where it is damaged.
    """
    trained = description.describe(folder).arithmetic
    best = arithmetic.of_model(trained, engine, precision, on_gpu=torch.cuda.is_available())
    return replace(Predictor.of(model.load(folder, best), Device.here(os.cpu_count() or 1)), folder=folder)


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


def _batches(files: Iterable[tuple[str, Fetched]], size: int) -> Iterator[list[tuple[str, Fetched]]]:
    """So many files that were decoded, and between them those that were not."""
    batch: list[tuple[str, Fetched]] = []
    num_decoded = 0
    for path, fetched in files:
        batch.append((path, fetched))
        num_decoded += fetched.pixels is not None
        if num_decoded == size:
            yield batch
            batch, num_decoded = [], 0
    if batch:
        yield batch
