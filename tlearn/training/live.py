"""What a person sees of a run: its data and its layers before it, its epochs while it learns."""

import contextlib
import dataclasses
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import TrainConfig
from tlearn.console import event, say
from tlearn.data import manifest
from tlearn.data.manifest import Listing
from tlearn.errors import LockedError
from tlearn.network import layers as network
from tlearn.training import checkpoint
from tlearn.training.checkpoint import Epoch
from tlearn.training.run import Run

_MAX_SHOWN = 20


def describe_data(listing: Listing) -> None:
    """Print what the notebook printed: images and class indices."""
    for split in ("train", "val"):
        counts = Counter(file.label for file in listing.of(split))
        print(f"{split}: {sum(counts.values()):,} images of {len(listing.classes.names)} classes", end="")
        print(" (" + ", ".join(f"{name} {counts[name]:,}" for name in listing.classes.names) + ")")
    for remark in [*listing.remarks, *manifest.leaks(listing.files)]:
        print(f"note: {remark}")
    print(f"class indices: {listing.classes.indices}\n", flush=True)


def describe_layers(config: TrainConfig, classes: Classes) -> None:
    """Print the layer table."""
    layers = list(network.layers(config.frozen_blocks, config.preprocess, config.head, classes.num_logits, config.arch))
    print(f"{'layer':<14} {'kind':<22} {'output shape':<18} {'parameters':>12}")
    for layer in layers:
        state = ("trained" if layer.trained else "frozen") if layer.num_parameters else ""
        shape = f"({', '.join(map(str, layer.output_shape))})"
        print(f"{layer.name:<14} {layer.kind:<22} {shape:<18} {layer.num_parameters:>12,}  {state}".rstrip())
    trained = sum(layer.num_parameters for layer in layers if layer.trained)
    total = sum(layer.num_parameters for layer in layers)
    print(f"parameters: {total:,} in all, {trained:,} trained, {total - trained:,} frozen\n", flush=True)


def describe_skipped(listing: Listing) -> None:
    bad = [file for file in listing.files if file.status != "ok"]
    if bad:
        print(f"skipped {len(bad)} of {len(listing.files):,} images:")
        for file in bad[:_MAX_SHOWN]:
            print(f"  {file.path}: {file.status}: {file.error}")
        if len(bad) > _MAX_SHOWN:
            print(f"  and {len(bad) - _MAX_SHOWN} more, in manifest.parquet")


@contextlib.contextmanager
def followed(metrics: str, run: Run, num_epochs: int, num_seen: int, *, quiet: bool) -> Iterator[None]:
    """Pass every line that the first worker writes on: to RUN/metrics.jsonl, to TensorBoard, to the person."""
    # Where TensorFlow is installed, TensorBoard would load it for opening files, and torch's compiler, loaded after it,
    # would end the process: both hold an LLVM. By this module TensorBoard knows that it is to do without.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter

    seconds = 2.0 if storage.is_remote(metrics) else 0.2  # each look there is a request
    ended = threading.Event()

    def follow() -> None:
        with SummaryWriter(str(run.path)) as board:
            follower = _Follower(metrics, run, num_epochs, board, quiet, num_seen)
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
    run: Run
    num_epochs: int
    board: Any
    """TensorBoard's."""
    quiet: bool
    num_seen: int

    def look(self) -> None:
        # What fails here fails for good where the run writes next; else the next epoch writes all lines again.
        with contextlib.suppress(OSError, LockedError):
            text = storage.read(self.metrics).data.decode()
            new = checkpoint.parsed_lines(text)[self.num_seen :]
            for epoch in new:
                self._pass_on(epoch)
            if new:
                self.board.flush()
                self.run.write_metrics(text)

    def _pass_on(self, epoch: Epoch) -> None:
        self.num_seen += 1
        figures = dataclasses.asdict(epoch)
        for name in figures.keys() - {"phase", "epoch", "seconds"}:
            self.board.add_scalar(name, figures[name], epoch.epoch)
        event("epoch", run=self.run.location, **figures)
        say(
            f"epoch {epoch.epoch:>3} of {self.num_epochs}: "
            f"train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:.4f}, "
            f"val loss {epoch.val_loss:.4f} accuracy {epoch.val_accuracy:.4f}, {epoch.seconds:.1f} s",
            quiet=self.quiet,
        )
