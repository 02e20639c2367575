"""The layers against the table that Keras prints, what they are fed against torchvision."""

from typing import Any

import numpy as np
import pytest
import torch
from support import build
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.transforms.v2 import functional

from tlearn.config import HeadConfig, PreprocessConfig, TrainConfig
from tlearn.network.layers import channels, shapes
from tlearn.network.vgg import convolutions, feature_shape, normalize, summary
from tlearn.recipes import RECIPES

PREPROCESS = PreprocessConfig(image_size=64, short_side=72)


def picture() -> Tensor:
    return torch.randint(0, 256, (3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_notebook_has_the_parameters_that_keras_prints() -> None:
    config = RECIPES["notebook"]
    table = {layer.name: layer for layer in summary(config.frozen_blocks, config.preprocess, config.head, num_logits=1)}
    base = [layer.num_parameters for layer in table.values() if layer.kind in ("Conv2D", "MaxPooling2D")]
    assert sum(base) == 14_714_688
    dense = [layer.num_parameters for layer in table.values() if layer.kind == "Dense"]
    assert dense == [25_691_136, 1_049_600, 1_025]
    assert table["block5_pool"].output_shape == (7, 7, 512)
    assert table["flatten"].output_shape == (25_088,)
    assert [layer.output_shape for layer in table.values() if layer.kind == "Dense"] == [(1024,), (1024,), (1,)]
    assert sum(layer.num_parameters for layer in table.values() if layer.trained) == sum(dense)


CONFIGS = {
    **RECIPES,
    "linear": TrainConfig(data="", output="", head=HeadConfig(kind="linear")),
    "three blocks": TrainConfig(data="", output="", frozen_blocks=3, head=HeadConfig(depth=1, width=7, dropout=0.0)),
    "nothing frozen": TrainConfig(data="", output="", frozen_blocks=0, preprocess=PREPROCESS),
    "vgg19": TrainConfig(data="", output="", arch="vgg19", frozen_blocks=2),
    "vgg11_bn": TrainConfig(data="", output="", arch="vgg11_bn", frozen_blocks=3, preprocess=PREPROCESS),
    "vgg_tiny": TrainConfig(data="", output="", arch="vgg_tiny", frozen_blocks=2, preprocess=PREPROCESS),
}


@pytest.mark.parametrize("num_logits", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_of_layers_agrees_with_the_modules(name: str, num_logits: int) -> None:
    config = CONFIGS[name]
    table = list(summary(config.frozen_blocks, config.preprocess, config.head, num_logits, config.arch))
    with torch.device("meta"):
        frozen, trainable = build(config.frozen_blocks, config.preprocess, config.head, num_logits, config.arch)
    assert sum(layer.num_parameters for layer in table if layer.trained) == count(trainable)
    assert sum(layer.num_parameters for layer in table if not layer.trained) == count(frozen.layers)
    modules = [*frozen.layers.named_children(), *trainable.layers.named_children()]
    for kind, module_kind in (("Conv2D", nn.Conv2d), ("BatchNormalization", nn.BatchNorm2d)):
        rows = {layer.name: layer.num_parameters for layer in table if layer.kind == kind}
        assert rows == {name: count(module) for name, module in modules if isinstance(module, module_kind)}
    dense = [layer for layer in table if layer.kind == "Dense"]
    linear = [module for module in trainable.head.modules() if isinstance(module, nn.Linear)]
    assert [layer.num_parameters for layer in dense] == [count(module) for module in linear]
    assert [layer.output_shape for layer in dense] == [(module.out_features,) for module in linear]
    side = config.preprocess.image_size
    pools = [layer for layer in table if layer.kind == "MaxPooling2D"]
    for blocks, pool in enumerate(pools, 1):
        channels, height, width = feature_shape(blocks, side, config.arch)
        assert pool.output_shape == (height, width, channels)


def test_the_table_of_an_average_shows_no_position() -> None:
    table = {layer.name: layer for layer in summary(5, PREPROCESS, HeadConfig(), 1)}
    assert (table["average"].kind, table["average"].output_shape) == ("GlobalAveragePooling2D", (512,))
    assert table["dense_1"].num_parameters == 512 * 1024 + 1024


def test_the_tiny_network_has_one_convolution_a_block() -> None:
    assert len(shapes("vgg_tiny")) == 2 * 5
    assert channels("vgg_tiny") == (4, 8, 8, 16, 16) and feature_shape(1, 32, "vgg_tiny") == (4, 16, 16)
    assert convolutions(1, 5, "vgg_tiny")(torch.zeros(1, 3, 32, 32)).shape == (1, 16, 1, 1)


def test_imagenet_normalisation_equals_torchvision() -> None:
    batch = torch.stack([picture(), picture().flip(2)])
    published = VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    expected = functional.normalize(batch.float() / 255, published.mean, published.std)
    assert torch.allclose(normalize(batch, PreprocessConfig()), expected, atol=1e-3)


def test_rescaled_bgr_is_what_keras_feeds_with_the_channels_reversed() -> None:
    batch = picture()[None]
    keras = batch.permute(0, 2, 3, 1).numpy() * np.float32(1 / 255)
    seen = normalize(batch, PreprocessConfig(normalization="rescaled_bgr"))
    assert np.allclose(seen.permute(0, 2, 3, 1).numpy(), keras[..., ::-1], atol=1e-6)


@pytest.mark.parametrize("normalization", ["imagenet", "rescaled_bgr"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_normalisation_keeps_the_memory_format_and_rounds_to_bfloat16_last(
    normalization: Any, memory_format: torch.memory_format
) -> None:
    config = PreprocessConfig(normalization=normalization)
    batch = torch.stack([picture()] * 2).contiguous(memory_format=memory_format)
    before = batch.clone()
    full = normalize(batch, config)
    half = normalize(batch, config, torch.bfloat16)
    assert full.dtype == torch.float32 and half.dtype == torch.bfloat16
    assert full.is_contiguous(memory_format=memory_format) and half.is_contiguous(memory_format=memory_format)
    assert torch.equal(half, full.bfloat16())
    assert torch.equal(batch, before)


def test_normalising_twice_is_refused() -> None:
    with pytest.raises(AssertionError, match="normalize once"):
        normalize(torch.zeros(1, 3, 32, 32), PreprocessConfig())
