"""Groups of pictures: found in paths or in a table, never parted by a split or a fold, and named where they are."""

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlearn.data import groups
from tlearn.data.listing import read
from tlearn.data.manifest import File
from tlearn.data.splits import folds, held_out
from tlearn.errors import InputError


def file(path: str, group: str | None = None, sha256: str | None = None, split: str = "train") -> File:
    return File(split, path, path.split("/")[-2], 1, 1, sha256 or path, group=group)


@st.composite
def grouped(draw: st.DrawFn) -> list[File]:
    """Pictures of two or three classes, in groups of one class or of several, or in none, some of them copies.

    Each class has two groups that hang together with nothing else.
    """
    labels, files = ("cat", "dog", "fox")[: draw(st.integers(2, 3))], []
    for label in labels:
        own = [f"{label} {number % draw(st.integers(2, 6))}" for number in range(draw(st.integers(4, 20)))]
        for number, group in enumerate([f"{label} first", f"{label} second", *own]):
            shared = draw(st.sampled_from([group, group, None, "burst", "video"])) if number > 1 else group
            copy = draw(st.sampled_from([None, None, None, "copy"])) if number > 1 else None
            files.append(file(f"{label}/{number}.jpg", shared, copy))
    return files


def sides(files: list[File], of: dict[str, int]) -> bool:
    """Whether no group and no copy is on two sides."""
    for key in ("group", "sha256"):
        places: dict[str, set[int]] = {}
        for each in files:
            if getattr(each, key) is not None:
                places.setdefault(getattr(each, key), set()).add(of[each.path])
        if any(len(numbers) > 1 for numbers in places.values()):
            return False
    return True


@settings(deadline=None, max_examples=60)
@given(grouped(), st.floats(0.05, 0.95), st.integers(0, 3))
def test_what_is_held_out_parts_no_group_and_both_sides_have_every_class(
    files: list[File], fraction: float, seed: int
) -> None:
    val = held_out(files, fraction, seed)
    held = {each.path for each in val}
    assert sides(files, {each.path: each.path in held for each in files})
    every = {each.label for each in files}
    assert {each.label for each in val} == {each.label for each in files if each.path not in held} == every
    assert val == held_out(random.Random(0).sample(files, len(files)), fraction, seed)


@settings(deadline=None, max_examples=60)
@given(grouped(), st.integers(2, 4), st.integers(0, 3))
def test_folds_cover_every_picture_once_and_part_no_group(files: list[File], num_folds: int, seed: int) -> None:
    found = folds(files, num_folds, seed)
    assert found.keys() == {each.path for each in files} and {*found.values()} == {*range(num_folds)}
    assert sides(files, found)
    for number in range(num_folds):
        assert {each.label for each in files if found[each.path] != number} == {each.label for each in files}
    assert found == folds(random.Random(0).sample(files, len(files)), num_folds, seed)


@settings(deadline=None)
@given(st.lists(st.integers(5, 40), min_size=2, max_size=5), st.integers(2, 5), st.integers(0, 9))
def test_without_groups_every_fold_has_every_class_within_one_picture(
    sizes: list[int], num_folds: int, seed: int
) -> None:
    files = [file(f"c{label}/{number}.jpg") for label, size in enumerate(sizes) for number in range(size)]
    found = folds(files, num_folds, seed)
    for label, size in enumerate(sizes):
        counts = Counter(found[f"c{label}/{number}.jpg"] for number in range(size))
        assert max(counts.values()) - min(counts.values()) <= 1 and len(counts) == num_folds


@pytest.mark.parametrize("size", [2, 5, 10])
def test_groups_of_one_size_are_held_out_and_folded_as_stratified_as_single_pictures(size: int) -> None:
    files = [file(f"{label}/{n}.jpg", f"{label} {n // size}") for label in ("cat", "dog") for n in range(100)]
    held = Counter(each.label for each in held_out(files, 0.2, 0))
    assert held == {"cat": 20, "dog": 20}
    found = folds(files, 5, 0)
    assert set(Counter((found[each.path], each.label) for each in files).values()) == {20}


def test_a_share_is_met_by_large_groups_where_small_ones_do_not_do() -> None:
    sizes = [1, 30, 30, 30, 30]
    files = [
        file(f"{c}/{g}-{n}.jpg", f"{c} {g}")
        for c in ("cat", "dog")
        for g, size in enumerate(sizes)
        for n in range(size)
    ]
    for seed in range(5):
        assert all(30 <= count <= 31 for count in Counter(each.label for each in held_out(files, 0.2, seed)).values())


ONE = [file(f"cat/{n}.jpg", "tom") for n in range(4)] + [file(f"dog/{n}.jpg", f"rex {n}") for n in range(4)]
LOCKED = [file(f"{c}/{g}.jpg", g) for c, g in ("ax", "ay", "by", "bz", "cz", "cx")]


def test_a_class_that_lies_in_one_group_only_is_an_error_that_says_so() -> None:
    with pytest.raises(InputError, match="two or more groups of class cat to hold one out, found 1"):
        held_out(ONE, 0.2, 0)
    with pytest.raises(InputError, match="two or more groups of class cat to cross-validate"):
        folds(ONE, 2, 0)
    with pytest.raises(InputError, match="at least 6 groups for 6 folds, found 5"):
        folds(ONE, 6, 0)
    with pytest.raises(InputError, match="every class on both sides, found none for class"):
        held_out(LOCKED, 0.2, 0)


def put(root: Path, *names: str) -> str:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}")
    return str(root)


NAMES = [
    f"train/{c}/{who}_{n}.jpg"
    for c, who in (("cat", "tom"), ("cat", "kit"), ("dog", "rex"), ("dog", "ace"))
    for n in range(2)
]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (r"([a-z]+)_\d", {"tom": 2, "kit": 2, "rex": 2, "ace": 2}),
        (r"[a-z]+_", {"tom_": 2, "kit_": 2, "rex_": 2, "ace_": 2}),
        (r"(tom|kit)?_0", {"tom": 1, "kit": 1, None: 6}),
        (r"^train/(\w+)/", {"cat": 4, "dog": 4}),
        (r"(?P<who>t..)_", {"tom": 2, None: 6}),
    ],
)
def test_a_group_is_what_the_first_parenthesis_or_all_of_an_expression_finds(
    expression: str, expected: dict[str | None, int], tmp_path: Path
) -> None:
    listing = read(put(tmp_path, *NAMES), groups=expression)
    assert Counter(each.group for each in listing.files) == expected
    alone = expected.get(None, 0)
    assert any(f"{alone} pictures are in no group" in remark for remark in listing.remarks) == bool(alone)


@pytest.mark.parametrize(
    "table",
    [
        "path,group\n{0},a\n{1},a\n{2},b\n",
        "group;path\na;{0}\na;{1}\nb;{2}\n",
        "{0}\ta\n{1}\ta\n{2}\tb\n",
        "when,file,group\n1,tom_0,a\n2,tom_1.jpg,a\n3,cat/kit_0.jpg,b\n4,dog/rex_0.jpg,\n5,gone.jpg,c\n",
    ],
)
def test_groups_may_come_from_a_table(table: str, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text(table.format(*NAMES))
    listing = read(put(tmp_path / "data", *NAMES), groups=str(tmp_path / "groups.csv"))
    assert {each.path: each.group for each in listing.files if each.group} == dict(zip(NAMES, "aab", strict=False))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("path,group\n{0},a\n{0},b\n", "one group of .*tom_0.jpg in .*, found a and b"),
        ("path,x,y\n{0},a,b\n", "found 2: name the true one group"),
        ("path,group\nnowhere.jpg,a\n", "expected groups of the pictures by .*, found none, as of train/cat/kit_0.jpg"),
    ],
)
def test_a_table_that_gives_no_groups_is_refused(table: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text(table.format(*NAMES))
    with pytest.raises(InputError, match=says):
        read(put(tmp_path / "data", *NAMES), groups=str(tmp_path / "groups.csv"))


def test_groups_on_both_sides_of_a_given_split_are_said_and_found(tmp_path: Path) -> None:
    leaks = ["val/cat/tom_7.jpg", "val/cat/tom_8.jpg", "test/dog/ace_9.jpg"]
    data = put(tmp_path, *NAMES, *leaks, "val/cat/new_0.jpg", "val/dog/new_1.jpg", "test/dog/own_0.jpg")
    listing = read(data, groups=r"(\w+)_\d")
    found = groups.finding(listing.files)
    assert found is not None and found.kind == "group_in_two_splits"
    assert sorted(suspect.path for suspect in found.suspects) == sorted(leaks)
    assert {suspect.path: suspect.beside for suspect in found.suspects}["val/cat/tom_7.jpg"] == ("train/cat/tom_0.jpg",)
    assert found.what.startswith("3 pictures of val/ and test/") and "val_accuracy and the accuracy" in found.what
    whole = [dataclasses.replace(each, group=None) for each in listing.files]
    assert groups.finding(whole) is None and groups.finding([f for f in listing.files if f.path not in leaks]) is None
