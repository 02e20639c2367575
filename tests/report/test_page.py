"""The page of a run and of a scored folder: what it shows, what it leaves out, what it refuses."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import content
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from content import CLASSES, a_full_run, a_scored_folder
from obstore.store import LocalStore
from PIL import Image

from tlearn.errors import InputError, IntegrityError, TlearnError
from tlearn.report import wall
from tlearn.report.page import write_report, write_scored
from tlearn.report.wall import Picture

VOID = {"meta", "img", "input"}
HOSTILE = "</script><script src=http://evil.test/x.js>\"'&\x07"


class Page(HTMLParser):
    """The elements of a page, its text, and the cells of its tables by the heading before them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.inside: dict[str, list[str]] = {}
        self.heading = self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h2", "h3", "summary"):
            self.heading = ""
        if tag in ("script", "style"):
            self.inside.setdefault(tag, []).append("")
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
            return
        self.text += data
        if {"h2", "h3", "summary"} & set(self.open):
            self.heading += " ".join(data.split())
        if "td" in self.open or "th" in self.open:
            self.tables[self.heading][-1][-1] += data + " "

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    @property
    def data(self) -> dict[str, Any]:
        """What the script works on."""
        found: dict[str, Any] = json.loads(self.inside["script"][0])
        return found

    def cells(self, heading: str) -> list[list[str]]:
        """The rows of a table, white space made single."""
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[heading]]


def a_run(
    folder: Path,
    predictions: list[tuple[str, str, str, float]],
    classes: list[str],
    *,
    epochs: int = 3,
    skipped: list[tuple[str, str, str | None]] | None = None,
    **changes: Any,
) -> Path:
    """What a run leaves that has no pictures.parquet, for predictions of (path, label, prediction, probability)."""
    rows = [dict(zip(("path", "label", "prediction", "probability"), row, strict=True)) for row in predictions]
    summary = content.a_summary(tuple(classes), len(rows), content.quality(rows, tuple(classes)), epochs) | changes
    files = [{"split": "val", "path": path, "class": label, "status": "ok"} for path, label, *_ in predictions]
    for path, status, error in skipped or []:
        files.append({"split": "train", "path": path, "class": classes[0], "status": status, "error": error})
    content.write_run(folder / "run", summary, rows, files, epochs)
    return folder / "run"


def read(run: Path) -> Page:
    return Page(Path(write_report(run)).read_text(encoding="utf-8"))


def scored(folder: Path) -> Page:
    write_scored(str(folder), str(folder / "page.html"))
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def counts(page: Page) -> list[list[int]]:
    """The counts of the confusion matrix."""
    return [[int(cell.split()[0]) for cell in row[1:]] for row in page.cells("Confusion matrix")[1:]]


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every row of a Parquet file."""
    table = pq.read_table(file)
    rows = table.to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)


def update(file: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


CAT_DOG = [
    *[(f"val/cat/{n}.jpg", "cat", "cat", 0.95) for n in range(6)],
    *[(f"val/cat/{n}.jpg", "cat", "dog", 0.65) for n in range(6, 8)],
    ("val/dog/0.jpg", "dog", "cat", 0.85),
    *[(f"val/dog/{n}.jpg", "dog", "dog", 0.75) for n in range(1, 4)],
]
PARTS = [
    "Learning curves", "Confusion matrix", "Classes", "ROC and precision", "Reliability", "Threshold", "Pictures",
    "What the layers respond to", "Findings in the data", "Where it is weakest", "Cross-validation", "Data",
    "What was run",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path, CAT_DOG, ["cat", "dog"], skipped=[("train/x.jpg", "unreadable", "cut")])


def headings(page: Page) -> list[str]:
    return [part for part in PARTS if f">{part}</h2>" in re.sub(r"\s+", " ", page.source)]


def test_a_run_with_every_file_has_every_part(tmp_path: Path) -> None:
    page = read(a_full_run(tmp_path, CLASSES))
    assert headings(page) == PARTS
    assert len(page.data["wall"]["path"]) == 180 and len(page.data["curves"]) == 4
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links <= {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}


def test_a_run_without_what_may_be_absent_has_the_other_parts(run: Path) -> None:
    page = read(run)
    absent = {"What the layers respond to", "Findings in the data", "Cross-validation"}
    assert headings(page) == [part for part in PARTS if part not in absent]
    assert "largest class" not in page.text and "Test accuracy" not in page.text


@pytest.mark.parametrize("name", ["layers.parquet", "findings.json", "pictures.parquet"])
def test_each_file_that_may_be_absent_may_be_absent_alone(tmp_path: Path, name: str) -> None:
    run = a_full_run(tmp_path, CLASSES[:2], 20)
    (run / name).unlink()
    assert len(headings(read(run))) >= len(PARTS) - 1


@pytest.mark.parametrize(
    "name",
    [
        "probabilities", "raw", "width", "brightness", "sharpness", "typicality", "nearest", "cluster", "attention",
        "attention_rows", "thumbnail", "format", "label", "prediction", "probability",
    ],
)  # fmt: skip
def test_a_value_that_is_not_known_is_left_out(tmp_path: Path, name: str) -> None:
    run = a_full_run(tmp_path, CLASSES[:2], 20)
    rewrite(run / "pictures.parquet", lambda row: row.update({name: None}))
    assert len(read(run).data["wall"]["path"]) == 55


def test_an_older_run_has_a_page(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "before" / "run", tmp_path / "run")
    page = read(tmp_path / "run")
    assert len(page.data["wall"]["path"]) == 6
    assert "Of 6 validation pictures 5 are right" in page.words


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    run = a_full_run(tmp_path, CLASSES, 40)
    first = Path(write_report(run)).read_bytes()
    assert Path(write_report(run)).read_bytes() == first


def test_a_run_on_an_object_store_has_the_page_of_the_same_run_here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(write_report(run)).read_bytes()
    (run / "report.html").unlink()
    bucket = LocalStore(run.parent)
    monkeypatch.setattr("tlearn.storage.stores._store", lambda scheme, name: bucket)
    assert write_report("s3://bucket/run") == "s3://bucket/run/report.html"
    assert (run / "report.html").read_bytes() == here
    (run / "validation.parquet").unlink()
    with pytest.raises(InputError, match=r"a finished run in s3://bucket/run, found no validation\.parquet"):
        write_report("s3://bucket/run")


def named(folder: Path, name: str) -> list[Page]:
    """Pages on which every text that is not ours is the same one."""
    run = a_full_run(folder, (name, "dog"), 20)
    rewrite(run / "pictures.parquet", lambda row: row.update(path=f"{name} {row['path']}", format=name, status=name))
    rewrite(run / "manifest.parquet", lambda row: row.update(path=name, status=name, error=name, split="train"))
    rewrite(run / "layers.parquet", lambda row: row.update(path=name))
    suspect = {"path": name, "suggestion": name, "score": 1, "beside": [name]}
    finding = {"kind": "blank", "what": name, "advice": name, "suspects": [suspect]}
    (run / "findings.json").write_text(json.dumps({"findings": [finding]}))
    update(run / "summary.json", recipe=name, model_digest=name, remarks=[name])
    update(run / "config.json", command=name, requested={"recipe": "frozen", "weights": name})
    folder = a_scored_folder(folder, (name, "dog"), is_labelled=True)
    update(folder / "scored.json", remarks=[name], output=name, model=name, statuses={name: 3})
    update(folder / "drift.json", sentence=name)
    return [read(run), scored(folder)]


@pytest.mark.parametrize("name", [HOSTILE, "<!--", "&amp;' onerror='x {{ 7 * 7 }}\u202e\u2028"])
def test_names_are_only_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "plain").mkdir()
    shown = name.replace("\x07", "\ufffd")
    for hostile, plain in zip(named(tmp_path / "hostile", name), named(tmp_path / "plain", "cat"), strict=True):
        assert not hostile.open
        assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
        keys = [[sorted(attributes) for _, attributes in page.elements] for page in (hostile, plain)]
        assert keys[0] == keys[1]
        assert name in hostile.data["wall"]["classes"]  # JSON holds it as it is; the script makes text of it
        assert hostile.text.count(shown) >= 5


@pytest.mark.parametrize("is_scored", [False, True])
def test_only_our_own_style_and_script_may_run_and_nothing_may_be_loaded(tmp_path: Path, is_scored: bool) -> None:
    if is_scored:
        page = scored(a_scored_folder(tmp_path, CLASSES, is_labelled=False))
    else:
        page = read(a_full_run(tmp_path, CLASSES, 20))
    (policy,) = [of["content"] or "" for _, of in page.elements if of.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, text in (("style", page.inside["style"][0]), ("script", page.inside["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert len(page.inside["style"]) == 1 and len(page.inside["script"]) == 2
    names = {name for _, attributes in page.elements for name in attributes}
    assert "style" not in names and not any(name.startswith("on") for name in names)
    script = page.inside["script"][1].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write|https?:", script)


def test_figures_of_a_hand_computed_example_appear(run: Path) -> None:
    page = read(run)
    assert counts(page) == [[6, 2], [1, 3]]
    assert page.cells("Confusion matrix")[1] == ["cat", "6 75.0%", "2 25.0%"]
    assert "Of 12 validation pictures 9 are right: 75.0%." in page.words
    # Wilson's interval of 9 of 12.
    assert "lies between 46.8% and 91.1%" in page.words
    assert page.cells("Classes")[1][:2] == ["cat", "8"]
    assert page.cells("Classes")[1][2].startswith("85.7%") and page.cells("Classes")[1][3].startswith("75.0%")
    (heading,) = (name for name in page.tables if name.endswith(" settings"))
    settings = dict(page.cells(heading)[1:])
    assert (settings["optim.lr"], settings["versions.torch"]) == ("0.0001", "2.15.0")
    assert settings["command"] == "tlearn train --x"
    assert page.cells("What was run")[1:] == [["seed", "7", "0"]]
    assert "0.3333 0.4321 before calibration" in page.words
    kept = {at: (n, right) for at, n, right, *_ in page.data["thresholds"]}
    assert (kept[0.5], kept[0.7], kept[0.8]) == ((12, 9), (10, 9), (7, 6))


@pytest.mark.parametrize("right", [0, 1])
def test_the_interval_says_more_than_a_standard_error_of_zero(tmp_path: Path, right: int) -> None:
    rows = [(f"{n}.jpg", "cat", "cat" if right else "dog", 0.9) for n in range(10)]
    page = read(a_run(tmp_path, rows, ["cat", "dog"]))
    # Wilson's interval of 10 of 10 begins at 1 / (1 + 1.96 ** 2 / 10).
    assert ("between 72.2% and 100.0%" if right else "between 0.0% and 27.8%") in page.words


def test_the_result_stands_beside_the_baselines_and_the_test(tmp_path: Path) -> None:
    page = read(a_full_run(tmp_path, CLASSES))
    assert "Always saying the largest class would give 25.0%, a linear probe on the same features 85.0%." in page.words
    assert "Test accuracy:" in page.words and "of 30 pictures on which nothing was chosen" in page.words
    assert "Note: the validation loss rose after epoch 9" in page.words
    assert len(page.cells("Test")) == 5
    assert "90.0% ± 2.0% over folds" in page.words and len(page.cells("Cross-validation")) == 4


def test_the_confusion_matrix_of_three_classes_sums_to_n(tmp_path: Path) -> None:
    classes = ["a", "b", "c"]
    rows = [(f"val/{n}.jpg", classes[n % 3], classes[n * n % 3], 0.4) for n in range(31)]
    page = read(a_run(tmp_path, rows, classes))
    assert [len(row) for row in counts(page)] == [3, 3, 3]
    assert sum(map(sum, counts(page))) == 31


def test_of_very_many_classes_the_pairs_that_are_confused_are_shown(tmp_path: Path) -> None:
    classes = [f"class {n:03}" for n in range(200)]
    rows = [(f"val/{name}.jpg", name, classes[0], 0.4) for name in classes]
    run = a_run(tmp_path, rows, classes)
    page = read(run)
    assert "Confusion matrix" not in page.tables and "class 001 taken for class 000: 1" in page.words
    assert len(page.cells("Classes")) == 201
    assert (run / "report.html").stat().st_size < 1_500_000


@pytest.mark.parametrize(
    "name", ["config.json", "summary.json", "metrics.jsonl", "manifest.parquet", "validation.parquet"]
)
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"expected a finished run in .*, found no {name}: run `tlearn train`"):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", b"{"), ("summary.json", b"{}"), ("summary.json", b"[]"), ("config.json", b"{}"),
        ("metrics.jsonl", b""), ("metrics.jsonl", b"{"), ("validation.parquet", b"PAR1"), ("manifest.parquet", b""),
        ("pictures.parquet", b"PAR1"), ("layers.parquet", b""), ("findings.json", b"{}"), ("findings.json", b"[]"),
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_or_of_another_version_is_said_in_one_line(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(IntegrityError, match="expected what this version of tlearn leaves") as caught:
        write_report(run)
    assert str(run) in str(caught.value) and "\n" not in str(caught.value)


def test_only_pictures_of_the_data_folder_are_shown(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "outside.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "data" / "caf\u00e9 1.png")
    (tmp_path / "data" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    paths = ["../outside.png", "%2e%2e/outside.png", str(tmp_path / "outside.png"), "broken.png", "a\0.png"]
    rows = [(path, "cat", "dog", 0.9) for path in [*paths, "caf%C3%A9 1.png"]]
    wall = read(a_run(tmp_path, rows, ["cat", "dog"])).data["wall"]
    assert [path for path, image in zip(wall["path"], wall["thumbnail"], strict=True) if image] == ["caf%C3%A9 1.png"]


def test_what_is_no_picture_is_not_shown_as_one(tmp_path: Path) -> None:
    run = a_full_run(tmp_path, CLASSES[:2], 20)
    rewrite(run / "pictures.parquet", lambda row: row.update(thumbnail=b"<svg onload=x>"))
    assert set(read(run).data["wall"]["thumbnail"]) == {None}


def test_the_skipped_files_end_at_fifty(tmp_path: Path) -> None:
    skipped: list[tuple[str, str, str | None]] = [(f"train/{n}.jpg", "unreadable", "cut") for n in range(53)]
    page = read(a_run(tmp_path, CAT_DOG, ["cat", "dog"], skipped=skipped))
    assert len(page.cells("Skipped files")) == 51
    assert "and 3 more" in page.text


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_every_epoch_is_in_the_curves(tmp_path: Path, epochs: int) -> None:
    page = read(a_run(tmp_path, CAT_DOG, ["cat", "dog"], epochs=epochs))
    lines = [of["d"] or "" for tag, of in page.elements if of.get("class") in ("line training", "line validation")][:4]
    assert [line.count(",") for line in lines] == [epochs] * 4
    positions = [tuple(map(float, point.split(","))) for line in lines for point in line[1:].split("L")]
    assert all(44 <= x <= 348 and 14 <= y <= 196 for x, y in positions)


def test_a_run_that_diverged_has_a_report(tmp_path: Path) -> None:
    rows = [(path, label, prediction, float("nan")) for path, label, prediction, _ in CAT_DOG]
    run = a_run(tmp_path, rows, ["cat", "dog"], val_loss=float("nan"))
    (run / "metrics.jsonl").write_text(
        '{"epoch": 1, "train_loss": NaN, "val_loss": Infinity, "train_accuracy": 0.5, "val_accuracy": 0.5}\n'
    )
    page = read(run)
    assert not any("nan" in (value or "") for _, attributes in page.elements for value in attributes.values())
    assert "n/a" in page.text and page.data["wall"]["probability"] == [None] * 12
    assert counts(page) == [[6, 2], [1, 3]]


def test_labels_that_are_probably_wrong_come_first_where_the_neighbours_agree(tmp_path: Path) -> None:
    run = a_full_run(tmp_path, CLASSES[:2], 20)
    (run / "findings.json").unlink()

    def near(label: str) -> list[dict[str, Any]]:
        return [{"path": f"{n}", "label": label, "similarity": 0.9} for n in range(3)]

    def change(row: dict[str, Any]) -> None:
        row |= {
            "label": "disc",
            "prediction": "bar",
            "probabilities": [("disc", 0.1), ("bar", 0.9)],
            "probability": 0.9,
        }
        row["nearest"] = near("bar" if row["path"] == "val/disc/0002.jpg" else "disc")
        if row["path"].startswith("train"):
            row["prediction"] = None

    rewrite(run / "pictures.parquet", change)
    wall = read(run).data["wall"]
    doubts = dict(zip(wall["path"], wall["doubt"], strict=True))
    assert doubts["val/disc/0002.jpg"] == 800 and doubts["val/disc/0004.jpg"] == 200
    assert doubts["train/disc/0000.jpg"] == 0


def test_what_the_doctor_found_is_there_with_its_pictures(tmp_path: Path) -> None:
    page = read(a_full_run(tmp_path, CLASSES))
    groups = {group["name"]: group["members"] for group in page.data["groups"] if group["kind"] == "finding"}
    paths = page.data["wall"]["path"]
    assert [paths[n] for n in groups["exact duplicates"]] == ["val/disc/0000.jpg", "train/disc/0000.jpg"]
    wrong = {paths[n] for n in groups["wrong label"]}
    doubts = dict(zip(paths, page.data["wall"]["doubt"], strict=True))
    assert wrong and min(doubts[path] for path in wrong) > max(doubts[path] for path in set(paths) - wrong)
    assert "1 file is in validation and in training" in page.words and "exclude, sure to 100.0%" in page.words


def test_the_weakest_slice_is_named_and_shown(tmp_path: Path) -> None:
    run = a_full_run(tmp_path, CLASSES[:2], 200)
    page = read(run)
    assert page.cells("Where it is weakest")[1][0] == "dark"
    (dark,) = [group for group in page.data["groups"] if group["name"] == "dark"]
    assert len(dark["members"]) == int(page.cells("Where it is weakest")[1][1])
    rewrite(run / "pictures.parquet", lambda row: row.update(prediction=row["label"]))
    assert "No slice differs from the whole beyond chance." in read(run).words


def test_a_scored_folder_without_truth_shows_what_needs_none(tmp_path: Path) -> None:
    page = scored(a_scored_folder(tmp_path, CLASSES, is_labelled=False))
    assert headings(page) == ["Threshold", "Pictures", "Data", "What was run"]
    assert "120 of 123 files have a prediction" in page.words and "Drift" in page.words
    (drift,) = page.data["groups"]
    assert drift["kind"] == "drift" and len(drift["members"]) == 20
    assert "uncertain" in page.data["wall"]["status"]
    assert not page.data["has_truth"]


def test_a_scored_folder_with_labels_shows_how_right_it_is(tmp_path: Path) -> None:
    folder = a_scored_folder(tmp_path, CLASSES, is_labelled=True)
    (folder / "drift.json").unlink()
    page = scored(folder)
    assert {"Confusion matrix", "Classes", "ROC and precision", "Reliability"} <= set(headings(page))
    assert sum(map(sum, counts(page))) == 120 and "of those with a label are right" in page.words
    assert page.data["groups"] == [group for group in page.data["groups"] if group["kind"] == "slice"]


def test_drift_that_cannot_be_told_is_said(tmp_path: Path) -> None:
    folder = a_scored_folder(tmp_path, CLASSES, is_labelled=False)
    update(folder / "drift.json", value=None, sentence="3 new images are too few to tell drift", paths=[])
    page = scored(folder)
    assert "3 new images are too few to tell drift." in page.words and "stability index" not in page.words
    assert page.data["groups"] == []


def test_a_scored_folder_of_which_nothing_could_be_scored_has_a_page(tmp_path: Path) -> None:
    folder = a_scored_folder(tmp_path, CLASSES, is_labelled=False)
    pq.write_table(pa.Table.from_pylist([], content.PICTURES), folder / "pictures.parquet")
    assert "No picture has a prediction." in scored(folder).words


def test_five_thousand_pictures_stay_under_ten_megabytes(tmp_path: Path) -> None:
    run = a_full_run(tmp_path, CLASSES, 20)
    table = pq.read_table(run / "pictures.parquet")
    one = table.to_pylist()[40]
    rows = [
        one | {"path": f"val/disc/of a longer name {n}.jpg", "thumbnail": b"\xff\xd8" + 950 * b"x"} for n in range(5000)
    ]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run / "pictures.parquet")
    layer = pq.read_table(run / "layers.parquet").to_pylist()[0] | {"image": b"\xff\xd8" + 11_000 * b"x"}
    pq.write_table(pa.Table.from_pylist(100 * [layer], content.LAYERS), run / "layers.parquet")
    write_report(run)
    page = (run / "report.html").read_text()
    assert 8_000_000 < len(page) < 10_000_000
    assert page.count("data:image/jpeg") == 5100


def test_thumbnails_that_are_too_large_are_made_smaller_then_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [content.jpeg(content.drawn(n % 4, np.random.default_rng(n))[0]) for n in range(40)]
    total = sum(map(len, images))
    for limit, least in ((total, 40), (0.7 * total, 40), (0.1 * total, 4)):
        monkeypatch.setattr(wall, "_MAX_THUMBNAIL_BYTES", limit)
        shown = wall.content([Picture(f"{n}.jpg", thumbnail=image) for n, image in enumerate(images)], [], {})
        kept = [uri for uri in shown["thumbnail"] if uri]
        assert len(kept) >= least and sum(map(len, kept)) < 4 / 3 * limit + 40 * 30


@pytest.mark.parametrize("name", ["config.json", "summary.json", "findings.json"])
@pytest.mark.parametrize("content", ["[]", "3", "[" * 100_000], ids=["list", "number", "deep"])
def test_json_of_another_kind_is_a_damaged_run(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(IntegrityError, match="could not use it") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "pictures.parquet", "validation.parquet"])
def test_a_folder_in_the_place_of_a_file_is_an_error_of_ours(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    with pytest.raises(TlearnError):
        write_report(run)


def test_the_date_is_that_of_the_run_wherever_its_files_were_copied(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"ended": "2020-02-03T04:05:06+00:00"}))
    assert "2020-02-03 04:05 UTC" in read(run).words
