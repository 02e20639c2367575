"""What a person sees of a run: its data and its layers before it, its epochs while it learns."""

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import TrainConfig
from tlearn.console import Epochs, event, say, table, warn
from tlearn.data import copies, groups
from tlearn.data.manifest import Listing
from tlearn.errors import LockedError, printable, some
from tlearn.network import vgg
from tlearn.recipes import advice
from tlearn.training import board, checkpoint
from tlearn.training.checkpoint import Epoch
from tlearn.training.run import RunFolder

_MAX_SHOWN = 20


def describe_data(listing: Listing) -> None:
    """Say what the notebook printed: images and class indices."""
    for split in dict.fromkeys(file.split for file in listing.files):
        counts = Counter(file.label for file in listing.of(split))
        names = listing.classes.names
        say(f"{split}: {counts.total():,} images of {len(names)} classes ({listing.classes.counted(counts)})")
    for remark in [*listing.remarks, *copies.remarks(copies.find(listing.files))]:
        say(f"note: {remark}")
    for remark in groups.remarks(listing.files):
        warn(f"WARNING: {remark}")
    say(f"class indices: {{{some([f'{name!r}: {index}' for name, index in listing.classes.indices.items()], 20)}}}\n")


def describe_recipe(recipe: str, listing: Listing) -> None:
    """Say where another one has measured better on as many images."""
    counts = Counter(file.label for file in listing.of("train"))
    remark = advice(recipe, min(counts.values(), default=0))
    if remark is not None:
        say(f"note: {remark}\n")


def describe_folds(config: TrainConfig) -> None:
    """Say what they cost, where that is more than seconds."""
    if config.folds and (config.frozen_blocks < 5 or config.augment == "full"):
        say(
            f"note: --folds {config.folds} trains {config.folds} times more, on {1 - 1 / config.folds:.0%} of the "
            f"images each: about {config.folds} times as long as this training, after it\n"
        )


def describe_layers(config: TrainConfig, classes: Classes) -> None:
    """Say what Keras's model.summary() prints."""
    layers = list(vgg.summary(config.frozen_blocks, config.preprocess, config.head, classes.num_logits, config.arch))
    rows = []
    for layer in layers:
        state = ("trained" if layer.trained else "frozen") if layer.num_parameters else ""
        shape = f"({', '.join(map(str, layer.output_shape))})"
        rows.append((layer.name, layer.kind, shape, state, f"{layer.num_parameters:,}"))
    say(table(("layer", "kind", "output shape", "", "parameters"), rows, num_left=4))
    trained = sum(layer.num_parameters for layer in layers if layer.trained)
    total = sum(layer.num_parameters for layer in layers)
    say(f"parameters: {total:,} in all, {trained:,} trained, {total - trained:,} frozen\n")


def describe_skipped(listing: Listing) -> None:
    bad = [file for file in listing.files if file.status != "ok"]
    if bad:
        say(f"skipped {len(bad)} of {len(listing.files):,} images:")
        for file in bad[:_MAX_SHOWN]:
            say(f"  {printable(file.path)}: {file.status}: {file.error}")
        if len(bad) > _MAX_SHOWN:
            say(f"  and {len(bad) - _MAX_SHOWN} more, in manifest.parquet")


@contextlib.contextmanager
def followed(metrics: str, run: RunFolder, num_epochs: int, num_seen: int, *, has_board: bool = True) -> Iterator[None]:
    """Pass every line that the first worker writes on: to RUN/metrics.jsonl, to TensorBoard, to the person."""
    seconds = 2.0 if storage.is_remote(metrics) else 0.2  # each look there is a request
    ended = threading.Event()
    open_events = board.writer() if has_board else lambda folder: contextlib.nullcontext()

    def follow() -> None:
        # What fails to write here fails for good where the run writes next.
        with contextlib.suppress(OSError), open_events(str(run.path)) as events:
            follower = _Follower(metrics, run, events, Epochs(num_epochs), num_seen)
            while not ended.wait(seconds):
                follower.look()
            follower.look()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(slots=True)
class _Follower:
    metrics: str
    run: RunFolder
    events: Any
    """TensorBoard's, or None."""
    epochs: Epochs
    num_seen: int

    def look(self) -> None:
        # What fails here fails for good where the run writes next; else the next epoch writes all lines again.
        with contextlib.suppress(OSError, LockedError):
            text = storage.read(self.metrics).data.decode()
            new = checkpoint.parsed_lines(text)[self.num_seen :]
            for epoch in new:
                self._pass_on(epoch)
            if new:
                self.run.write_metrics(text)

    def _pass_on(self, epoch: Epoch) -> None:
        self.num_seen += 1
        figures = dataclasses.asdict(epoch)
        if self.events is not None:
            for name in figures.keys() - {"phase", "epoch", "seconds", "kept"}:
                self.events.add_scalar(name, figures[name], epoch.epoch)
            self.events.flush()
        event("epoch", run=self.run.location, **figures)
        train, val = (epoch.train_loss, epoch.train_accuracy), (epoch.val_loss, epoch.val_accuracy)
        self.epochs.add(epoch.epoch, train=train, val=val, seconds=epoch.seconds)
