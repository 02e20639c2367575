"""OpenVINO computes what torch computes, to the precision that is asked for."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import our_tensors, random_blocks
from torch import Tensor

from tlearn.config import Arch, PreprocessConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.data.images import resize
from tlearn.data.manifest import File
from tlearn.demo import drawings
from tlearn.features import cache
from tlearn.network import engine
from tlearn.network.arithmetic import Arithmetic, native_precision
from tlearn.network.frozen import Frozen
from tlearn.network.vgg import convolutions, normalize

pytest.importorskip("openvino", reason="openvino (extra cpu) is not installed")

PREPROCESS = PreprocessConfig(image_size=96, short_side=104)


def drawn(count: int, seed: int, preprocess: PreprocessConfig = PREPROCESS) -> Tensor:
    """(count, 3, size, size) uint8"""
    import numpy as np

    pictures = [
        drawings.draw("cat" if number % 2 else "dog", np.random.default_rng([seed, number])) for number in range(count)
    ]
    arrays = [torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) for picture in pictures]
    return torch.stack([resize(array, preprocess) for array in arrays])


def outputs(
    tensors: dict[str, Tensor], arithmetic: Arithmetic, images: Tensor, arch: Arch = "vgg16", **settings: Any
) -> Tensor:
    preprocess = dataclasses.replace(PREPROCESS, **settings)
    return Frozen(5, preprocess, arithmetic, arch, tensors).prepare()(images)


def ranges(tensors: dict[str, Tensor], arch: Arch = "vgg16") -> tuple[float, ...]:
    frozen = Frozen(5, PREPROCESS, arch=arch, tensors=tensors)
    return engine.calibrate(frozen.layers, PREPROCESS, drawn(16, 1).split(8))


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.mark.parametrize("normalization", ["imagenet", "rescaled_bgr"])
def test_in_fp32_the_features_are_torch_s(pretrained: dict[str, Tensor], normalization: str) -> None:
    images = drawn(3, 0)
    expected = outputs(pretrained, Arithmetic(), images, normalization=normalization)
    found = outputs(pretrained, Arithmetic("openvino", "fp32"), images, normalization=normalization)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert error(found, expected) < 1e-3


@pytest.mark.skipif(native_precision() != "bf16", reason="the processor does not multiply in bf16")
def test_bf16_is_near_fp32_and_not_the_same(pretrained: dict[str, Tensor]) -> None:
    images = drawn(3, 0)
    found = error(
        outputs(pretrained, Arithmetic("openvino", "bf16"), images), outputs(pretrained, Arithmetic(), images)
    )
    assert 1e-4 < found < 0.02


def test_int8_is_near_fp32_and_not_the_same(pretrained: dict[str, Tensor]) -> None:
    images = drawn(8, 0)
    arithmetic = Arithmetic("openvino", "int8", ranges(pretrained))
    found = error(outputs(pretrained, arithmetic, images), outputs(pretrained, Arithmetic(), images))
    assert 1e-3 < found < 0.08


@pytest.mark.parametrize("normalization", ["imagenet", "rescaled_bgr"])
def test_batch_norm_is_folded_into_the_convolutions(normalization: str) -> None:
    tensors = our_tensors(random_blocks("vgg11_bn"), "vgg11_bn")
    images = drawn(2, 0)
    layers = convolutions(1, 5, "vgg11_bn")
    layers.load_state_dict(tensors)
    with torch.no_grad():
        expected = layers(normalize(images, dataclasses.replace(PREPROCESS, normalization=normalization)))
    for arithmetic in (Arithmetic(), Arithmetic("openvino", "fp32")):
        assert error(outputs(tensors, arithmetic, images, "vgg11_bn", normalization=normalization), expected) < 1e-3
    if normalization == "imagenet":
        found = ranges(tensors, "vgg11_bn")
        assert len(found) == 7 and min(found) > 0
        arithmetic = Arithmetic("openvino", "int8", found)
        assert 1e-3 < error(outputs(tensors, arithmetic, images, "vgg11_bn"), expected) < 0.08


def test_layers_beyond_the_ranges_are_not_quantised(pretrained: dict[str, Tensor]) -> None:
    images, expected = drawn(4, 0), outputs(pretrained, Arithmetic(), drawn(4, 0))
    all_ranges = ranges(pretrained)
    errors = [
        error(outputs(pretrained, Arithmetic("openvino", "int8", all_ranges[:count]), images), expected)
        for count in (1, 6, 12)
    ]
    assert errors[0] < errors[1] < errors[2]


def test_there_is_a_range_for_each_convolution_after_the_first(pretrained: dict[str, Tensor]) -> None:
    found = ranges(pretrained)
    assert len(found) == 12 and min(found) > 0
    frozen = Frozen(3, PREPROCESS, tensors=pretrained)
    assert engine.calibrate(frozen.layers, PREPROCESS, drawn(16, 1).split(8)) == found[:6]


def test_a_batch_of_any_size_gives_each_image_its_features(pretrained: dict[str, Tensor]) -> None:
    extract = Frozen(2, PREPROCESS, Arithmetic("openvino", "fp32"), tensors=pretrained).prepare()
    images = drawn(5, 2)
    together = extract(images)
    for row in (4, 0):
        assert torch.equal(extract(images[row : row + 1])[0], together[row])
    assert torch.equal(extract(images), together), "an earlier result is not written over"


def test_a_folder_that_grows_keeps_its_ranges(pretrained: dict[str, Tensor], tmp_path: Path) -> None:
    frozen = Frozen(2, PREPROCESS, tensors=pretrained)
    drawings.draw_folder(tmp_path / "drawn", num_train=6, num_val=2, num_test=2, seed=0)
    folder = tmp_path / "drawn" / "train"
    paths = sorted(path for path in folder.rglob("*.*") if path.name != "broken.jpg")
    files = [File("train", str(path.relative_to(folder)), "cat", 1, 1, f"{i}" * 64) for i, path in enumerate(paths, 2)]
    kept = str(tmp_path / "cache")

    def decode(paths: Sequence[str]) -> Iterator[Fetched]:
        return (fetch(str(folder), path, PREPROCESS) for path in paths)

    first = cache.ranges(files[2:], frozen, kept, decode)
    assert len(first) == 3
    assert cache.ranges(files, frozen, kept, decode) == first
    assert cache.ranges(files[:2], frozen, kept, decode) != first
    assert cache.ranges([], frozen, kept, decode) == ()


@pytest.mark.parametrize(
    "fields", [("openvino", "int8"), ("torch", "int8", (1.0,)), ("openvino", "bf16", (1.0,)), ("torch", "int8")]
)
def test_int8_takes_openvino_and_ranges(fields: Any) -> None:
    with pytest.raises(ValueError, match="expected ranges with openvino in int8"):
        Arithmetic(*fields)


def test_the_name_of_an_arithmetic_tells_ranges_apart() -> None:
    names = {Arithmetic("openvino", "int8", (1.0, value)).name for value in (1.0, 2.0)}
    assert len(names) == 2 and Arithmetic("torch", "bf16").name == "torch-bf16"


def test_openvino_tells_nobody_that_it_is_used() -> None:
    code = "from tlearn.network import engine; import openvino.tools.ovc as ovc; print(ovc.telemetry.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
