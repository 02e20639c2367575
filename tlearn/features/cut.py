"""What features depend on beside the image: the frozen layers, their arithmetic, the preprocessing."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tlearn import storage
from tlearn.config import Arch, PreprocessConfig, TrainConfig, digest
from tlearn.errors import IntegrityError
from tlearn.network import weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.frozen import FP32, Frozen
from tlearn.network.layers import operations
from tlearn.network.vgg import feature_shape

View = Literal["plain", "mirror"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Everything that the features depend on beside the image, and where they are kept."""

    weights: str
    cache: str
    frozen_blocks: int
    preprocess: PreprocessConfig
    arithmetic: Arithmetic
    frozen_digest: str
    arch: Arch = "vgg16"

    @property
    def shape(self) -> tuple[int, int, int]:
        return feature_shape(self.frozen_blocks, self.preprocess.image_size, self.arch)

    def folder(self, view: View) -> str:
        name = f"{self.frozen_digest}-{digest(self.preprocess)}-{view}"
        return storage.join(storage.absolute(self.cache), "features", name)

    def load(self) -> Frozen:
        """The frozen layers, with their weights. Raises IntegrityError on a node where something is otherwise."""
        tensors = weights.load(self.weights, self.cache, self.arch) if self.frozen_blocks else None
        frozen = Frozen(self.frozen_blocks, self.preprocess, self.arithmetic, self.arch, tensors)
        if frozen.digest() != self.frozen_digest:
            raise IntegrityError(
                f"expected frozen layers with digest {self.frozen_digest}, got {frozen.digest()}: "
                "every node must see the same --weights"
            )
        return frozen


@dataclass(frozen=True, slots=True)
class Frozens:
    """The frozen layers of any boundary, in one arithmetic."""

    config: TrainConfig
    tensors: dict[str, Tensor]
    arithmetic: Arithmetic

    def frozen(self, frozen_blocks: int, preprocess: PreprocessConfig | None = None) -> Frozen:
        arch = self.config.arch
        num_convolutions = sum(layer.kind == "conv" and layer.block <= frozen_blocks for layer in operations(arch))
        # Pixels are the same in any arithmetic.
        arithmetic = self.arithmetic.of_first(num_convolutions) if num_convolutions else FP32
        return Frozen(frozen_blocks, preprocess or self.config.preprocess, arithmetic, arch, self.tensors)

    def cut(self, frozen_blocks: int, preprocess: PreprocessConfig | None = None) -> Cut:
        frozen, config = self.frozen(frozen_blocks, preprocess), self.config
        return Cut(
            config.weights,
            config.cache,
            frozen_blocks,
            frozen.preprocess,
            frozen.arithmetic,
            frozen.digest(),
            config.arch,
        )
