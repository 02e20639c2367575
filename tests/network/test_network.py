"""Both parts of the network against torchvision's VGG16 with the same tensors."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import PUBLISHED, build, our_tensors, random_blocks, torchvision_blocks, torchvision_file
from torch import Tensor, nn

from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.errors import InputError
from tlearn.network import engine, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.frozen import Frozen, by_cudnn, require_finite
from tlearn.network.layers import shapes
from tlearn.network.trainable import SlicedDropout, Trainable
from tlearn.network.vgg import convolutions, feature_shape, load_pretrained, normalize

PREPROCESS = PreprocessConfig(image_size=64, short_side=72)
HEAD = HeadConfig(width=16, unit_length=False)

Tensors = dict[str, Tensor]


def pixels(count: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def uncut(tensors: Tensors) -> nn.Sequential:
    """torchvision's convolutions, float32, with these tensors."""
    features = torchvision_blocks("vgg16")
    state = dict(zip(features.state_dict(), tensors.values(), strict=True))
    features.load_state_dict(state, assign=True)
    return features.eval()


def seen(images: Tensor) -> Tensor:
    """What torchvision's weights expect: the ImageNet mean subtracted from RGB."""
    return images.float() - torch.tensor([0.48235, 0.45882, 0.40784]).view(3, 1, 1) * 255


def with_weights(part: Any, tensors: Tensors) -> Any:
    load_pretrained(part.layers, tensors)
    return part


@pytest.mark.parametrize("frozen_blocks", range(6))
def test_a_cut_network_computes_what_the_uncut_one_does(pretrained: Tensors, frozen_blocks: int) -> None:
    frozen, trainable = build(frozen_blocks, PREPROCESS, HEAD, 3)
    extract = with_weights(frozen, pretrained).prepare()
    with_weights(trainable, pretrained).eval()
    trainable.head.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = trainable(extract(pixels()))
        whole = uncut(pretrained)(seen(pixels()))
        expected = trainable.head(whole)
    assert logits.shape == (2, 3) and logits.dtype == torch.float32
    scale = expected.abs().max().item()
    assert scale > 0.1
    # float16 keeps 11 bits; with nothing frozen nothing is rounded.
    torch.testing.assert_close(logits, expected, rtol=0, atol=(2e-3 if frozen_blocks else 1e-5) * scale)


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("arch", PUBLISHED)
def test_every_arch_computes_what_torchvision_s_does(arch: Arch, tmp_path: Path) -> None:
    features = random_blocks(arch)
    torch.save(torchvision_file(features), tmp_path / "random.pth")
    _, trainable = build(0, PREPROCESS, HEAD, 1, arch)
    with_weights(trainable, weights.load(str(tmp_path / "random.pth"), str(tmp_path), arch)).eval()
    with torch.no_grad():
        found, expected = trainable.layers(normalize(pixels(1), PREPROCESS)), features(seen(pixels(1)))
    assert found.shape == (1, 512, 2, 2) and expected.std() > 1
    assert error(found, expected) < 1e-5


@pytest.mark.parametrize("frozen_blocks", range(1, 6))
@pytest.mark.parametrize("arch", ["vgg11", "vgg11_bn"])
def test_wherever_another_arch_is_cut_it_computes_the_same(arch: Arch, frozen_blocks: int) -> None:
    features = random_blocks(arch)
    frozen, trainable = build(frozen_blocks, PREPROCESS, HEAD, 1, arch)
    extract = with_weights(frozen, our_tensors(features, arch)).prepare()
    with_weights(trainable, our_tensors(features, arch)).train()
    with torch.no_grad():
        found = trainable.layers(extract(pixels(1)).float())
    assert error(found, features(seen(pixels(1)))) < 1e-3  # float16 at the cut


def test_batch_norm_trains_without_moving_its_statistics() -> None:
    trainable = Trainable(3, PREPROCESS, HeadConfig(kind="linear"), 1, "vgg11_bn").train()
    before = {name: tensor.clone() for name, tensor in trainable.layers.state_dict().items()}
    optimizer = torch.optim.SGD(trainable.parameters(), 0.1)
    trainable(torch.rand(2, 256, 8, 8)).sum().backward()
    optimizer.step()
    moved = {name for name, tensor in trainable.layers.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if "running" not in name}
    assert set(before) == {name for name in shapes("vgg11_bn") if name >= "block4"}


def test_with_batch_norm_two_workers_find_the_gradient_of_one() -> None:
    trainable = Trainable(3, PREPROCESS, HeadConfig(kind="linear"), 1, "vgg11_bn").train()
    features = torch.rand(4, 256, 8, 8, generator=torch.Generator().manual_seed(0)) * 10

    def gradient(rows: slice) -> Tensor:
        loss = trainable(features[rows]).square().sum()
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(trainable.parameters()))])

    one = gradient(slice(4))
    two = gradient(slice(1)) + gradient(slice(1, 4))
    assert one.norm() > 0
    assert error(two, one) < 1e-5


def test_features_are_those_of_torchvision_rounded_once(pretrained: Tensors) -> None:
    frozen = with_weights(Frozen(5, PREPROCESS), pretrained).prepare()
    with torch.no_grad():
        expected = uncut(pretrained)(seen(pixels()))
    torch.testing.assert_close(frozen(pixels()).float(), expected, rtol=1e-3, atol=1e-3)


def test_bfloat16_is_near_float32(pretrained: Tensors) -> None:
    full = with_weights(Frozen(3, PREPROCESS), pretrained).prepare()(pixels(1)).float()
    half = with_weights(Frozen(3, PREPROCESS, Arithmetic("torch", "bf16")), pretrained).prepare()(pixels(1))
    assert half.dtype == torch.float16
    assert (half.float() - full).norm() < 0.02 * full.norm()
    assert not torch.equal(half.float(), full)


@pytest.mark.parametrize("size", [32, 33, 63, 64, 70, 97])
def test_the_shape_at_the_cut_is_that_of_the_features(size: int) -> None:
    preprocess = PreprocessConfig(image_size=size, short_side=size)
    frozen = Frozen(5, preprocess).prepare()
    x = frozen(pixels(1, size))
    assert tuple(x.shape[1:]) == feature_shape(5, size)
    x = torch.zeros(1, 3, size, size)
    for block in range(1, 6):
        x = nn.MaxPool2d(2)(x)
        assert tuple(x.shape[2:]) == feature_shape(block, size)[1:]
        with torch.device("meta"):
            assert convolutions(1, block)(torch.empty(1, 3, size, size)).shape[1:] == feature_shape(block, size)
    logits = Trainable(5, preprocess, HeadConfig(kind="dense", width=4), 1).eval()(frozen(pixels(1, size)))
    assert logits.shape == (1, 1)


def test_with_nothing_frozen_the_features_are_the_images() -> None:
    images = pixels()
    features = Frozen(0, PREPROCESS).prepare()(images)
    assert features.dtype == torch.uint8 and torch.equal(features, images)
    assert tuple(features.shape[1:]) == feature_shape(0, 64)


def test_frozen_layers_stay_frozen() -> None:
    frozen = Frozen(1, PREPROCESS)
    assert not frozen.layers.training
    assert not any(parameter.requires_grad for parameter in frozen.layers.parameters())
    features = frozen.prepare()(pixels())
    assert not features.requires_grad and features.grad_fn is None
    assert features.dtype == torch.float16 and features.is_contiguous()


def test_features_are_the_same_whatever_comes_beside_them(pretrained: Tensors) -> None:
    frozen = with_weights(Frozen(5, PREPROCESS), pretrained).prepare()
    together = frozen(pixels(3))
    for row in range(3):
        torch.testing.assert_close(frozen(pixels(3)[row : row + 1])[0], together[row], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("value", [1e5, math.inf, math.nan])
def test_what_float16_cannot_hold_is_an_error(value: float) -> None:
    frozen = Frozen(1, PREPROCESS)
    last = frozen.layers.get_submodule("block1_conv2")
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    last.bias[0] = value
    overflown = frozen.prepare()(pixels())
    last.bias[0] = 6e4
    last.weight[0] = 0
    largest = frozen.prepare()(pixels())
    assert largest[:, 0].eq(6e4).all()
    require_finite([largest, largest.float().mean((2, 3)), pixels()])
    for batches in ([overflown], [largest, overflown], [overflown.float().mean((2, 3))]):
        with pytest.raises(InputError, match="expected features below 65,504"):
            require_finite(batches)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [2, 7, 12])
def test_slices_of_the_dropout_make_the_global_mask(num_workers: int, batch: int) -> None:
    def draw(rows: slice) -> Tensor:
        dropout = SlicedDropout(0.5)
        keep = dropout.draw(torch.Generator().manual_seed(3), batch, rows, 20)
        x = torch.ones(len(range(batch)[rows]), 20)
        kept: Tensor = dropout.train()(x, keep)
        assert torch.equal(dropout.eval()(x, None), x)
        return kept

    bounds = [batch * rank // num_workers for rank in range(num_workers + 1)]
    slices = [slice(*pair) for pair in itertools.pairwise(bounds)]
    whole = draw(slice(None))
    assert torch.equal(torch.cat([draw(rows) for rows in slices]), whole)
    assert set(whole.unique().tolist()) == {0.0, 2.0}


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    dropout = SlicedDropout(0.2).train()
    keep = dropout.draw(torch.Generator().manual_seed(0), 500, slice(None), 200)
    x = dropout(torch.ones(500, 200), keep)
    assert x.eq(0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert x.mean().item() == pytest.approx(1, abs=0.01)


def test_a_training_step_without_a_drawn_mask_is_refused() -> None:
    dropout = SlicedDropout(0.5).train()
    with pytest.raises(AssertionError, match="draw"):
        dropout(torch.ones(2, 3), None)
    with pytest.raises(AssertionError, match="draw"):
        dropout(torch.ones(3, 3), dropout.draw(torch.Generator(), 2, slice(None), 3))
    x, none = torch.ones(2, 3), SlicedDropout(0.0).train()
    assert none.draw(torch.Generator(), 2, slice(None), 3) is None and torch.equal(none(x, None), x)


def test_dropout_comes_after_the_first_hidden_layer_only() -> None:
    trainable = Trainable(5, PREPROCESS, HEAD, 1).train()
    trainable.head.initialize(torch.Generator().manual_seed(0))
    features = torch.rand(4, 512, 2, 2)
    keep = trainable.head.dropout.draw(torch.Generator().manual_seed(0), 4, slice(None), 16)
    assert keep is not None
    first, second = trainable.head.hidden
    x = torch.relu(first(features.mean((2, 3)))) * keep * 2
    expected = trainable.head.last(torch.relu(second(x)))
    torch.testing.assert_close(trainable(features, keep), expected)


@pytest.mark.parametrize("kind", ["pooled", "dense"])
def test_glorot_bounds_and_zero_biases(kind: Any) -> None:
    trainable = Trainable(5, PREPROCESS, HeadConfig(kind=kind, width=64), 3)
    before = {name: tensor.clone() for name, tensor in trainable.layers.state_dict().items()}
    trainable.head.initialize(torch.Generator().manual_seed(0))
    for layer in trainable.head.modules():
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert 0.95 * bound < layer.weight.abs().max().item() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            assert layer.bias.eq(0).all()
    again = Trainable(5, PREPROCESS, HeadConfig(kind=kind, width=64), 3)
    again.head.initialize(torch.Generator().manual_seed(0))
    assert all(torch.equal(x, y) for x, y in zip(trainable.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainable.layers.state_dict().items())


def test_the_scale_divides_what_the_head_sees() -> None:
    trainable = Trainable(5, PREPROCESS, HEAD, 3).eval()
    features = torch.rand(4, 512, 2, 2)
    expected = trainable(features / 8)
    trainable.head.scale.fill_(8)
    torch.testing.assert_close(trainable(features), expected)
    assert "head.scale" in trainable.state_dict()
    assert "head.scale" not in dict(trainable.named_parameters())


def test_at_unit_length_brighter_features_of_the_same_kind_change_nothing() -> None:
    trainable = Trainable(5, PREPROCESS, HeadConfig(width=16), 3).eval()
    features = torch.rand(4, 512, 2, 2)
    assert trainable.head.inputs(features).norm(dim=1).tolist() == pytest.approx([1.0] * 4)
    torch.testing.assert_close(trainable(features * 7), trainable(features))


@pytest.mark.parametrize("kind", ["pooled", "dense"])
def test_what_the_trunk_gives_may_stand_for_the_features(kind: Any) -> None:
    trainable = Trainable(5, PREPROCESS, HeadConfig(kind=kind, width=16), 3).eval()
    features = torch.rand(4, 512, 2, 2).half()
    torch.testing.assert_close(trainable(trainable.trunk(features)), trainable(features))


def test_the_digest_names_weights_and_precision() -> None:
    def digest(blocks: int = 2, precision: Any = "fp32", change: float = 0.0) -> str:
        torch.manual_seed(0)
        frozen = Frozen(blocks, PREPROCESS, Arithmetic("torch", precision))
        if blocks:
            conv = frozen.layers.get_submodule("block1_conv1")
            assert isinstance(conv, nn.Conv2d)
            with torch.no_grad():
                conv.weight[63, 2, 2, 2] += change
        return frozen.digest()

    digests = [digest(), digest(precision="bf16"), digest(change=1e-6), digest(1), digest(0), digest(0, "bf16")]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0] and digest().endswith("fp32") and digests[1].endswith("bf16")


def test_the_notebooks_pixels_meet_the_filters_as_keras_has_them(pretrained: Tensors) -> None:
    preprocess = PreprocessConfig(image_size=64, short_side=72, normalization="rescaled_bgr")
    frozen = with_weights(Frozen(1, preprocess), pretrained).prepare()
    # Keras's filters expect BGR, and the notebook feeds them RGB / 255.
    keras = {**pretrained, "block1_conv1.weight": pretrained["block1_conv1.weight"].flip(1)}
    with torch.no_grad():
        expected = uncut(keras)[:5](pixels().float() / 255)
        other = uncut(pretrained)[:5](pixels().float() / 255)
    torch.testing.assert_close(frozen(pixels()).float(), expected, rtol=1e-3, atol=1e-3)
    assert (frozen(pixels()).float() - other).abs().max() > 0.1


def test_loading_is_strict(pretrained: Tensors) -> None:
    frozen, trainable = build(3, PREPROCESS, HEAD, 1)
    names = {*frozen.layers.state_dict(), *trainable.layers.state_dict()}
    assert names == set(pretrained)
    with_weights(frozen, pretrained), with_weights(trainable, pretrained)
    for part in (frozen, trainable):
        assert all(torch.equal(tensor, pretrained[name]) for name, tensor in part.layers.state_dict().items())
    with pytest.raises(KeyError, match="block5_conv3"):
        with_weights(trainable, {name: tensor for name, tensor in pretrained.items() if "block5_conv3" not in name})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_prepared_leaves_the_layers_as_they_are(precision: Any, pretrained: Tensors) -> None:
    frozen = Frozen(2, PREPROCESS, Arithmetic("torch", precision), tensors=pretrained)
    digest, features = frozen.digest(), frozen.prepare()(pixels())
    assert frozen.digest() == digest
    assert torch.equal(frozen.prepare()(pixels()), features)


@pytest.mark.parametrize("arch", ["vgg16", "vgg11_bn", "vgg_tiny"])
@pytest.mark.parametrize("num_blocks", [1, 5])
def test_a_convolution_that_adds_bias_and_relu_itself_gives_the_same(
    arch: Arch, num_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convolution(x: Tensor, weight: Tensor, bias: Tensor, *shape: Any) -> Tensor:
        return F.conv2d(x, weight, bias, *shape).relu()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", convolution)
    layers = engine.fused(convolutions(1, num_blocks, arch).requires_grad_(False))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(by_cudnn(layers)(images), layers(images))


def test_a_gpu_without_such_a_convolution_computes_without(
    pretrained: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = with_weights(Frozen(2, PREPROCESS), pretrained)
    plain = frozen.prepare()

    def fails(*_: Any) -> Any:
        raise RuntimeError("no engine")

    monkeypatch.setattr(torch, "cudnn_convolution_relu", fails)
    monkeypatch.setattr(torch, "zeros", lambda *shape, dtype, device: torch.ones(shape, dtype=dtype))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device, **_: module)
    with pytest.warns(UserWarning, match="costs some speed: no engine"):
        extract = frozen.prepare("cuda")
    assert torch.equal(extract(pixels(4)), plain(pixels(4)))
