"""Faults that are planted in a folder of drawn pictures: each is named, and nothing else is."""

from collections.abc import Callable
from pathlib import Path

import planted
import pytest
from alone import SMALL, draw, without_ray

from tlearn.config import CheckConfig
from tlearn.data.findings import Finding
from tlearn.doctor.check import Findings, check
from tlearn.recipes import checked_as, replaced


def named(findings: tuple[Finding, ...]) -> dict[str, dict[str, str]]:
    """By kind what is suggested for each file."""
    return {finding.kind: {each.path: each.suggestion for each in finding.suspects} for finding in findings}


def quickly(folder: Path) -> Findings:
    return check(checked_as(CheckConfig(data=str(folder))), quick=True)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.drawn(tmp_path_factory.mktemp("drawn") / "clean", num_train=18, num_val=6, num_test=6)


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    return planted.copy(clean, tmp_path / "data")


def test_a_clean_folder_has_no_findings(clean: Path) -> None:
    assert quickly(clean).findings == ()


LOOKS = {
    "blank": planted.blank, "dark": planted.dark, "bright": planted.bright, "blurred": planted.blurred,
    "tiny": planted.tiny, "odd_aspect": planted.long, "unreadable": planted.truncated,
}  # fmt: skip


def test_a_picture_of_odd_looks_is_named_for_them_and_for_nothing_else(folder: Path) -> None:
    paths = {kind: f"train/cat/{number:03}.jpg" for number, kind in enumerate(LOOKS)}
    for kind, path in paths.items():
        LOOKS[kind](folder / path)
    found = named(quickly(folder).findings)
    assert {kind: list(files) for kind, files in found.items()} == {kind: [path] for kind, path in paths.items()}
    assert {files[paths[kind]] for kind, files in found.items() if kind in ("blank", "unreadable")} == {"exclude"}


COPIES: list[Callable[[Path, Path], None]] = [
    planted.mirrored, planted.rescaled, planted.squeezed, planted.grey, planted.brightened, planted.recompressed,
]  # fmt: skip


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.__name__)
def test_a_picture_in_another_split_is_a_copy_however_it_was_changed(folder: Path, copy: Callable[..., None]) -> None:
    copy(folder / "train/cat/001.jpg", folder / "test/copy.jpg")
    copy(folder / "train/dog/002.jpg", folder / "train/cat/other.jpg")
    (finding,) = quickly(folder).findings
    assert finding.kind == "near_duplicates"
    beside = {suspect.path: (suspect.beside, suspect.suggestion) for suspect in finding.suspects}
    assert beside == {
        "train/cat/001.jpg": (("test/copy.jpg",), "exclude"),  # what is judged on stays
        "train/dog/002.jpg": (("train/cat/other.jpg",), "look"),  # nobody knows which class is right
    }
    assert "1 in two splits" in finding.what and "1 under two classes" in finding.what


def test_a_chain_of_copies_keeps_one_of_them(folder: Path) -> None:
    planted.mirrored(folder / "train/cat/001.jpg", folder / "train/cat/second.jpg")
    planted.rescaled(folder / "train/cat/second.jpg", folder / "train/cat/third.jpg")
    (folder / "val/cat/same.jpg").write_bytes((folder / "train/cat/third.jpg").read_bytes())
    found = named(quickly(folder).findings)
    assert found == {
        "exact_duplicates": {"train/cat/third.jpg": "exclude"},
        "near_duplicates": {"train/cat/001.jpg": "exclude", "train/cat/second.jpg": "exclude"},
    }


def test_a_format_that_gives_a_class_away_is_named_with_its_interval(folder: Path) -> None:
    for split in ("train", "val"):
        planted.as_png(folder / split / "dog")
    (finding,) = quickly(folder).findings
    assert finding.kind == "gives_label_away" and "format (" in finding.what and "100% right" in finding.what


LEAKS = {"size": planted.of_one_size, "border colour": planted.framed, "camera": planted.of_one_camera}


@pytest.mark.parametrize("property", LEAKS)
def test_a_property_of_one_class_gives_it_away(folder: Path, property: str) -> None:
    for split in ("train", "val"):
        for path in (folder / split / "dog").iterdir():
            LEAKS[property](path)
    (finding,) = quickly(folder).findings
    assert finding.kind == "gives_label_away" and f"{property} (" in finding.what and not finding.suspects


@pytest.mark.parametrize(
    ("name", "says"), [("Cat", "'Cat' and 'cat'"), ("cat ", "'cat' and 'cat '"), ("\uff43at", "'cat'")]
)
def test_names_that_a_person_may_take_for_one_are_named(folder: Path, name: str, says: str) -> None:
    planted.moved(folder / "train/cat/001.jpg", folder / f"train/{name}/a.jpg")
    (finding,) = (each for each in quickly(folder).findings if each.kind != "imbalance")
    assert finding.kind == "look_alike_names" and says in finding.what
    assert [(each.path, each.suggestion) for each in finding.suspects] == [(f"train/{name}/a.jpg", "relabel:cat")]


@pytest.mark.parametrize(("name", "suggestion"), [("fox", "exclude"), ("CAT", "relabel:cat")])
def test_a_class_that_train_lacks_is_named_and_the_rest_is_looked_at(folder: Path, name: str, suggestion: str) -> None:
    planted.moved(folder / "val/cat/001.jpg", folder / f"val/{name}/a.jpg")
    planted.dark(folder / "val/dog/000.jpg")
    checked = quickly(folder)
    path = f"val/{name}/a.jpg"
    assert named(checked.findings) == {
        "class_only_in_one_split": {path: suggestion},
        "dark": {"val/dog/000.jpg": "look"},
    }
    assert checked.code == 3 and name in str(checked.refusal)


@pytest.mark.parametrize("split", ["val/dog", "val/cat"])
def test_a_class_that_val_lacks_is_named(folder: Path, split: str) -> None:
    for path in (folder / split).iterdir():
        path.unlink()
    (finding,) = quickly(folder).findings
    assert finding.kind == "class_only_in_one_split" and not finding.suspects


def test_a_folder_of_copies_is_copies_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one picture there is no other fifth to learn from."""
    without_ray(monkeypatch)
    folder = draw(tmp_path / "data", {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    for label in ("cat", "dog"):
        for number in range(1, 15):
            planted.copied(folder / f"train/{label}/0.png", folder / f"train/{label}/{number}.png")
    config = checked_as(CheckConfig(data=str(folder), weights="none", cache=str(tmp_path / "cache")))
    assert list(named(check(replaced(config, SMALL)).findings)) == ["exact_duplicates"]


def plant(folder: Path) -> dict[str, set[str]]:
    """The twelve of the whole; returns by kind the files that are to be named."""
    planted.copied(folder / "train/cat/000.jpg", folder / "test/exact.jpg")
    planted.mirrored(folder / "train/cat/001.jpg", folder / "test/mirrored.jpg")
    planted.rescaled(folder / "train/dog/002.jpg", folder / "test/rescaled.jpg")
    planted.cropped(folder / "train/dog/003.jpg", folder / "test/cropped.jpg")
    for source, target in (("cat/004", "dog/x"), ("dog/005", "cat/y"), ("dog/006", "cat/z")):
        planted.moved(folder / f"train/{source}.jpg", folder / f"train/{target}.jpg")
    planted.moved(folder / "val/dog/000.jpg", folder / "val/fox/0.jpg")
    planted.truncated(folder / "train/cat/007.jpg")
    planted.blank(folder / "train/cat/008.jpg")
    planted.blurred(folder / "train/cat/009.jpg")
    planted.dark(folder / "train/cat/010.jpg")
    planted.as_png(folder / "train/dog")
    planted.as_png(folder / "val/dog")
    for number in range(4):
        planted.moved(folder / f"train/cat/{number + 20:03}.jpg", folder / f"train/Cat/{number}.jpg")
    planted.moved(folder / "val/cat/001.jpg", folder / "val/Cat/0.jpg")
    return {
        "exact_duplicates": {"train/cat/000.jpg"},
        "near_duplicates": {"train/cat/001.jpg", "train/dog/002.png", "train/dog/003.png"},
        "wrong_label": {"train/dog/x.png", "train/cat/y.jpg", "train/cat/z.jpg"},
        "class_only_in_one_split": {"val/fox/0.jpg"},
        "unreadable": {"train/cat/007.jpg"},
        "blank": {"train/cat/008.jpg"},
        "blurred": {"train/cat/009.jpg"},
        "dark": {"train/cat/010.jpg"},
        "gives_label_away": set(),
        "look_alike_names": {*(f"train/Cat/{number}.jpg" for number in range(4)), "val/Cat/0.jpg"},
        "imbalance": set(),
    }


@pytest.mark.long
def test_twelve_faults_are_all_named_and_nothing_else(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    folder = planted.drawn(tmp_path / "data", num_train=60, num_val=20, num_test=20)
    expected = plant(folder)
    config = checked_as(CheckConfig(data=str(folder), cache=str(own_cache)))
    checked = check(replaced(config, {"precision": "fp32", "preprocess": {"image_size": 160, "short_side": 176}}))
    assert {kind: set(files) for kind, files in named(checked.findings).items()} == expected
    assert checked.depth == "features" and checked.to_change >= 12
