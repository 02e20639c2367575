"""The report of a run: what it shows, what it leaves out, what it refuses."""

import hashlib
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from tlearn.errors import InputError, IntegrityError
from tlearn.report.page import write_report

VOID = {"meta", "img"}
HOSTILE = "<script src=http://evil.test/x.js>\"'&\x07"


class Page(HTMLParser):
    """The elements of a page, its text, and the cells of its tables by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.heading = self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.heading = ""
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "h2" in self.open:
            self.heading += data
        if "td" in self.open or "th" in self.open:
            self.tables[self.heading][-1][-1] += data + " "

    def cells(self, heading: str) -> list[list[str]]:
        """The rows of a section's table, white space made single."""
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[heading]]


def counts(page: Page) -> list[list[int]]:
    """The counts of the confusion matrix."""
    return [[int(cell.split()[0]) for cell in row[1:]] for row in page.cells("Confusion matrix")[1:]]


def a_run(
    folder: Path,
    predictions: list[tuple[str, str, str, float]],
    classes: list[str],
    *,
    epochs: int = 3,
    skipped: list[tuple[str, str, str | None]] | None = None,
    **changes: Any,
) -> Path:
    """What training leaves, for predictions of (path, label, prediction, probability)."""
    run = folder / "run"
    run.mkdir()
    config = {
        "recipe": "frozen",
        "data": str(folder / "data"),
        "seed": 7,
        "optim": {"name": "adamw", "lr": 3e-4},
        "workers": None,
    }
    (run / "config.json").write_text(
        json.dumps(
            {
                "config": config,
                "versions": {"torch": "2.15.0"},
                "git_commit": None,
                "command": "tlearn train --x",
            }
        )
    )
    summary = {
        "recipe": "frozen",
        "classes": classes,
        "num_train": 320,
        "num_val": len(predictions),
        "epochs": epochs,
        "best_epoch": epochs,
        "val_accuracy": 0.5,
        "val_loss": 0.4321,
        "train_accuracy": 0.9,
        "temperature": 1.75,
        "quality": {
            "accuracy": sum(label == prediction for _, label, prediction, _ in predictions) / len(predictions),
            "log_loss": 0.3333,
            "brier": 0.1212,
            "calibration_error": 0.0456,
            "roc_auc": None,
            "per_class": {name: {"precision": None, "recall": 0.625, "count": 8} for name in classes},
        },
        "seconds_total": 12.3,
        "seconds_features": 10.0,
        "seconds_train": 2.3,
        "features_computed": 300,
        "features_reused": 20,
        "model_digest": "0123456789abcdef",
        "skipped": 0,
    }
    (run / "summary.json").write_text(json.dumps(summary | changes))
    line = {"lr": 1e-3, "train_loss": 0.7, "train_accuracy": 0.6, "val_accuracy": 0.9, "seconds": 1.0}
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"epoch": epoch, **line, "val_loss": 0.8 / epoch}) + "\n" for epoch in range(1, epochs + 1))
    )
    manifest = [(path, "ok", None) for path, *_ in predictions] + (skipped or [])
    columns = list(zip(*manifest, strict=True))
    pq.write_table(
        pa.table({"path": columns[0], "status": columns[1], "error": pa.array(columns[2], pa.string())}),
        run / "manifest.parquet",
    )
    paths, labels, predicted, probabilities = zip(*predictions, strict=True)
    pq.write_table(
        pa.table(
            {
                "path": paths,
                "label": labels,
                "prediction": predicted,
                "probability": pa.array(probabilities, pa.float32()),
            }
        ),
        run / "validation.parquet",
    )
    return run


def read(run: Path) -> Page:
    return Page(Path(write_report(run)).read_text(encoding="utf-8"))


CAT_DOG = [
    *[(f"val/cat/{n}.jpg", "cat", "cat", 0.95) for n in range(6)],
    *[(f"val/cat/{n}.jpg", "cat", "dog", 0.65) for n in range(6, 8)],
    ("val/dog/0.jpg", "dog", "cat", 0.85),
    *[(f"val/dog/{n}.jpg", "dog", "dog", 0.75) for n in range(1, 4)],
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path, CAT_DOG, ["cat", "dog"])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for path, *_ in CAT_DOG:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((640, 480), 50).convert("RGB").save(data / path, comment=b"private" * 1000)
    return data


def test_the_page_is_one_file_that_refers_to_nothing_outside(run: Path, photographs: Path) -> None:
    before = set(run.iterdir())
    report = Path(write_report(run))
    assert set(run.iterdir()) - before == {report} == {run / "report.html"}
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    sources = [attributes["src"] or "" for _, attributes in page.elements if "src" in attributes]
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any(name in attributes for _, attributes in page.elements for name in ("href", "xlink:href"))
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in page.elements)
    assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    assert len(text) < 400_000


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    first = Path(write_report(run)).read_bytes()
    assert Path(write_report(f"file://{run}")).read_bytes() == first


def test_the_page_is_the_same_to_the_byte_as_ever(tmp_path: Path) -> None:
    skipped: list[tuple[str, str, str | None]] = [("train/1.jpg", "unreadable", "cut")]
    run = a_run(tmp_path, CAT_DOG, ["cat", "dog"], skipped=skipped)
    config = (run / "config.json").read_text().replace(str(tmp_path), "/photos")
    (run / "config.json").write_text(config)
    os.utime(run / "summary.json", (1_700_000_000, 1_700_000_000))
    page = Path(write_report(run)).read_bytes()
    assert hashlib.sha256(page).hexdigest() == "2bb841d971073ca596a2331073e23f2125cb25960a4336e44984a140052cbe8f"


def test_a_run_on_an_object_store_has_the_page_of_the_same_run_here(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(write_report(run)).read_bytes()
    (run / "report.html").unlink()
    store = fs.SubTreeFileSystem(str(run.parent), fs.LocalFileSystem())
    monkeypatch.setattr("tlearn.storage.remote.filesystem", lambda uri: (store, uri.removeprefix("s3://bucket/")))
    assert write_report("s3://bucket/run") == "s3://bucket/run/report.html"
    assert (run / "report.html").read_bytes() == here
    (run / "validation.parquet").unlink()
    with pytest.raises(InputError, match=r"a finished run in s3://bucket/run, found no validation\.parquet"):
        write_report("s3://bucket/run")


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    predictions = [(f"val/{HOSTILE}/1.jpg", HOSTILE, "dog", 0.9), ("val/dog/1.jpg", "dog", "dog", 0.9)]
    skipped: list[tuple[str, str, str | None]] = [
        (HOSTILE, "unreadable", HOSTILE),
        ("x.jpg", "missing", None),
    ]
    run = a_run(tmp_path, predictions, [HOSTILE, "dog"], skipped=skipped, recipe=HOSTILE, model_digest="\ud800")
    page = read(run)
    assert not page.open
    assert not any(tag == "script" or "src" in attributes for tag, attributes in page.elements)
    shown = HOSTILE.replace("\x07", "\ufffd")
    assert page.cells("Skipped files")[1:] == [[shown, "unreadable", shown], ["x.jpg", "missing", ""]]
    assert page.cells("Classes")[1][0] == shown
    assert page.text.count(shown) >= 8


def test_figures_of_a_hand_computed_example_appear(run: Path) -> None:
    page = read(run)
    assert counts(page) == [[6, 2], [1, 3]]
    assert page.cells("Confusion matrix")[1] == ["cat", "6 75.0 %", "2 25.0 %"]
    # 9 of 12 are right: the standard error is sqrt(0.75 * 0.25 / 12).
    assert "0.750 \u00b1 0.125" in page.text
    # Of the predictions between 0.9 and 1 all six are right, between 0.6 and 0.7 none of two.
    bars = [float(attributes["height"] or 0) for tag, attributes in page.elements if tag == "rect"]
    assert bars == [0, 220, 0, 220]
    settings = dict(page.cells("Settings")[1:])
    assert settings["optim.lr"] == "0.0003"
    assert settings["versions.torch"] == "2.15.0"
    assert settings["command"] == "tlearn train --x"


def test_figures_of_the_summary_appear(run: Path) -> None:
    page = read(run)
    text = " ".join(page.text.split())
    for expected in (
        "Log-loss0.3333calibrated; 0.4321 in the best epoch",
        "Brier score0.1212",
        "ROC-AUCn/a",
        "Expected calibration error, in 15 bins: 0.046, with logits divided by the temperature 1.750.",
    ):
        assert expected in text
    assert page.cells("Classes")[1:] == [["cat", "8", "n/a", "0.625"], ["dog", "8", "n/a", "0.625"]]


@pytest.mark.parametrize("right", [0, 1])
def test_the_interval_says_more_than_a_standard_error_of_zero(tmp_path: Path, right: int) -> None:
    rows = [(f"{n}.jpg", "cat", "cat" if right else "dog", 0.9) for n in range(10)]
    page = read(a_run(tmp_path, rows, ["cat", "dog"]))
    # Wilson's interval of 10 of 10 begins at 1 / (1 + 1.96 ** 2 / 10).
    assert ("interval 0.722 to 1.000" if right else "interval 0.000 to 0.278") in page.text


def test_the_confusion_matrix_of_three_classes_sums_to_n(tmp_path: Path) -> None:
    classes = ["a", "b", "c"]
    rows = [(f"val/{n}.jpg", classes[n % 3], classes[n * n % 3], 0.4) for n in range(31)]
    page = read(a_run(tmp_path, rows, classes))
    assert [len(row) for row in counts(page)] == [3, 3, 3]
    assert sum(map(sum, counts(page))) == 31


def test_a_matrix_of_very_many_classes_is_left_out(tmp_path: Path) -> None:
    classes = [f"class {n:03}" for n in range(200)]
    rows = [(f"val/{name}.jpg", name, classes[0], 0.4) for name in classes]
    run = a_run(tmp_path, rows, classes)
    page = read(run)
    assert "Confusion matrix" not in page.tables
    assert len(page.cells("Classes")) == 201
    assert (run / "report.html").stat().st_size < 400_000


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
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_or_of_another_version_is_said_in_one_line(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(IntegrityError, match="expected what this version of tlearn leaves") as caught:
        write_report(run)
    assert str(run) in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_come_surest_first_and_without_photographs_too(run: Path) -> None:
    page = read(run)
    assert not any(tag == "img" for tag, _ in page.elements)
    assert "photographs that could not be opened are left out" in " ".join(page.text.split())
    mistakes = page.text[page.text.index("Worst mistakes") : page.text.index("Skipped files")]
    paths = ["val/dog/0.jpg", "val/cat/6.jpg", "val/cat/7.jpg"]
    assert sorted(paths, key=mistakes.index) == paths
    assert "val/cat/0.jpg" not in mistakes
    assert "0.8500" in mistakes


def test_only_pictures_of_the_data_folder_are_shown(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "outside.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "data" / "caf\u00e9 1.png")
    (tmp_path / "data" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    paths = ["../outside.png", "%2e%2e/outside.png", str(tmp_path / "outside.png"), "broken.png", "a\0.png"]
    rows = [(path, "cat", "dog", 0.9) for path in [*paths, "caf%C3%A9 1.png"]]
    page = read(a_run(tmp_path, rows, ["cat", "dog"]))
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 1


def test_the_gallery_ends_at_twelve_and_the_skipped_files_at_fifty(tmp_path: Path) -> None:
    rows = [(f"val/{n}.jpg", "cat", "dog", 0.9) for n in range(20)]
    skipped: list[tuple[str, str, str | None]] = [(f"train/{n}.jpg", "unreadable", "cut") for n in range(53)]
    page = read(a_run(tmp_path, rows, ["cat", "dog"], skipped=skipped))
    assert len([tag for tag, _ in page.elements if tag == "figure"]) == 12
    assert len(page.cells("Skipped files")) == 51
    assert "and 3 more" in page.text


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_every_epoch_is_in_the_curves(tmp_path: Path, epochs: int) -> None:
    page = read(a_run(tmp_path, CAT_DOG, ["cat", "dog"], epochs=epochs))
    lines = [attributes["points"] or "" for tag, attributes in page.elements if tag == "polyline"]
    assert [len(points.split()) for points in lines] == [epochs] * 4
    positions = [tuple(map(float, point.split(","))) for points in lines for point in points.split()]
    assert all(50 <= x <= 450 and 24 <= y <= 244 for x, y in positions)


def test_a_run_that_diverged_has_a_report(tmp_path: Path) -> None:
    rows = [(path, label, prediction, float("nan")) for path, label, prediction, _ in CAT_DOG]
    run = a_run(tmp_path, rows, ["cat", "dog"], val_loss=float("nan"))
    (run / "metrics.jsonl").write_text(
        '{"epoch": 1, "train_loss": NaN, "val_loss": Infinity, "train_accuracy": 0.5, "val_accuracy": 0.5}\n'
    )
    page = read(run)
    lines = [attributes["points"] or "" for tag, attributes in page.elements if tag == "polyline"]
    assert [len(points.split()) for points in lines] == [0, 0, 1, 1]
    assert not any("nan" in (value or "") for _, attributes in page.elements for value in attributes.values())
    assert "n/a" in page.text


def test_what_the_guard_says_and_the_figures_of_test_are_on_the_page(run: Path) -> None:
    without = " ".join(read(run).text.split())
    summary = json.loads((run / "summary.json").read_text())
    test = summary["quality"] | {"accuracy": 0.75, "per_class": {"cat": {"precision": 0.5, "recall": 1.0, "count": 12}}}
    (run / "summary.json").write_text(json.dumps(summary | {"remarks": [f"no better than {HOSTILE}"], "test": test}))
    page = read(run)
    text = " ".join(page.text.split())
    assert "Note: no better than <script src" in text and "Note" not in without
    assert "Test accuracy0.750n = 12; 95 % interval 0.468 to 0.911" in text and "Test accuracy" not in without
    assert page.cells("Test")[1:] == [["cat", "12", "0.500", "1.000"]]
    assert not page.open and not any(tag == "script" for tag, _ in page.elements)
