"""What test modules share of networks: some to build, tensors, a model folder."""

from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from tlearn.classes import Classes
from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.network import model, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.network.frozen import Frozen
from tlearn.network.layers import shapes
from tlearn.network.trainable import Trainable
from tlearn.network.vgg import load_pretrained

PUBLISHED = [arch for arch in get_args(Arch) if arch != "vgg_tiny"]

CLASSES = Classes(("cat", "dog"))


def build(
    frozen_blocks: int, preprocess: PreprocessConfig, head: HeadConfig, num_logits: int, arch: Arch = "vgg16"
) -> tuple[Frozen, Trainable]:
    """Both parts of a network, without weights."""
    frozen = Frozen(frozen_blocks, preprocess, arch=arch)
    return frozen, Trainable(frozen_blocks, preprocess, head, num_logits, arch)


def torchvision_blocks(arch: Arch) -> nn.Sequential:
    """torchvision's five blocks, on the device meta."""
    with torch.device("meta"):
        features = get_model(arch, weights=None).features
    assert isinstance(features, nn.Sequential)
    return features


def random_blocks(arch: Arch) -> nn.Sequential:
    """torchvision's five blocks with weights, biases and running statistics that are nobody's default."""
    features, generator = torchvision_blocks(arch), torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in features.state_dict().items():
        if tensor.dim() > 1:
            state[name] = nn.init.kaiming_normal_(torch.empty(tensor.shape), generator=generator)
        elif tensor.dim():
            state[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            state[name] = torch.tensor(0)
    features.load_state_dict(state, assign=True)
    return features.eval().requires_grad_(False)


def our_tensors(features: nn.Module, arch: Arch) -> dict[str, Tensor]:
    """The tensors of torchvision's blocks under our names."""
    tensors = [tensor for tensor in features.state_dict().values() if tensor.dim()]  # not num_batches_tracked
    return dict(zip(shapes(arch), tensors, strict=True))


def torchvision_file(features: nn.Module) -> dict[str, Tensor]:
    """What torchvision saves of a network, but for the classifier."""
    return {f"features.{name}": tensor for name, tensor in features.state_dict().items()}


def save_model(
    folder: Path,
    preprocess: PreprocessConfig,
    classes: Classes = CLASSES,
    pretrained: dict[str, Tensor] | None = None,
) -> str:
    """The folder of a model that was not trained; returns its digest.

    Its frozen blocks are vgg16's where `pretrained` has their tensors, and noise in vgg_tiny's shapes otherwise.
    """
    arch: Arch = "vgg16" if pretrained else "vgg_tiny"
    head = HeadConfig(width=16)
    frozen, trainable = build(5, preprocess, head, classes.num_logits, arch)
    load_pretrained(frozen.layers, pretrained or weights.load("none", "", arch))
    trainable.head.initialize(torch.Generator().manual_seed(0))
    draft = Draft(
        classes=classes,
        frozen_blocks=5,
        preprocess=preprocess,
        head=head,
        arithmetic=Arithmetic(),
        training={"recipe": "frozen", "num_train": 1, "num_val": 1},
        metrics={"val_accuracy": 1.0, "val_loss": 0.0},
        reference={},
        arch=arch,
    )
    return model.save(folder, frozen.layers.state_dict(), trainable, draft)
