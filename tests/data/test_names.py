"""What a name says: a picture, litter of a system, something else; and what is said of what is left out."""

import pytest

from tlearn.data.names import Ignored, is_entered, is_picture, litter
from tlearn.errors import printable, some
from tlearn.storage import Entry

LITTER = [
    "._cat.jpg", "._", ".DS_Store", "Icon\r", "Thumbs.db", "THUMBS.DB", "desktop.ini", "cat.jpg:Zone.Identifier",
    "_SUCCESS", "images_$folder$", "_committed_123", ".nfs0000a1", ".fuse_hidden1", "cat.jpg@SynoEAStream", "~$cat.jpg",
]  # fmt: skip
FOLDERS = [
    "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "lost+found",
    ".Trash-1000", ".Trashes", ".git", ".ipynb_checkpoints", ".@__thumb", "_temporary", "found.000", "@Recycle",
]  # fmt: skip
CLASSES = [
    "cat",
    "recycled",
    "_x",
    "$5",
    "#1",
    "@home",
    "lost",
    "found",
    "found.it",
    "temporary",
    "..",
    ".",
    "Ünï",
    "~",
]


@pytest.mark.parametrize("name", [*LITTER, *FOLDERS])
def test_what_a_system_leaves_behind_is_no_picture_and_no_class(name: str) -> None:
    assert not is_picture(name) and not is_picture(f"a/{name}") and not is_entered(name)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_may_have_a_name_much_like_that(name: str) -> None:
    assert is_entered(name) and litter(name) is None


@pytest.mark.parametrize("name", ["a.ppm", "a.PGM", "a.pbm", "a.pnm", "a.JPG", "a", "_a.jpg", ".a.jpg", "cat._.jpg"])
def test_a_picture_is_known_by_its_suffix_or_has_none(name: str) -> None:
    assert is_picture(name)


@pytest.mark.parametrize("name", ["a.jpg:large", "a.jpg.1", "a.jpg?w=200", "a.jpg~", "a.jpg.json", "a.jpg_large", ".a"])
def test_a_name_that_goes_on_after_the_suffix_is_said_as_ignored(name: str) -> None:
    ignored = Ignored()
    ignored.add(Entry(f"x/{name}", 1, 1))
    assert not is_picture(name)
    (remark,) = ignored.remarks()
    assert name.removeprefix("a.jpg") in remark and remark.endswith(" 1")


def test_what_is_ignored_is_said_in_one_short_line_however_much_it_is() -> None:
    ignored = Ignored()
    for number in range(5000):
        ignored.add(Entry(f"study.{number}", 1, 1))
    for name in ("a.txt", "b.TXT", "Thumbs.db", "x/thumbs.db", "._a.jpg"):
        ignored.add(Entry(name, 1, 1))
    ignored.add(Entry("x/@eaDir", -1, 0, "folder"))
    assert len(ignored.names) < 2000 and ignored.total() == 5006
    (remark,) = ignored.remarks()
    assert len(remark) < 200 and "more" in remark


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b.jpg", "a b.jpg"), ("café", "café"), ("a\nb", r"a\nb"), ("\x1b[31m", r"\x1b[31m"),
        ("a\u202eb", r"a\u202eb"), ("\udc80", r"\udc80"), ("cat ", "'cat '"), ("\tcat", r"\tcat"), ("[red]", "[red]"),
    ],
)  # fmt: skip
def test_a_name_in_a_line_stays_in_its_line(name: str, shown: str) -> None:
    assert printable(name) == shown and shown.isprintable()


def test_a_thousand_names_are_the_first_ones_and_a_number() -> None:
    assert some([f"class {number}" for number in range(1000)], 2) == "class 0, class 1, 998 more"
    assert some(["a", "b"], 2) == "a, b"
