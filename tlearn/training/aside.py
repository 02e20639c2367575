"""What the page shows that does not depend on what is learned: done in this process while the workers learn."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tlearn.config import TrainConfig
from tlearn.data.manifest import Listing
from tlearn.doctor import training as doctor
from tlearn.doctor.training import Examined
from tlearn.features.cut import Cut
from tlearn.report import pictures
from tlearn.training.gallery import MAX_TRAIN_SHOWN


@dataclass(frozen=True, slots=True)
class Aside:
    examined: Examined
    opened: Mapping[str, dict[str, Any]]
    """By path the pictures of val/ and test/, opened; none where not all of them are shown."""


def begin(config: TrainConfig, listing: Listing, cut: Cut) -> Future[Aside]:
    """Start a thread. `cut` is that of all five blocks."""
    threads = ThreadPoolExecutor(1)
    found = threads.submit(_done, config, listing, cut)
    threads.shutdown(wait=False)
    return found


def _done(config: TrainConfig, listing: Listing, cut: Cut) -> Aside:
    examined = doctor.examined(config, listing, cut)
    paths = [file.path for split in ("val", "test") for file in listing.usable(split)]
    if len(paths) > pictures.most_shown(len(listing.classes.names)):
        return Aside(examined, {})
    return Aside(examined, pictures.opened(paths, config.data, config.preprocess, len(paths) + MAX_TRAIN_SHOWN))
