"""A checkpoint: a folder whose last file, progress.json, holds the sha256 of the others.

trainable.safetensors   the layers after the cut
average.safetensors     their moving average, where one is kept
optimizer.pt            read with weights_only=True
logits.safetensors      of the validation images under these weights; not within an epoch
progress.json           phase, updates done in its epoch, a line of metrics for each epoch done, digest of the job
"""

import contextlib
import dataclasses
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from tlearn import storage
from tlearn.console import warn
from tlearn.errors import IntegrityError, StorageError
from tlearn.network.columns import Columns
from tlearn.network.trainable import Trainable
from tlearn.training.loop import Kept, Learner, unwrapped


@dataclass(frozen=True, slots=True)
class Epoch:
    """A line of metrics.jsonl."""

    phase: int
    """From 1."""
    epoch: int
    """From 1, through all phases."""
    lr: float
    """Of the head, in the last step."""
    train_count: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    num_workers: int
    seconds: float
    kept: Kept = "average"
    """Which of the two had the lower validation loss, of which the figures above are and which the model takes. Where
    a line does not say it, what was averaged was kept."""


def parsed_lines(text: str) -> list[Epoch]:
    """The epochs of a metrics.jsonl."""
    return [Epoch(**json.loads(line)) for line in text.splitlines()]


def lines(epochs: Iterable[Epoch]) -> str:
    return "".join(json.dumps(dataclasses.asdict(epoch), allow_nan=False) + "\n" for epoch in epochs)


@dataclass(frozen=True, slots=True)
class Position:
    """What progress.json says: how far a job has come."""

    digest: str
    phase: int = 0
    start: int = 0
    """Updates done in the epoch that follows the last line of the history; 0 between epochs."""
    sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Of these updates, over all workers."""
    history: tuple[Epoch, ...] = ()
    """A line for each epoch done, of all phases."""
    is_finished: bool = False

    def val_losses(self, phase: int) -> list[float]:
        return [epoch.val_loss for epoch in self.history if epoch.phase == phase + 1]


def save(
    folder: Path, learner: Learner, optimizer_state: dict[str, Any], logits: Tensor | None, progress: Position
) -> None:
    """Logits of the validation images, (num_val, num_logits), are there between epochs only. Raises StorageError."""
    tensors = {"trainable": unwrapped(learner.network).state_dict()}
    if learner.average is not None:
        tensors["average"] = learner.average.state_dict()
    if logits is not None:
        tensors["logits"] = {"logits": logits}
    for name, named in tensors.items():
        data = safetensors({key: tensor.contiguous() for key, tensor in named.items()})
        _write(folder / f"{name}.safetensors", data)
    state = io.BytesIO()
    torch.save(optimizer_state, state)
    _write(folder / "optimizer.pt", state.getbuffer())
    hashes = {path.name: storage.sha256_file(path) for path in folder.iterdir()}
    content = {**dataclasses.asdict(progress), "sha256": hashes}
    _write(folder / "progress.json", json.dumps(content, allow_nan=False).encode())


def _write(path: Path, data: bytes | memoryview) -> None:
    """Without waiting for the disk: what is torn is seen by its digest."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror}; free some space or set TMPDIR") from error


def restore(
    folder: Path,
    trainable: Trainable,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    columns: Columns | None,
) -> None:
    """Fill what is trained, from a folder whose progress was read and its files so verified."""
    trainable.load_state_dict(load_file(folder / "trainable.safetensors"))
    state = torch.load(folder / "optimizer.pt", "cpu", weights_only=True)  # a run may go on where there is no GPU
    optimizer.load_state_dict(columns.own_state(optimizer, state) if columns else state)
    if average is not None:
        average.load_state_dict(load_file(folder / "average.safetensors"))


def learned_tensors(folder: Path, kept: Kept) -> dict[str, Tensor]:
    """What the checkpoint keeps; the weights where there is no average."""
    average = folder / "average.safetensors"
    if kept == "weights" or not average.exists():
        return load_file(folder / "trainable.safetensors")
    prefix = "module."
    return {name.removeprefix(prefix): tensor for name, tensor in load_file(average).items() if prefix in name}


def val_logits(folder: Path) -> Tensor:
    """(num_val, num_logits); of a checkpoint between epochs."""
    return load_file(folder / "logits.safetensors")["logits"]


def read_position(folder: str | Path) -> Position:
    """What progress.json says, every file checked against it. Raises IntegrityError, StorageError of a remote store."""
    location = str(folder)
    try:
        values: dict[str, Any] = storage.read_json(storage.join(location, "progress.json"))
        for name, sha256 in values.pop("sha256").items():
            if storage.sha256_file(storage.join(location, name)) != sha256:
                raise IntegrityError(f"expected the recorded sha256 of {location}/{name}, got another")
        history = tuple(Epoch(**epoch) for epoch in values["history"])
        return Position(**values | {"sums": tuple(values["sums"]), "history": history})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if storage.is_remote(location) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise StorageError(f"could not read {location}: {error}") from error  # it may be whole all the same
        raise IntegrityError(f"expected a whole checkpoint in {location}: {error}") from None


def whole(root: str, digest: str) -> dict[str, Position]:
    """Every undamaged checkpoint of a job in the folders of its attempts, and how far it had come."""
    attempts = [whole_of(storage.join(root, name), digest) for name in storage.folders(root)]
    return {folder: progress for found in attempts for folder, progress in found.items()}


def whole_of(attempt: str, digest: str) -> dict[str, Position]:
    """Those in the folder of one attempt."""
    found: dict[str, Position] = {}
    for folder in _folders_of(attempt):
        with contextlib.suppress(IntegrityError):
            progress = read_position(folder)
            if progress.digest == digest and not folder.endswith("/initial"):
                found[folder] = progress
    return found


@contextlib.contextmanager
def opened(location: str) -> Iterator[Path]:
    """The folder of a checkpoint, not to be changed; on an object store a copy of it. Raises OSError."""
    if not storage.is_remote(location):
        yield storage.local(location)
        return
    with tempfile.TemporaryDirectory() as folder:
        storage.copy_folder(location, folder)
        yield Path(folder)


def tidy(root: str, found: Mapping[str, Position]) -> None:
    """Remove what no start can use: all checkpoints but the best and the newest of those that `whole` has found."""
    kept = useful(found)
    for folder in [folder for name in storage.folders(root) for folder in _folders_of(storage.join(root, name))]:
        if folder in kept:
            continue
        if folder not in found and not folder.endswith("/initial"):
            try:
                read_position(folder)
            except IntegrityError as damage:
                warn(f"WARNING: {damage}; it is removed")
        storage.remove_folder(folder)


def useful(found: Mapping[str, Position]) -> set[str]:
    """The folders of the newest and of the best."""
    kept = {newest(found)} if found else set()
    if any(not progress.start for progress in found.values()):
        kept.add(best(found))
    return kept


def _folders_of(attempt: str) -> list[str]:
    """Of every checkpoint of an attempt, and `initial`, the copy from which it started."""
    return [storage.join(attempt, name) for name in storage.folders(attempt)]


def newest(found: Mapping[str, Position]) -> str:
    """The folder of the one that had come furthest."""
    return max(found, key=lambda folder: (len(found[folder].history), found[folder].start))


def best(found: Mapping[str, Position]) -> str:
    """The folder of the one, of those between epochs, with the lowest validation loss."""
    losses = {folder: progress.history[-1].val_loss for folder, progress in found.items() if not progress.start}
    return min(losses, key=losses.__getitem__)
