"""A model that became a file of another program says what the model says."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load as load_safetensors
from support import build, our_tensors, random_blocks
from torch import Tensor
from torchvision.models import get_model
from torchvision.transforms import v2

from tlearn.classes import Classes
from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.data import images
from tlearn.errors import UsageError
from tlearn.network import as_torchvision, export, weights
from tlearn.network.description import Description
from tlearn.network.export import Made, Program, each_class
from tlearn.network.frozen import FP32, Frozen
from tlearn.network.layers import channels
from tlearn.network.model import Model, Network

PROJECT = Path(__file__).parent.parent.parent
SIZES = [
    (90, 80), (64, 64), (71, 71), (70, 72), (72, 70), (1, 1), (2, 1), (1, 500), (3, 700), (900, 7), (50, 801),
    (801, 50), (333, 500), (517, 1039), (1200, 1601),
]  # fmt: skip
"""Height and width: smaller and larger than what the network sees, equal to it, and beyond any aspect."""
CROP, SQUASH = PreprocessConfig(image_size=64, short_side=71), PreprocessConfig(image_size=64, resize="squash")
BGR = dataclasses.replace(SQUASH, normalization="rescaled_bgr")
PLAIN = HeadConfig(width=16, unit_length=False)


def picture(height: int, width: int) -> Tensor:
    """(3, height, width) uint8: stripes and grain."""
    rng = np.random.default_rng([height, width])
    rows, columns = np.indices((height, width))
    waves = np.sin(rows / rng.uniform(1, 40)) + np.cos(columns / rng.uniform(1, 40))
    pixels = 128 + 40 * waves[..., None] * rng.uniform(-1, 1, 3) + rng.integers(-40, 41, (height, width, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def a_model(
    preprocess: PreprocessConfig = CROP,
    head: HeadConfig = PLAIN,
    names: tuple[str, ...] = ("cat", "dog"),
    arch: Arch = "vgg_tiny",
) -> Model:
    """One that was not trained, whose temperature, scale and biases are nobody's default."""
    classes = Classes(names)
    description = Description(
        classes=classes, frozen_blocks=5, preprocess=preprocess, head=head, arithmetic=FP32, training={}, metrics={},
        reference={}, arch=arch, temperature=1.7, weights_sha256="", digest="0123456789abcdef",
    )  # fmt: skip
    tensors = weights.load("none", "", arch) if arch == "vgg_tiny" else our_tensors(random_blocks(arch), arch)
    frozen = Frozen(5, preprocess, arch=arch, tensors=tensors)
    _, trainable = build(5, preprocess, head, classes.num_logits, arch)
    generator = torch.Generator().manual_seed(0)
    trainable.head.initialize(generator)
    for layer in (*trainable.head.hidden, trainable.head.last):
        assert isinstance(layer, torch.nn.Linear)
        torch.nn.init.normal_(layer.bias, generator=generator)
    with torch.no_grad():
        features = frozen.prepare()(images.resize(picture(90, 80), preprocess)[None]).float()
        trainable.head.scale.copy_(trainable.head.inputs(features).std() / 2)
    head = trainable.head.eval().requires_grad_(False)
    return Model(description, Network(frozen, head, description.temperature, None), None)


def probabilities(model: Model, pixels: Tensor) -> Tensor:
    """(1, classes), as a score table has them."""
    seen = images.resize(pixels, model.description.preprocess)[None]
    return each_class(model.large.prepare().outputs(seen)[0]).softmax(1)


@pytest.mark.parametrize("config", [CROP, SQUASH, PreprocessConfig(), PreprocessConfig(image_size=33, short_side=33)])
@pytest.mark.parametrize("size", SIZES)
def test_the_graph_resizes_as_decoding_does(config: PreprocessConfig, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    wanted = images.resize(pixels, config).int()
    (found,) = export.resized(pixels[None], config).int()
    gaps = (found - wanted).abs()
    assert found.shape == wanted.shape and gaps.max() <= 1 and gaps.float().mean() < 1e-3


MODELS = {
    "two classes": lambda: a_model(head=HeadConfig(width=16), names=("süß", 'a"\n')),
    "dense, five classes": lambda: a_model(BGR, HeadConfig(kind="dense", depth=3, width=8), tuple("abcde")),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]()


@pytest.fixture(scope="module", params=[export.to_onnx, export.to_torch])
def made(model: Model, request: pytest.FixtureRequest) -> Made:
    found: Made = request.param(model)
    return found


def test_a_file_says_what_the_model_says_of_pictures_of_any_size(model: Model, made: Made) -> None:
    said = []
    for size in SIZES:
        wanted = probabilities(model, picture(*size))
        found = made.run(picture(*size)[None].contiguous())
        assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-4, size
        said.append(wanted[0, 0].item())
    assert max(said) - min(said) > 0.01  # else any file would agree


def test_a_file_takes_batches_of_any_length(model: Model, made: Made) -> None:
    for count in (1, 2, 5):
        batch = torch.stack([picture(90, 80) + number for number in range(count)])
        wanted = torch.cat([probabilities(model, pixels) for pixels in batch])
        torch.testing.assert_close(made.run(batch), wanted, rtol=0, atol=1e-4)


def test_a_file_names_no_place_of_this_machine(made: Made) -> None:
    places = (PROJECT, Path(torch.__file__).parent, Path.home())
    assert not any(str(place).encode() in made.data for place in places if len(place.parts) > 2)


@pytest.mark.parametrize("model", ["two classes"], indirect=True)
@pytest.mark.parametrize("made", [export.to_onnx], indirect=True)
def test_an_onnx_file_says_what_it_takes_and_of_which_model_it_is(model: Model, made: Made) -> None:
    session = onnxruntime.InferenceSession(made.data)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert (given.name, given.type, given.shape) == ("probabilities", "tensor(float)", ["batch", 2])
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["süß", 'a"\n'] and said["model_digest"] == model.description.digest
    assert json.loads(said["preprocess"]) == dataclasses.asdict(CROP)
    assert (said["architecture"], said["temperature"]) == ("vgg_tiny", "1.7")


def test_a_batch_norm_is_in_the_graph() -> None:
    model = a_model(arch="vgg11_bn")
    found = Program(model).eval()(picture(90, 80)[None])
    torch.testing.assert_close(found, probabilities(model, picture(90, 80)), rtol=0, atol=1e-4)


def test_a_package_that_lacks_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r"package onnxscript .*install tlearn\[export\]"):
        export.to_onnx(a_model())


# --- torchvision


def in_torchvision(made: Made) -> Callable[[Tensor], Tensor]:
    """Its own network and preprocessing with what the file says, from pixels to probabilities."""
    facts = json.loads(made.data[8 : 8 + int.from_bytes(made.data[:8], "little")])["__metadata__"]
    preprocess = json.loads(facts["preprocess"])
    state = load_safetensors(made.data)
    with torch.device("meta"):
        network = get_model(facts["architecture"], num_classes=len(json.loads(facts["classes"])))
    network.load_state_dict(state, strict=True, assign=True)
    seen = v2.Compose(
        [
            v2.Resize(preprocess["short_side"]),
            v2.CenterCrop(preprocess["image_size"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(**json.loads(facts["normalization"])),
        ]
    )
    return lambda pixels: network.eval().requires_grad_(False)(seen(pixels[None])).softmax(1)


@pytest.mark.parametrize(
    ("arch", "side", "head", "names"),
    [
        ("vgg16", 2, HeadConfig(kind="dense", width=24), ("cat", "dog")),
        ("vgg11_bn", 1, HeadConfig(kind="linear", unit_length=False), ("a", "b", "c")),
    ],
)
def test_torchvision_s_network_says_what_the_model_says(
    arch: Arch, side: int, head: HeadConfig, names: tuple[str, ...]
) -> None:
    model = a_model(PreprocessConfig(image_size=32 * side, short_side=32 * side + 9), head, names, arch)
    made = as_torchvision.to_torchvision(model)
    run = in_torchvision(made)
    for size in ((90, 80), (401, 300)):
        pixels = picture(*size)
        said = run(pixels)
        wanted = each_class(
            made.original.outputs(images.resize(pixels, model.description.preprocess)[None])[0]
        ).softmax(1)
        torch.testing.assert_close(said, wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(said, made.run(pixels[None]), rtol=0, atol=1e-5)
        torch.testing.assert_close(said, probabilities(model, pixels), rtol=0, atol=0.01)  # by way of float16


def without_weights(**changes: Any) -> Model:
    """A model of which only the head has numbers."""
    values: dict[str, Any] = {"arch": "vgg11", "preprocess": CROP, "head": PLAIN, **changes}
    description = dataclasses.replace(a_model().description, **values)
    preprocess, head = description.preprocess, description.head
    with torch.device("meta"):
        frozen = Frozen(5, preprocess, arch=description.arch)
    _, trainable = build(5, preprocess, head, 1, description.arch)
    assert trainable.head.channels == channels(description.arch)[-1]
    head = trainable.head.eval().requires_grad_(False)
    return Model(description, Network(frozen, head, description.temperature, None), None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "vgg_tiny"}, "got vgg_tiny"),
        ({"head": HeadConfig(width=16)}, "--head.no-unit-length"),
        ({"head": HeadConfig(kind="linear")}, "--head.no-unit-length"),
        ({"head": dataclasses.replace(PLAIN, depth=3)}, "got 3 of 16"),
        ({"head": HeadConfig(kind="dense", width=4097, depth=1)}, "got 1 of 4097"),
        (
            {"head": HeadConfig(kind="dense", width=2), "preprocess": PreprocessConfig(image_size=256, short_side=256)},
            "got 8 x 8",
        ),
        ({"preprocess": PreprocessConfig(image_size=352, short_side=352)}, "got 11 x 11"),
    ],
)
def test_what_torchvision_s_network_cannot_compute_is_said_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        as_torchvision.to_torchvision(without_weights(**changes))
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("side", range(1, 8))
@pytest.mark.parametrize("kind", ["dense", "pooled"])
def test_a_map_up_to_7_x_7_is_read_from_torchvision_s_average_of_it(side: int, kind: Any) -> None:
    preprocess = PreprocessConfig(image_size=32 * side, short_side=32 * side)
    head = without_weights(
        arch="vgg_tiny", head=dataclasses.replace(PLAIN, kind=kind), preprocess=preprocess
    ).large.head
    maps = torch.rand(2, 16, side, side, generator=torch.Generator().manual_seed(0)).double()
    weight = as_torchvision._on_torchvisions_grid(head.first.weight.double(), head, side)
    found = torch.nn.functional.adaptive_avg_pool2d(maps, 7).flatten(1) @ weight.T
    torch.testing.assert_close(found, head.inputs(maps) @ head.first.weight.double().T)
