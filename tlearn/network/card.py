"""The model card: what a model is for, on what it was trained, how good it is, and whose the weights are.

Its first part is YAML with the keys of the Hugging Face hub. The digest of a model is not about its card.
"""

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tlearn.errors import printable

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_IMAGENET = (
    "They were trained on ImageNet, whose pictures are given out for research and teaching only; whether such terms "
    "bind a model is not settled."
)
_OXFORD = (
    "The pretrained convolutions are those of K. Simonyan and A. Zisserman, Visual Geometry Group, University of "
    "Oxford ([arXiv:1409.1556](https://arxiv.org/abs/1409.1556)), released under [Creative Commons Attribution "
    f"4.0](https://creativecommons.org/licenses/by/4.0/): name the authors where you pass them on. {_IMAGENET}"
)
_TORCHVISION = (
    "The pretrained convolutions are those of [torchvision](https://github.com/pytorch/vision), which is under the BSD "
    f"3-Clause licence. {_IMAGENET}"
)
_UNKNOWN = "Where the weights started from says nothing of their licence: ask who made that file."
_NOTHING = "The weights started from noise; nothing in them was trained by others."


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of the model on pictures that it was not trained on."""

    split: str
    """val or test."""
    num_images: int
    accuracy: float
    interval: tuple[float, float] | None = None
    """Of 95%."""
    log_loss: float | None = None
    calibration_error: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run knows beside model.json."""

    weights: str = ""
    """imagenet, none, or something else that is not named."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Pictures by split and class."""
    results: tuple[Result, ...] = ()


def text(content: Mapping[str, Any], facts: Facts | None = None) -> str:
    """The card of a model with this model.json."""
    metrics, training = content["metrics"], content["training"]
    validation = Result("val", training["num_val"], metrics["val_accuracy"], log_loss=metrics["val_loss"])
    facts = facts or Facts()
    results = facts.results or (validation,)
    licence, words = _licence(content["architecture"], facts.weights)
    header = "\n".join(_header(content, results, licence, facts.weights))
    return f"---\n{header}\n---\n\n{_body(content, facts, results)}\n## Licence of the weights\n\n{words}\n"


def _licence(arch: str, weights: str) -> tuple[str, str]:
    """The hub's name of the licence of the pretrained weights, and what there is to say of it."""
    if weights == "imagenet":
        own = " The pictures of the training may have terms of their own."
        return ("cc-by-4.0", _OXFORD + own) if arch == "vgg16" else ("bsd-3-clause", _TORCHVISION + own)
    return "unknown", _NOTHING if weights == "none" else _UNKNOWN


def _header(content: Mapping[str, Any], results: tuple[Result, ...], licence: str, weights: str) -> Iterator[str]:
    """Lines of YAML; no text of a user is among them."""
    arch = content["architecture"]
    yield f"license: {licence}"
    yield "library_name: tlearn"
    yield "pipeline_tag: image-classification"
    if weights == "imagenet" and arch != "vgg16":  # the hub has no model with Oxford's weights
        yield f"base_model: timm/{arch}.tv_in1k"
    yield from ("tags:", "- image-classification", "- transfer-learning", f"- {arch}")
    yield from ("metrics:", "- accuracy", "model-index:", f"- name: {arch}-{content['digest']}", "  results:")
    for result in results:
        yield from ("  - task:", "      type: image-classification", "      name: Image classification")
        yield from (
            "    dataset:",
            "      type: imagefolder",
            f"      name: {_SPLITS[result.split].capitalize()} images of the run",
        )
        yield from (f"      split: {_SPLITS[result.split]}", "    metrics:")
        yield from ("    - type: accuracy", f"      value: {result.accuracy:.6f}")
        yield f"      name: Accuracy of {result.num_images} images{_sure(result)}"


def _sure(result: Result) -> str:
    return "" if result.interval is None else f" (95% sure from {result.interval[0]:.3f} to {result.interval[1]:.3f})"


def _body(content: Mapping[str, Any], facts: Facts, results: tuple[Result, ...]) -> str:
    training, seen, arch = content["training"], content["preprocess"], content["architecture"]
    network = arch.removesuffix("_bn").upper() + (" with batch normalisation" if arch.endswith("_bn") else "")
    start = {"imagenet": "pretrained on ImageNet", "none": "not pretrained"}.get(facts.weights, "pretrained")
    classes = "\n".join(_classes(content["classes"], facts.counts))
    figures = "\n".join(_figures(results))
    return f"""# {network} that tells {len(content["classes"])} classes of pictures

{network}, {start}; {content["frozen_blocks"]} of its 5 convolution blocks are as they were, the rest was
trained by tlearn, recipe `{training["recipe"]}`, on {training["num_train"]:,} images. All settings are in `model.json`.

## Use and limits

For pictures like those that it was trained on. It knows the classes below and no other: a picture of anything else is
given one of them all the same, with a probability that says little. What it makes of pictures of another origin (other
cameras, backgrounds, seasons, people) was not measured. Where a mistake matters, let a person decide.

```sh
tlearn score --model THIS_FOLDER --input IMAGES --output scores.parquet
tlearn export THIS_FOLDER --to onnx
```

```python
import tlearn

for row in tlearn.load("THIS_FOLDER").predict(["a.jpg"]):
    print(row.prediction, row.probability)
```

It sees {seen["image_size"]}x{seen["image_size"]} pixels, resized by `{seen["resize"]}`. Digest: `{content["digest"]}`.

## Classes

{classes}

## Results

{figures}

The figures hold for pictures like those they were measured on. The epoch and the temperature were chosen on the
validation images, whose figures are a little too good for that; nothing was chosen on test images. Logits are divided
by the temperature, {content["temperature"]:.3f}, which calibrates probabilities (1 changes nothing).
"""


def _classes(names: list[str], counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A table with a line for each class."""
    yield "| " + " | ".join(["class", *(f"{_SPLITS[split]} images" for split in counts)]) + " |"
    yield "|---|" + "---|" * len(counts)
    for name in names:
        yield "| " + " | ".join([_plain(name), *(f"{of.get(name, 0):,}" for of in counts.values())]) + " |"


def _figures(results: tuple[Result, ...]) -> Iterator[str]:
    yield "| | images | accuracy | log-loss | calibration error |"
    yield "|---|---|---|---|---|"
    for result in results:
        loss, error = ("" if value is None else f"{value:.4f}" for value in (result.log_loss, result.calibration_error))
        accuracy = f"{result.accuracy:.4f}{_sure(result)}"
        yield f"| {_SPLITS[result.split]} | {result.num_images:,} | {accuracy} | {loss} | {error} |"


def _plain(name: str) -> str:
    """A name that Markdown and HTML show as it is."""
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", printable(name))
