"""A model card says what is known, in a form that the hub reads, whatever the classes are called."""

import html
import re
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from support import CLASSES, PUBLISHED

from tlearn.errors import printable
from tlearn.network import card
from tlearn.network.card import Facts, Result

HOSTILE = (
    "<script>alert(1)</script>", "a|b", "`code`", "[x](javascript:alert(1))", "![p](http://a.b/c.png)", "_a_*b*",
    "new\nline", "---", "# title", "&lt;b&gt;", "1. list", "\u202egnirts", "$x$ ~~no~~", "back\\slash", "süß 🐈",
    " blank ", "yes: no", "https://a.b", "@someone", "{{ jinja }}", "<!-- x", "golden_retriever",
)  # fmt: skip
FACTS = Facts(
    "imagenet",
    {"train": {"cat": 800, "dog": 799}, "val": {"cat": 250, "dog": 250}},
    (
        Result("val", 500, 0.99, (0.977, 0.996), 0.0412, 0.0051),
        Result("test", 60, 1.0, (0.94, 1.0), None, None),
    ),
)
KEYS = {
    "language", "license", "license_name", "license_link", "library_name", "pipeline_tag", "tags", "datasets",
    "metrics", "base_model", "model-index",
}  # fmt: skip
"""Those that the hub documents in its modelcard.md."""


def content(arch: str = "vgg16", names: tuple[str, ...] = CLASSES.names) -> dict[str, Any]:
    """As much of model.json as a card is about."""
    return {
        "architecture": arch,
        "classes": list(names),
        "frozen_blocks": 5,
        "preprocess": {"image_size": 240, "resize": "crop"},
        "temperature": 1.234,
        "digest": "0123456789abcdef",
        "training": {"recipe": "frozen", "num_train": 1599, "num_val": 500},
        "metrics": {"val_accuracy": 0.99, "val_loss": float("nan")},
    }


def parts(text: str) -> tuple[dict[str, Any], str]:
    """The metadata, and the rest."""
    _, header, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(header), body


@pytest.mark.parametrize("facts", [None, Facts(), FACTS, Facts("none"), Facts("imagenet")])
@pytest.mark.parametrize("arch", PUBLISHED)
def test_the_hub_can_read_the_metadata(facts: Facts | None, arch: str) -> None:
    metadata, _ = parts(card.text(content(arch, HOSTILE), facts))
    assert set(metadata) <= KEYS
    assert metadata["pipeline_tag"] == "image-classification" and metadata["library_name"] == "tlearn"
    assert metadata["license"] in ("cc-by-4.0", "bsd-3-clause", "unknown")
    assert all(isinstance(tag, str) for tag in [*metadata["tags"], *metadata["metrics"]])
    (model,) = metadata["model-index"]
    assert model["name"] == f"{arch}-0123456789abcdef"
    for result in model["results"]:
        assert result["task"]["type"] == "image-classification"
        assert set(result["dataset"]) == {"type", "name", "split"} and all(result["dataset"].values())
        for metric in result["metrics"]:
            assert metric["type"] == "accuracy" and 0 <= metric["value"] <= 1 and "images" in metric["name"]


def test_the_metadata_hold_the_results_with_their_number_and_interval() -> None:
    metadata, _ = parts(card.text(content(), FACTS))
    results = metadata["model-index"][0]["results"]
    assert [result["dataset"]["split"] for result in results] == ["validation", "test"]
    assert results[0]["metrics"] == [
        {"type": "accuracy", "value": 0.99, "name": "Accuracy of 500 images (95% sure from 0.977 to 0.996)"}
    ]


@pytest.mark.parametrize(
    ("arch", "weights", "licence", "base", "says"),
    [
        ("vgg16", "imagenet", "cc-by-4.0", None, "Visual Geometry Group"),
        ("vgg19", "imagenet", "bsd-3-clause", "timm/vgg19.tv_in1k", "torchvision"),
        ("vgg11_bn", "imagenet", "bsd-3-clause", "timm/vgg11_bn.tv_in1k", "torchvision"),
        ("vgg16", "s3://secret/place/mine.pth", "unknown", None, "ask who made"),
        ("vgg16", "none", "unknown", None, "noise"),
    ],
)
def test_the_licence_is_that_of_whoever_trained_the_weights(
    arch: str, weights: str, licence: str, base: str | None, says: str
) -> None:
    text = card.text(content(arch), Facts(weights))
    metadata, body = parts(text)
    assert (metadata["license"], metadata.get("base_model")) == (licence, base)
    assert says in body.partition("## Licence")[2] and "secret" not in text


def cells(body: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, as a reader of its HTML sees them."""
    shown = MarkdownIt().enable("table").render(body.partition(f"## {heading}")[2].partition("\n## ")[0])
    rows = re.findall(r"<tr>(.*?)</tr>", shown, re.DOTALL)[1:]
    return [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)] for row in rows]


def test_class_names_are_shown_one_a_line_as_they_are() -> None:
    counts = {"train": dict.fromkeys(HOSTILE, 1_234)}
    _, body = parts(card.text(content(names=HOSTILE), Facts("imagenet", counts)))
    assert cells(body, "Classes") == [[printable(name), "1,234"] for name in HOSTILE]
    lines = body.partition("## Classes")[2].partition("## ")[0].strip().splitlines()
    assert len(lines) == len(HOSTILE) + 2
    shown = MarkdownIt().enable("table").render(body)
    assert set(re.findall(r"<(\w+)", shown)) <= {
        "h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "a",
    }  # fmt: skip
    assert set(re.findall(r'href="(.*?)"', shown)) == {
        "https://arxiv.org/abs/1409.1556", "https://creativecommons.org/licenses/by/4.0/",
    }  # fmt: skip


def test_results_and_counts_are_in_tables() -> None:
    _, body = parts(card.text(content(), FACTS))
    assert cells(body, "Classes") == [["cat", "800", "250"], ["dog", "799", "250"]]
    assert cells(body, "Results") == [
        ["validation", "500", "0.9900 (95% sure from 0.977 to 0.996)", "0.0412", "0.0051"],
        ["test", "60", "1.0000 (95% sure from 0.940 to 1.000)", "", ""],
    ]
