"""A model folder gives back what was saved, or an error; never something else."""

import dataclasses
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from support import build, our_tensors, random_blocks
from torch import Tensor

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.errors import IntegrityError, StorageError
from tlearn.network import description, model
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Description, Draft
from tlearn.network.frozen import Frozen
from tlearn.network.trainable import Trainable
from tlearn.network.vgg import load_pretrained

PREPROCESS = PreprocessConfig(image_size=32, short_side=40)
DRAFT = Draft(
    classes=Classes(("cat", "dog", "süß")),
    frozen_blocks=4,
    preprocess=PREPROCESS,
    head=HeadConfig(width=8),
    arithmetic=Arithmetic(),
    training={"recipe": "frozen", "num_train": 1600, "num_val": 500, "lr": 1e-05},
    metrics={"val_accuracy": 0.98765, "val_loss": 0.0432109876543210987},
    reference={},
    arch="vgg_tiny",
)


def parts(seed: int = 0) -> tuple[Frozen, Trainable]:
    torch.manual_seed(seed)
    frozen, trainable = build(4, PREPROCESS, DRAFT.head, 3, "vgg_tiny")
    trainable.head.scale.fill_(2.5)
    return frozen, trainable


def save(folder: Path, seed: int = 0, draft: Draft = DRAFT) -> str:
    frozen, trainable = parts(seed)
    return model.save(folder, frozen.layers.state_dict(), trainable, draft)


def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    save(folder)
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder whose model.json may be damaged."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_bytes((saved / "model.json").read_bytes())
    (folder / "model.safetensors").symlink_to(saved / "model.safetensors")
    yield folder


def test_a_loaded_model_gives_the_logits_of_the_saved_one(saved: Path) -> None:
    frozen, trainable = parts()
    with torch.no_grad():
        expected = trainable.eval()(frozen.prepare()(pixels()))
    for location in (str(saved), f"file://{saved}", f"{saved}/"):
        loaded = model.load(location).large.prepare()
        torch.testing.assert_close(loaded.outputs(pixels())[0], expected, rtol=1e-3, atol=1e-3)
    assert expected.abs().max() > 0


def test_a_model_of_another_arch_comes_back_as_it_was(tmp_path: Path) -> None:
    draft = dataclasses.replace(DRAFT, arch="vgg11_bn")
    tensors = our_tensors(random_blocks("vgg11_bn"), "vgg11_bn")
    frozen, trainable = build(4, PREPROCESS, DRAFT.head, 3, "vgg11_bn")
    load_pretrained(frozen.layers, tensors)
    load_pretrained(trainable.layers, tensors)
    digest = model.save(tmp_path / "model", frozen.layers.state_dict(), trainable, draft)
    found = model.load(str(tmp_path / "model"))
    assert (found.description.arch, found.description.digest) == ("vgg11_bn", digest)
    loaded = found.large.prepare()
    with torch.no_grad():
        expected = trainable.eval()(frozen.prepare()(pixels()))
    atol = 1e-3 * expected.abs().max().item()
    torch.testing.assert_close(loaded.outputs(pixels())[0], expected, rtol=1e-3, atol=atol)
    assert json.loads((tmp_path / "model" / "model.json").read_bytes())["architecture"] == "vgg11_bn"
    assert "VGG11 with batch normalisation" in (tmp_path / "model" / "README.md").read_text()


def test_logits_are_divided_by_the_temperature(saved: Path, tmp_path: Path) -> None:
    save(tmp_path / "model", draft=dataclasses.replace(DRAFT, temperature=2.5))
    plain, calibrated = (model.load(str(folder)).large.prepare() for folder in (saved, tmp_path / "model"))
    (logits, pooled), (divided, same) = plain.outputs(pixels()), calibrated.outputs(pixels())
    torch.testing.assert_close(divided, logits / 2.5)
    assert torch.equal(pooled, same) and "2.500" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_a_loaded_model_is_described_as_it_was_saved(saved: Path) -> None:
    found = description.describe(str(saved))
    data = (saved / "model.safetensors").read_bytes()
    values = {field.name: getattr(DRAFT, field.name) for field in dataclasses.fields(DRAFT)}
    expected = Description(**values, weights_sha256=hashlib.sha256(data).hexdigest(), digest=found.digest)
    assert found == expected == model.load(str(saved)).description
    assert {path.name for path in saved.iterdir()} == {"model.safetensors", "model.json", "README.md"}
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_the_file_holds_every_tensor_in_float32(saved: Path) -> None:
    frozen, trainable = parts()
    names = {f"frozen.{name}" for name in frozen.layers.state_dict()}
    names |= {f"trainable.{name}" for name in trainable.state_dict()}
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert set(file.keys()) == names
        assert {file.get_slice(name).get_dtype() for name in names} == {"F32"}


def test_a_loaded_model_is_not_for_training(saved: Path) -> None:
    loaded = model.load(str(saved))
    assert not loaded.large.head.training
    assert not any(parameter.requires_grad for parameter in loaded.large.head.parameters())


def test_the_arithmetic_is_that_of_training_unless_told(saved: Path) -> None:
    assert model.load(str(saved)).large.convolutions.arithmetic == Arithmetic()
    told = Arithmetic("openvino", "bf16")
    assert model.load(str(saved), told).large.convolutions.arithmetic == told


def flip(data: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("position", [0, 8, 200, 5_001, -1])
def test_a_flipped_byte_in_the_weights_is_found(saved: Path, damaged: Path, position: int) -> None:
    weights = damaged / "model.safetensors"
    weights.unlink()
    weights.write_bytes(flip((saved / "model.safetensors").read_bytes(), position))
    with pytest.raises(IntegrityError, match=r"model\.safetensors.*changed or damaged") as caught:
        model.load(str(damaged))
    assert caught.value.code == 6


@pytest.mark.parametrize("length", [0, -1])
def test_truncated_weights_are_found(saved: Path, damaged: Path, length: int) -> None:
    weights = damaged / "model.safetensors"
    weights.unlink()
    weights.write_bytes((saved / "model.safetensors").read_bytes()[:length])
    with pytest.raises(IntegrityError):
        model.load(str(damaged))


@pytest.mark.parametrize("what", ['"architecture"', "cat", "160", "98765", "image_size", "fp32", '"digest": "', "\n}"])
def test_a_flipped_byte_in_the_description_is_found(damaged: Path, what: str) -> None:
    data = (damaged / "model.json").read_bytes()
    position = data.index(what.encode()) + len(what) - 1
    (damaged / "model.json").write_bytes(flip(data, position))
    with pytest.raises(IntegrityError) as caught:
        model.load(str(damaged))
    assert caught.value.code == 6 and len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_no_flipped_bit_of_the_description_makes_another_model(damaged: Path) -> None:
    data, expected = (damaged / "model.json").read_bytes(), description.describe(str(damaged))
    harmless = []
    for position in range(len(data)):
        for bit in range(8):
            (damaged / "model.json").write_bytes(flip(data, position, bit))
            try:
                assert description.describe(str(damaged)) == expected
                harmless.append(data[position : position + 1])
            except IntegrityError:
                pass
    # JSON has two ways to write some things: 1e-05 and 1E-05, \u00fc and \u00FC.
    assert len(harmless) < 10 and b"".join(harmless).isalnum()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b"3", b'{"digest": 3}', b'{"digest": 3, "format": 1}']))
def test_what_is_no_description_is_refused(damaged: Path, content: bytes) -> None:
    (damaged / "model.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        description.describe(str(damaged))


def test_an_unknown_format_is_named(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "_FORMAT", 2)
    with pytest.raises(IntegrityError, match=r"expected model format 2.*got 1: train it again"):
        description.describe(str(damaged))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object], data: bytes | None = None) -> str:
    """Another model.json, and perhaps other weights, under digests that fit; returns the digest."""
    values = json.loads((folder / "model.json").read_bytes())
    if data is not None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").write_bytes(data)
        values["weights_sha256"] = hashlib.sha256(data).hexdigest()
    change(values)
    del values["digest"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    (folder / "model.json").write_text(json.dumps(values | {"digest": digest}))
    return digest


def first_version(values: dict[str, Any]) -> None:
    """model.json as the first version wrote it."""
    for name in ("temperature", "reference", "arithmetic"):
        del values[name]
    values["precision"] = "bf16"
    del values["preprocess"]["jpeg_scaling"], values["head"]["unit_length"], values["head"]["kind"]
    values["head"]["pool"] = "average"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v.pop("temperature"), {"temperature": 1.0}),
        (lambda v: v.pop("reference"), {"reference": {}}),
        (lambda v: v["preprocess"].pop("jpeg_scaling"), {"preprocess": ("jpeg_scaling", False)}),
        (lambda v: v["head"].pop("unit_length"), {"head": ("unit_length", False)}),
        (first_version, {"head": ("kind", "pooled"), "arithmetic": Arithmetic("torch", "bf16"), "temperature": 1.0}),
    ],
)
def test_what_an_earlier_version_did_not_write_is_what_held_then(
    damaged: Path, change: Callable[[dict[str, Any]], object], expected: dict[str, Any]
) -> None:
    digest = rewritten(damaged, change)
    found = description.describe(str(damaged))
    for name, value in expected.items():
        is_part = isinstance(value, tuple)
        assert (getattr(getattr(found, name), value[0]) if is_part else getattr(found, name)) == (
            value[1] if is_part else value
        )
    assert found.digest == digest


def test_a_model_of_before_unit_length_gives_the_logits_of_then(damaged: Path) -> None:
    frozen, _ = parts()
    _, trainable = build(4, PREPROCESS, dataclasses.replace(DRAFT.head, unit_length=False), 3, "vgg_tiny")
    trainable.load_state_dict(parts()[1].state_dict())
    with torch.no_grad():
        then = trainable.eval()(frozen.prepare()(pixels()))
    assert not torch.allclose(then, model.load(str(damaged)).large.prepare().outputs(pixels())[0], atol=1e-2)
    rewritten(damaged, lambda values: values["head"].pop("unit_length"))
    torch.testing.assert_close(
        model.load(str(damaged)).large.prepare().outputs(pixels())[0], then, rtol=1e-3, atol=1e-3
    )


def test_every_setting_that_models_keep_was_there_at_first_or_has_what_held_before_it() -> None:
    at_first = {
        "preprocess": {"image_size", "resize", "short_side", "normalization", "max_pixels", "max_bytes"},
        "head": {"kind", "width", "depth", "dropout", "scale_features"},
    }
    for group, kind in {"preprocess": PreprocessConfig, "head": HeadConfig}.items():
        assert {field.name for field in dataclasses.fields(kind)} == at_first[group] | set(description._BEFORE[group])


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(colour=1), "colour is unknown"),
        (lambda v: v["head"].update(attention=True), "head.attention is unknown"),
        (lambda v: v.pop("frozen_blocks"), "frozen_blocks is missing"),
        (lambda v: v["head"].pop("width"), "head.width is missing"),
        (lambda v: v["preprocess"].pop("normalization"), "preprocess.normalization is missing"),
        (lambda v: v.pop("classes"), "classes"),
        (lambda v: v.update(head=[1]), "head is '[1]'"),
        (lambda v: v["head"].update(width="8"), "head.width is '8'"),
        (lambda v: v["head"].update(depth=True), "head.depth is 'True'"),
        (lambda v: v["head"].update(depth=10**9), "depth must be"),
        (lambda v: v["preprocess"].update(image_size=10**9), "image_size must be"),
        (lambda v: v["preprocess"].update(resize="stretch"), "preprocess.resize is 'stretch'"),
        (lambda v: v.update(architecture="resnet"), "arch is 'resnet'"),
        (lambda v: v.update(classes=["cat"]), "at least two class folders"),
        (lambda v: v.update(classes=["cat", 3]), "classes.names is '3'"),
        (lambda v: v.update(frozen_blocks=9), "frozen_blocks is 9"),
        (lambda v: v.update(temperature=0), "temperature 0"),
        (lambda v: v.update(temperature=float("nan")), "temperature is 'nan'"),
        (lambda v: v["arithmetic"].update(ranges=["a"]), "arithmetic.ranges is 'a'"),
        (lambda v: v.update(training=nested(900)), "training is"),
    ],
)
def test_another_versions_description_is_refused_in_one_line(
    damaged: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    rewritten(damaged, change)
    with pytest.raises(IntegrityError) as caught:
        description.describe(str(damaged))
    text = str(caught.value)
    assert says in text and str(damaged) in text and "\n" not in text


def test_a_description_nested_too_deeply_is_refused(damaged: Path) -> None:
    (damaged / "model.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(IntegrityError, match="could not read it"):
        description.describe(str(damaged))


def changed_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        tensors = safetensors.torch.load(data)
        change(tensors)
        return safetensors.torch.save(tensors)

    return changed


LAST = "trainable.head.last.weight"


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (lambda data: pickle.dumps({"weight": 1}), "expected safetensors"),
        (lambda data: b"", "expected safetensors"),
        (lambda data: (2**62).to_bytes(8, "little") + data[8:], "expected safetensors"),
        (lambda data: data[:-1], "expected safetensors"),
        (changed_tensors(lambda t: t.pop(LAST)), f"float32 (3, 8) for {LAST}"),
        (changed_tensors(lambda t: t.update(more=torch.ones(1))), "expected nothing for more"),
        (changed_tensors(lambda t: t.update({LAST: torch.ones(8, 3)})), "got float32 (8, 3)"),
        (changed_tensors(lambda t: t.update({LAST: torch.ones(3, 8, dtype=torch.float16)})), "got float16 (3, 8)"),
        (changed_tensors(lambda t: t.update({LAST: torch.ones(3, 8, dtype=torch.bfloat16)})), "expected safetensors"),
        (changed_tensors(lambda t: t[LAST].view(-1)[5].fill_(float("nan"))), f"finite numbers in {LAST}"),
        (changed_tensors(lambda t: t["trainable.head.scale"].fill_(float("inf"))), "finite numbers in trainable.head"),
    ],
)
def test_weights_that_are_not_those_described_are_refused_before_they_are_used(
    saved: Path, damaged: Path, weights: Callable[[bytes], bytes], says: str
) -> None:
    rewritten(damaged, lambda values: None, weights((saved / "model.safetensors").read_bytes()))
    with pytest.raises(IntegrityError) as caught:
        description.verify(str(damaged))
    text = str(caught.value)
    assert says in text and str(damaged / "model.safetensors") in text and "\n" not in text


@pytest.mark.parametrize("arch", ["vgg_tiny", "vgg11_bn"])
@pytest.mark.parametrize("kind", ["pooled", "dense", "linear"])
def test_the_shapes_that_are_expected_are_those_of_the_network(arch: Arch, kind: Any) -> None:
    draft = dataclasses.replace(DRAFT, arch=arch, head=HeadConfig(kind=kind, width=8))
    frozen, trainable = build(4, PREPROCESS, draft.head, 3, arch)
    shapes = {f"frozen.{name}": tuple(tensor.shape) for name, tensor in frozen.layers.state_dict().items()}
    shapes |= {f"trainable.{name}": tuple(tensor.shape) for name, tensor in trainable.state_dict().items()}
    assert description.tensor_shapes(draft) == shapes


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_folder_or_file_is_named(damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    for location in (damaged, damaged / "absent"):
        with pytest.raises(
            ValueError, match=f"expected a model folder with .* at {location}.*--model RUN/model"
        ) as caught:
            model.load(str(location))
        assert not isinstance(caught.value, IntegrityError)


def test_saving_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    first = save(tmp_path / "model")
    (tmp_path / "model" / "stale.txt").touch()
    assert save(tmp_path / "model") == first
    second = save(tmp_path / "model", seed=1)
    assert second != first
    assert model.load(str(tmp_path / "model")).description.digest == second
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.safetensors", "model.json", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_verifying_reads_everything_and_builds_nothing(saved: Path, damaged: Path) -> None:
    assert description.verify(str(saved)) == description.describe(str(saved))
    (damaged / "model.safetensors").unlink()
    (damaged / "model.safetensors").write_bytes(b"another")
    with pytest.raises(IntegrityError):
        description.verify(str(damaged))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "README.md"])
@pytest.mark.parametrize("error", [StorageError("disk full"), OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_model_and_nothing_else(
    saved: Path, damaged: Path, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = storage.write_bytes

    def fail(location: str, data: bytes) -> None:
        written(location, data[:1000])
        if location.endswith(name):
            raise error

    monkeypatch.setattr(storage, "write_bytes", fail)
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        save(damaged, seed=1)
    assert [path.name for path in damaged.parent.iterdir()] == ["model"]
    assert description.describe(str(damaged)) == description.describe(str(saved))


def test_a_description_without_what_the_card_says_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        save(tmp_path / "model", draft=dataclasses.replace(DRAFT, metrics={}))
    assert not list(tmp_path.iterdir())


def test_a_failed_rename_leaves_the_old_model(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    renamed = Path.replace

    def fail(self: Path, target: Any) -> Any:
        if Path(target) == folder and self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return renamed(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match="could not write"):
        save(folder, seed=1)
    assert model.load(str(folder)).description == description.describe(str(saved))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_equal_content_has_an_equal_digest(saved: Path, tmp_path: Path) -> None:
    digest = description.describe(str(saved)).digest
    assert save(tmp_path / "elsewhere") == digest
    changed: list[dict[str, Any]] = [
        {"classes": Classes(("dog", "cat", "süß"))},
        {"training": {**DRAFT.training, "num_train": 1601}},
        {"preprocess": dataclasses.replace(PREPROCESS, short_side=41)},
        {"temperature": 1.5},
    ]
    digests = [save(tmp_path / "elsewhere", draft=dataclasses.replace(DRAFT, **one)) for one in changed]
    assert len({digest, *digests}) == 5
    assert len(digest) == 16 and int(digest, 16) >= 0


def test_the_card_says_classes_accuracy_and_digest(tmp_path: Path) -> None:
    digest = save(tmp_path / "model", draft=dataclasses.replace(DRAFT, arch="vgg16"))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for expected in (
        "# VGG16 that tells 3 classes of pictures\n",
        "\n| cat |\n| dog |\n| süß |\n",
        "| validation | 500 | 0.9877 | 0.0432 |",
        "temperature, 1.000,",
        digest,
        "1,600 images",
        "32x32",
        "`frozen`",
    ):
        assert expected in card
