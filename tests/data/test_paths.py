"""The rule of names, for columns of paths: it says what the rule for one name says."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlearn.data.listing import picked
from tlearn.data.names import LITTER, SUFFIXES, Ignored, is_entered
from tlearn.data.paths import Pictures, odd
from tlearn.storage import Entry


def judged(*tables: list[str]) -> tuple[list[str], Ignored]:
    ignored = Ignored()
    pictures, found = Pictures(ignored), list[str]()
    for paths in tables:
        column = pa.array(paths, pa.string())
        found += column.filter(pictures.among(column, odd(column))).to_pylist()
    return found, ignored


def listed(paths: list[str]) -> tuple[list[str], Ignored]:
    """As a store's listing gives these keys."""
    entries: dict[tuple[str, str], Entry] = {}
    for number, path in enumerate(paths):
        *folders, _ = path.split("/")
        closed = next((depth for depth, name in enumerate(folders, 1) if not is_entered(name)), None)
        if closed is not None:
            folder = "/".join(folders[:closed])
            entries[folder, "folder"] = Entry(folder, 0, 0, "folder")
        elif not path.endswith("/"):
            entries[str(number), "file"] = Entry(path, 0, 0)
    ignored = Ignored()
    return [entry.path for entry in picked(entries.values(), ignored)], ignored


LEFT = [pattern.replace("[0-9]", "7").replace("*", "x") for pattern in LITTER]
NAMES = st.one_of(
    st.sampled_from([*LEFT, *map(str.upper, LEFT), *(name + "x" for name in LEFT), *("x" + name for name in LEFT)]),
    st.sampled_from(
        ["a", "b c", "ü", "日本", ".hidden", ".", "..", "...", "a.", "-", "_a", "(1)", "x\ny", "a%FFb", "İ"]
    ),
    st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=6),
)
SUFFIX = st.sampled_from(["", ".", ".txt", ".TXT", ".jpg.txt", ".jpgx", ".x", *SUFFIXES, *map(str.upper, SUFFIXES)])
PATHS = st.tuples(st.lists(NAMES, max_size=3), NAMES, SUFFIX).map(
    lambda parts: "/".join([*parts[0], parts[1] + parts[2]])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PATHS, max_size=20), st.integers(0, 20))
def test_many_paths_are_judged_as_one_is(paths: list[str], cut: int) -> None:
    found, ignored = judged(paths[:cut], paths[cut:])
    expected, left_out = listed(paths)
    assert sorted(found) == sorted(expected)
    assert ignored == left_out


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "b", "c/d.PNG", "__x/e.jpg"], {}),
        (["a.txt", "b/c.TXT", "d."], {".txt": 2, ".": 1}),
        (["Thumbs.db", "x/@eaDir/a.jpg", "x/@eaDir/b.jpg", "y/@eaDir/c/d.jpg"], {"Thumbs.db": 1, "@eaDir/": 2}),
        ([".jpg", ".git/b.jpg", "c/.d"], {".jpg": 1, ".git/": 1, ".d": 1}),
        (["folder/", ""], {}),
    ],
)
def test_what_is_no_picture_is_counted_by_its_kind(paths: list[str], names: dict[str, int]) -> None:
    assert dict(judged(paths)[1].names) == names
