"""A model for other programs: made, compared with the model on pictures, then written."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tlearn import storage
from tlearn.config import EXPORTS, ExportConfig, PreprocessConfig
from tlearn.console import say
from tlearn.data import images, listing, reading
from tlearn.errors import InputError, IntegrityError
from tlearn.network import as_torchvision, model
from tlearn.network.device import Device
from tlearn.network.export import Made, each_class, to_onnx, to_torch
from tlearn.network.frozen import FP32

_MAX_IMAGES = 100
_NUM_DRAWN = 20
_TOLERANCE = 1e-4
"""Of a probability."""
_MAKERS = {"onnx": to_onnx, "torch": to_torch, "torchvision": as_torchvision.to_torchvision}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how it was compared."""

    location: str
    num_bytes: int
    images: str
    """The pictures of the comparison, in words."""
    num_images: int
    difference: float
    """The largest of a probability, from the model's in float32."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        return (
            f"{self.location}: {self.num_bytes / 1e6:.1f} MB; probabilities differ from the model's by at most "
            f"{self.difference:.1e} on {self.num_images} {self.images}"
        )


def export(config: ExportConfig) -> Exported:
    """Write the file, unless what it says of a picture is not what the model says.

    Raises UsageError for what the model cannot become, InputError without a picture, IntegrityError for a damaged
    model and for a file that would say something else.
    """
    folder = storage.absolute(config.model.rstrip("/"))
    run = folder.rpartition("/")[0]
    location = storage.absolute(config.output or storage.join(run, EXPORTS[config.to]))
    storage.require_writable(location.rpartition("/")[0])
    Device.here(os.cpu_count() or 1)
    loaded = model.load(folder, FP32)
    say(f"making {location}")
    made = _MAKERS[config.to](loaded)
    words, pictures = _pictures(config.images, run, loaded.description.preprocess)
    say(f"comparing it with the model on {words}")
    differences = torch.tensor([_difference(made, pixels) for pixels in pictures])
    difference = differences.max().item()
    if not difference <= _TOLERANCE:  # nor NaN
        raise IntegrityError(
            f"expected the probabilities of the model within {_TOLERANCE}, got ones that differ by "
            f"{difference:.2g}; nothing was written: this is a fault of the exporter or of its runtime, report it"
        )
    storage.write_bytes(location, made.data)
    return Exported(location, len(made.data), words, len(differences), difference)


@torch.inference_mode()
def _difference(made: Made, pixels: Tensor) -> float:
    """Of the probabilities of a picture, (3, height, width) uint8."""
    seen = images.resize(pixels, made.original.preprocess)
    logits, _ = made.original.outputs(seen[None])
    return (made.run(pixels[None].contiguous()) - each_class(logits).softmax(1)).abs().max().item()


def _pictures(folder: str | None, run: str, preprocess: PreprocessConfig) -> tuple[str, Iterator[Tensor]]:
    """What they are, in words, and the pixels of each, (3, height, width) uint8; one at least."""
    if folder is not None:
        paths = [entry.path for entry in storage.in_order(listing.pictures(folder))]
        words, found = f"pictures of {folder}", _decoded(folder, paths, preprocess)
    else:
        words, found = "validation pictures of the run", _decoded(*_validation(run), preprocess)
    first = next(found, None)
    if first is not None:
        return words, itertools.chain([first], found)
    if folder is not None:
        raise InputError(f"expected a picture that can be read in {folder}, found none: check --images")
    return "drawn pictures", _drawn()


def _validation(run: str) -> tuple[str, list[str]]:
    """The data folder of a run and the paths of its validation pictures in it; none where the run does not say."""
    try:
        data = storage.read_json(storage.join(run, "config.json"))["config"]["data"]
        with storage.open_input(storage.join(run, "validation.parquet")) as file:
            return data, pq.read_table(file, columns=["path"]).column("path").to_pylist()
    except (OSError, ValueError, KeyError, TypeError):
        return run, []


def _decoded(folder: str, paths: Sequence[str], preprocess: PreprocessConfig) -> Iterator[Tensor]:
    """The pixels of those that can be read, of at most so many from all over the list."""
    for path in paths[:: -(-len(paths) // _MAX_IMAGES) or 1]:
        content = reading.read(folder, path, preprocess.max_bytes)
        if not isinstance(content, reading.NotRead):
            with contextlib.suppress(images.ImageError):
                yield images.decode_for(content.data, preprocess).pixels


def _drawn() -> Iterator[Tensor]:
    """Soft colours with grain, upright and wide, small and large."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(_NUM_DRAWN):
        height, width = torch.randint(20, 500, (2,), generator=generator).tolist()
        colours = interpolate(torch.rand(1, 3, 5, 5, generator=generator) * 200, (height, width), mode="bicubic")
        yield (colours[0] + 55 * torch.rand(height, width, generator=generator)).clamp(0, 255).to(torch.uint8)
