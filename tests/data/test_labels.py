"""Classes, splits and decisions that come from a table beside the pictures, in whatever form a person has them."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tlearn.data.listing import hold_out, read
from tlearn.data.manifest import Listing
from tlearn.errors import InputError

FLAT = [f"{number}.jpg" for number in range(6)]
CLASSES = {"0.jpg": "cat", "1.jpg": "dog", "2.jpg": "cat", "3.jpg": "dog"}


def put(folder: Path, names: Sequence[str]) -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return str(folder)


def labels(listing: Listing) -> dict[str, str]:
    return {file.path: file.label for file in listing.files}


def listed(tmp_path: Path, table: str | bytes, names: Sequence[str] = FLAT, what: str = "labels") -> Listing:
    file = tmp_path / f"{what}.csv"
    file.write_bytes(table if isinstance(table, bytes) else table.encode())
    return read(put(tmp_path / "data", names), **{what: str(file)})  # type: ignore[arg-type]


FORMS = {
    "ids, as Kaggle has them": "id,label\n0,cat\n1,dog\n2,cat\n3,dog\n",
    "names, with a word of their own": "image,breed\n0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n3.jpg,dog\n",
    "no header": "0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n3.jpg,dog\n",
    "no header, first picture not there": "9.jpg,cat\n0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n3.jpg,dog\n",
    "TSV": "file\tclass\n0.jpg\tcat\n1.jpg\tdog\n2.jpg\tcat\n3.jpg\tdog\n",
    "semicolons, BOM, CRLF, blanks": "\ufeffclass; file\r\ncat; 0.jpg\r\ndog ;1.jpg\r\n\r\ncat;2.jpg\r\ndog;3.jpg",
    "paths that begin elsewhere": "path,label\ndata/0.jpg,cat\n/x/y/1.jpg,dog\n.\\2.jpg,cat\n./3.jpg,dog\n",
    "an index before, as pandas writes it": ",id,label\n0,0,cat\n1,1,dog\n2,2,cat\n3,3,dog\n",
    "other columns": "when,label,file\n2020,cat,0.jpg\n2021,dog,1.jpg\n2021,cat,2.jpg\n2020,dog,3.jpg\n",
    "quoted": '"file","label"\n"0.jpg","cat"\n"1.jpg","dog"\n"2.jpg","cat"\n"3.jpg","dog"\n',
    "one twice, one empty": "id,label\n0,cat\n0,cat\n1,dog\n2,cat\n3,dog\n4,\n",
}


@pytest.mark.parametrize("table", FORMS.values(), ids=FORMS)
def test_flat_pictures_have_the_classes_of_a_table_in_any_form(table: str, tmp_path: Path) -> None:
    listing = listed(tmp_path, table)
    assert labels(listing) == CLASSES and listing.classes.names == ("cat", "dog")
    assert {file.split for file in hold_out(listing, 0.5, 0).files} == {"train", "val"}
    assert any("2 pictures have no class" in remark and "4.jpg, 5.jpg" in remark for remark in listing.remarks)


def test_classes_may_be_numbers_of_a_parquet_file_and_names_need_not_be_unique(tmp_path: Path) -> None:
    names = ["a/0.png", "b/0.png", "a/1.png", "a/2.png", "b/2.png"]
    table = pa.table({"file": ["a/0.png", "b/0", "1", "a/2", "b/2"], "label": [1.0, 0.0, None, 0.0, 1.0]})
    pq.write_table(table, tmp_path / "labels.parquet")
    listing = read(put(tmp_path / "data", names), labels=str(tmp_path / "labels.parquet"))
    assert labels(listing) == {"a/0.png": "1", "b/0.png": "0", "a/2.png": "0", "b/2.png": "1"}


@pytest.mark.parametrize(
    "table",
    [
        "file,label,split\n0,cat,train\n1,dog,train\n2,cat,val\n3,dog,test\n",
        "file,label,phase\n0,cat,training\n1,dog,Train\n2,cat,VALID\n3,dog,testing\n",
        "train,0,cat\ntrain,1,dog\nvalidation,2,cat\ntest,3,dog\n",
    ],
)
def test_a_table_may_say_the_split(table: str, tmp_path: Path) -> None:
    listing = listed(tmp_path, table)
    splits = {split: [file.path for file in listing.of(split)] for split in ("train", "val", "test")}
    assert splits == {"train": ["0.jpg", "1.jpg"], "val": ["2.jpg"], "test": ["3.jpg"]}
    assert hold_out(listing, 0.5, 0) is listing


def test_folders_of_splits_stay_splits_and_their_class_folders_say_nothing(tmp_path: Path) -> None:
    names = ["train/x/0.jpg", "train/x/1.jpg", "val/y/2.jpg", "test/3.jpg", "test/4.jpg", "extra/5.jpg"]
    listing = listed(tmp_path, "x/0.jpg,cat\ntrain/x/1.jpg,dog\n2,dog\n3,fox\n", names)
    assert labels(listing) == {"train/x/0.jpg": "cat", "train/x/1.jpg": "dog", "val/y/2.jpg": "dog"}
    assert [file.path for file in listing.unlabelled] == ["test/3.jpg", "test/4.jpg"]
    assert "labels of test/ that are no class of train/: fox" in listing.remarks


def test_flat_pictures_may_have_folders_for_val_and_test_beside_them(tmp_path: Path) -> None:
    names = ["0.jpg", "1.jpg", "more/2.jpg", "val/3.jpg", "Test/4.jpg", "Test/5.jpg"]
    listing = listed(tmp_path, "0,cat\n1,dog\n2,cat\n3,dog\n4,dog\n", names)
    splits = {split: [file.path for file in listing.of(split)] for split in ("train", "val", "test")}
    assert splits == {"train": names[:3], "val": names[3:4], "test": names[4:5]}


def test_a_path_elsewhere_is_no_picture_that_has_a_line_of_its_own(tmp_path: Path) -> None:
    classes = {"a/1.jpg": "cat", "a/2.jpg": "dog", "a/3.jpg": "cat", "a/4.jpg": "dog"}
    table = "file,label\nb/1.jpg,dog\n" + "".join(f"{path},{label}\n" for path, label in classes.items())
    listing = listed(tmp_path, table, [*classes])
    assert labels(listing) == classes
    assert any("1 lines of" in remark and "(b/1.jpg)" in remark for remark in listing.remarks)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("id,label\n7,cat\n8,dog\n", "found no line with both, as line 2: 7,cat"),
        ("id,label\n0,\n1,\n", "found no line with both"),
        ("id,label\n0,cat\n0.jpg,dog\n", "expected one class of 0.jpg in .*, found cat and dog"),
        ("id,label\n0,cat\n1,cat\n", r"at least two classes of pictures to train on in .*, found 1 \(cat\)"),
        ("id,size,breed\n0,3,cat\n1,4,dog\n", r"found 2 \(columns 2, 3\): name the true one label"),
        ("id,label,split\n0,cat,train\n1,dog,dev\n", "expected train, val or test as split in .*, found dev"),
        (
            "id,label,split\n0,cat,train\n0,cat,val\n1,dog,train\n",
            "expected one split of 0.jpg in .*, found train and val",
        ),
        ("id,label,split\n0,cat,train\n1,dog,train\n2,fox,val\n", "found also fox: add these to train/"),
        ("id,label\n0,cat\n1,dog\n", "two or more different images of class cat to hold one out, found 1"),
        ("id\n0\n1\n", "expected 2 columns"),
        ("", "found none"),
        (b"\xff\xfe0,cat", "save it as UTF-8"),
    ],
)
def test_a_table_that_cannot_be_trained_by_is_refused_in_one_line(
    table: str | bytes, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        listed(tmp_path, table)
    assert "\n" not in str(caught.value)


FOLDERS = [f"{split}/{name}/{n}.jpg" for split in ("train", "val") for name in ("cat", "dog") for n in range(3)]


@pytest.mark.parametrize(
    ("table", "gone", "changed"),
    [
        ("path\ntrain/cat/0.jpg\nval/dog/1.jpg\n", {"train/cat/0.jpg", "val/dog/1.jpg"}, {}),
        ("train/cat/0.jpg\n", {"train/cat/0.jpg"}, {}),
        (
            "path,finding,suggestion,sure,beside\ntrain/cat/0.jpg,exact_duplicates,exclude,1.0,val/cat/0.jpg\n"
            "train/cat/1.jpg,wrong_label,relabel:dog,0.9,\ntrain/cat/2.jpg,dark,look,0.5,\nval/dog/0.jpg,dark,,1,\n",
            {"train/cat/0.jpg"},
            {"train/cat/1.jpg": "dog"},
        ),
        ("beside,path\nval/cat/0.jpg,train/cat/0.jpg\nval/cat/0.jpg,train/dog/0.jpg\n",
         {"train/cat/0.jpg", "train/dog/0.jpg"}, {}),
        ("path,suggestion\n" + "".join(f"train/dog/{n}.jpg,relabel:dog\n" for n in range(3)), set(), {}),
        # As the doctor writes it: several lines of one picture, of which those that only say look undo nothing.
        ("path,suggestion\ntrain/cat/0.jpg,exclude\ntrain/cat/0.jpg,look\ntrain/cat/0.jpg,relabel:dog\n"
         "train/cat/1.jpg,relabel:dog\ntrain/cat/1.jpg,look\n", {"train/cat/0.jpg"}, {"train/cat/1.jpg": "dog"}),
        ("path,suggestion\ntrain/cat/0.jpg, EXCLUDE \ntrain/cat/1.jpg,Relabel: dog\n",
         {"train/cat/0.jpg"}, {"train/cat/1.jpg": "dog"}),
    ],
)  # fmt: skip
def test_decisions_on_single_pictures_are_carried_out_and_counted(
    table: str, gone: set[str], changed: dict[str, str], tmp_path: Path
) -> None:
    listing = listed(tmp_path, table, FOLDERS, "exclude")
    expected = {path: path.split("/")[1] for path in FOLDERS if path not in gone} | changed
    assert labels(listing) == expected
    assert (listing.excluded, listing.relabelled) == (len(gone), len(changed))
    said = f"leaves out {len(gone)} of {len(FOLDERS)} pictures, and corrects {len(changed)}"
    assert any(said in each for each in listing.remarks)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("train/cat/0.jpg,delete\n", "exclude, look or relabel:CLASS for train/cat/0.jpg in .*, found delete"),
        (
            "val/cat/0.jpg,relabel:dog\nval/cat/0.jpg,relabel:cat\n",
            "one class of val/cat/0.jpg in .*, found dog and cat",
        ),
        ("".join(f"{path},exclude\n" for path in FOLDERS), "does not leave out, found none"),
    ],
)
def test_decisions_that_cannot_be_carried_out_are_refused(lines: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        listed(tmp_path, "path,suggestion\n" + lines, FOLDERS, "exclude")


def test_a_picture_to_leave_out_may_be_named_by_its_whole_path(tmp_path: Path) -> None:
    data = listed(tmp_path, "path\ntrain/cat/0.jpg\n", FOLDERS, "exclude")
    assert data.excluded == 1
    folder = next(path for path in tmp_path.rglob("train")).parent
    assert listed(tmp_path, f"path\n{folder}/train/cat/0.jpg\n", FOLDERS, "exclude").excluded == 1


def test_a_decision_on_a_picture_that_has_gone_is_a_note_and_meets_no_other(tmp_path: Path) -> None:
    left = [name for name in FOLDERS if name != "train/cat/0.jpg"]
    listing = listed(tmp_path, "path\ntrain/cat/0.jpg\nnowhere.jpg\n", left, "exclude")
    assert labels(listing).keys() == set(left) and listing.excluded == 0
    assert any("2 lines of" in remark and "nowhere.jpg" in remark for remark in listing.remarks)


def test_a_class_may_be_left_out_whole_and_a_new_one_is_refused(tmp_path: Path) -> None:
    names = [*FOLDERS, "train/fox/0.jpg"]
    assert listed(tmp_path, "path\nfox/0.jpg\n", names, "exclude").classes.names == ("cat", "dog")
    with pytest.raises(InputError, match=r"a class of train/ \(cat, dog, fox\) after relabel: .*, found wolf for"):
        listed(tmp_path, "path,suggestion\ntrain/cat/0.jpg,relabel:wolf\n", names, "exclude")
