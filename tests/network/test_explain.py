"""Where a network looks, and what its channels respond to."""

from typing import Any

import pytest
import torch
from support import build
from torch import nn

from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.network import explain
from tlearn.network.vgg import convolutions, normalize

PREPROCESS = PreprocessConfig(image_size=96, short_side=96)
HEADS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "not of unit length": {"unit_length": False, "depth": 1},
    "dense": {"kind": "dense"},
    "linear": {"kind": "linear"},
}


def grad_cam(network: nn.Module, last: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """As its authors write it: a hook on the last feature map, the gradient of one picture's logit after the other."""
    kept: list[torch.Tensor] = []
    last.register_forward_hook(lambda module, inputs, output: kept.append(output))
    found = []
    for image, label in zip(images, classes.tolist(), strict=True):
        logits = network(image[None])[0]
        score = logits[label] if len(logits) > 1 else logits[0] if label else -logits[0]
        maps = kept.pop()
        weights = torch.autograd.grad(score, maps)[0][0].mean((1, 2))
        heat = torch.clamp(sum(w * m for w, m in zip(weights, maps[0], strict=True)), min=0)  # type: ignore[call-overload]
        found.append(heat / heat.max())
    return torch.stack(found).detach()


@pytest.mark.parametrize("frozen_blocks", [5, 3, 0])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("num_logits", [1, 3])
def test_attention_is_grad_cam_through_the_whole_network(
    num_logits: int, head: dict[str, Any], frozen_blocks: int
) -> None:
    torch.manual_seed(num_logits)
    config = HeadConfig(width=16, **head)
    frozen, trainable = build(frozen_blocks, PREPROCESS, config, num_logits, "vgg_tiny")
    trainable.eval()
    whole = [*frozen.layers, *trainable.layers]
    for layer in whole:
        layer.requires_grad_(True)
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    images = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    classes = torch.tensor([0, 1, num_logits - 1, 1])
    network = nn.Sequential(*whole, trainable.head)
    expected = grad_cam(network, whole[-1], normalize(images, PREPROCESS), classes)
    with torch.no_grad():
        maps = trainable.maps(frozen.layers(normalize(images, PREPROCESS)) if frozen_blocks else images)
    found = explain.attention(trainable.head, maps, classes)
    assert found.dtype == torch.uint8 and found.shape == (4, 3, 3)
    torch.testing.assert_close(found.float() / 255, expected.nan_to_num(), atol=0.003, rtol=0)


def test_attention_is_nowhere_where_nothing_speaks_for_the_class() -> None:
    _, trainable = build(5, PREPROCESS, HeadConfig(kind="linear"), 3, "vgg_tiny")
    with torch.inference_mode():  # as an engine gives it
        maps = torch.zeros(2, 16, 3, 3)
    assert not explain.attention(trainable.head, maps, torch.tensor([0, 2])).any()


@pytest.mark.parametrize(
    ("arch", "block"),
    [("vgg_tiny", 1), ("vgg_tiny", 4), ("vgg11", 3), ("vgg16", 2), ("vgg19_bn", 1), ("vgg19_bn", 2)],
)
def test_a_position_depends_on_the_pixels_of_its_square_and_on_no_other(arch: Arch, block: int) -> None:
    field = explain.Field.of(arch, block)
    size = 2 ** (block + 1) + 2**block * -(-field.size // 2**block)
    layers = convolutions(1, block, arch).eval().double()
    for parameter in layers.parameters():
        nn.init.constant_(parameter, 0.01)  # nothing is cut off by a ReLU
    place = size // 2**block // 2
    top, left, side = field.square(place, place, size)
    assert side == field.size < size
    inside = [(top, left), (top, left + side - 1), (top + side - 1, left), (top + side - 1, left + side - 1)]
    outside = [(top - 1, left), (top, left - 1), (top + side, left), (top, left + side)]
    images = torch.zeros(6, 3, size, size, dtype=torch.float64)  # one without a pixel
    for image, pixels in zip(images[1:], [outside, *([pixel] for pixel in inside)], strict=True):
        for row, column in pixels:
            if max(row, column) < size:
                image[:, row, column] = 1e9
    with torch.no_grad():
        none, outer, *inner = layers(images)[:, 0, place, place].tolist()
    assert outer == none and all(response != none for response in inner)


def test_squares_stay_inside_the_image() -> None:
    field = explain.Field.of("vgg16", 4)
    assert field.square(0, 14, 240) == (0, 140, 100)
    assert explain.Field.of("vgg16", 5).square(0, 0, 64) == (0, 0, 64)


@pytest.mark.parametrize("arch", ["vgg_tiny", "vgg11_bn"])
def test_responses_are_the_outputs_of_the_blocks(arch: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "native_precision", lambda: "fp32")
    frozen, _ = build(5, PREPROCESS, HeadConfig(), 1, arch)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    found = explain.responses(frozen.layers, PREPROCESS)(images)
    assert [maps.shape[2] for maps in found] == [48, 24, 12, 6, 3]
    x = normalize(images, PREPROCESS)
    with torch.no_grad():
        for maps, last in zip(
            found, [name for name, _ in frozen.layers.named_children() if "pool" in name], strict=True
        ):
            upto = [name for name, _ in frozen.layers.named_children()].index(last) + 1
            torch.testing.assert_close(maps, frozen.layers[:upto](x.clone()), atol=1e-3, rtol=1e-3)
