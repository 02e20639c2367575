"""Two models are compared on what both have seen alike, and on nothing that one of them has learned."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import instant
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scoring import Place

import tlearn
from tlearn import storage
from tlearn.classes import Classes
from tlearn.cli import main
from tlearn.data import manifest
from tlearn.data.manifest import File
from tlearn.errors import InputError, IntegrityError, TlearnError, TooManyBadFiles, UsageError

BEFORE = Path(__file__).parent.parent / "before" / "run"
MAP = pa.map_(pa.string(), pa.float32())
STRUCT = pa.struct([("cat", pa.float32()), ("dog", pa.float32())])


def save_run(folder: Path, answers: dict[str, tuple[str, float]], train: str = "", kind: pa.DataType = STRUCT) -> Path:
    """A finished run: of each validation picture (by its bytes) the class and the probability of cat."""
    folder.mkdir(parents=True)
    for name in ("config.json", "summary.json"):
        (folder / name).write_text("{}")
    files = [File("train", f"train/cat/{name}.jpg", "cat", 1, 1, name) for name in train]
    paths = {name: f"val/{label}/{folder.name}-{name}.jpg" for name, (label, _) in answers.items()}
    files += [File("val", paths[name], label, 1, 1, name) for name, (label, _) in answers.items()]
    pq.write_table(manifest.table(files), folder / "manifest.parquet")
    shares = [share for _, share in answers.values()]
    columns = {
        "path": list(paths.values()),
        "label": [label for label, _ in answers.values()],
        "prediction": ["cat" if share > 0.5 else "dog" for share in shares],
        "probability": pa.array([max(share, 1 - share) for share in shares], pa.float32()),
        "probabilities": pa.array([[("cat", share), ("dog", 1 - share)] for share in shares], MAP)
        if kind == MAP
        else pa.array([{"cat": share, "dog": 1 - share} for share in shares], STRUCT),
    }
    pq.write_table(pa.table(columns), folder / "validation.parquet")
    return folder


A = {"1": ("cat", 0.9), "2": ("cat", 0.4), "3": ("dog", 0.45), "4": ("dog", 0.2)}
B = {"1": ("cat", 0.8), "2": ("cat", 0.7), "3": ("dog", 0.55), "4": ("dog", 1.0)}


@pytest.mark.parametrize("kind", [STRUCT, MAP])
def test_the_figures_are_those_of_the_pairs(kind: pa.DataType, tmp_path: Path) -> None:
    a, b = save_run(tmp_path / "a", A, kind=kind), save_run(tmp_path / "b", B)
    found = tlearn.compare(a, b)
    assert (found.num_images, found.only_a, found.only_b) == (4, 2, 1)
    assert (found.a.accuracy, found.b.accuracy, found.difference) == (0.75, 0.5, -0.25)
    assert found.a.log_loss == pytest.approx((0.10536 + 0.91629 + 0.59784 + 0.22314) / 4, abs=1e-5)
    assert found.b.log_loss == pytest.approx((0.22314 + 0.35667 + 0.79851 + 17.32868) / 4, abs=1e-4)
    assert found.log_loss_difference == pytest.approx(found.b.log_loss - found.a.log_loss)
    assert [one.path for one in found.disagreements] == [
        f"val/{name}.jpg" for name in ("dog/a-4", "cat/a-2", "dog/a-3")
    ]
    assert (found.remarks, found.is_good_enough) == ((), None)
    assert tlearn.compare(b, a).interval == (-found.interval[1], -found.interval[0])


@pytest.mark.parametrize(
    ("a", "b", "train_a", "train_b", "compared", "said"),
    [
        ("1234", "1234", "56", "56", 4, []),
        ("1234", "34", "", "", 2, ["2 pictures of A are not in the other"]),
        ("12", "234", "", "", 1, ["1 pictures of A are not", "2 pictures of B are not"]),
        ("1234", "34", "", "12", 2, ["2 pictures are training pictures of B: on them a comparison is not fair"]),
        ("1234", "1234", "1", "", 3, ["1 pictures are training pictures of A"]),
        ("1234", "1234", "1", "12", 2, ["1 pictures are training pictures of A", "2 pictures are training pictures"]),
    ],
)
def test_what_only_one_has_and_what_either_was_trained_on_is_left_out_and_said(
    a: str, b: str, train_a: str, train_b: str, compared: int, said: list[str], tmp_path: Path
) -> None:
    first = save_run(tmp_path / "a", {name: A[name] for name in a}, train_a)
    second = save_run(tmp_path / "b", {name: B[name] for name in b}, train_b)
    found = tlearn.compare(first, second)
    assert found.num_images == compared
    assert len(found.remarks) == len(said)
    assert all(remark.startswith(start) for remark, start in zip(found.remarks, said, strict=True))


def test_a_picture_whose_class_was_changed_is_another_picture(tmp_path: Path) -> None:
    a = save_run(tmp_path / "a", A)
    found = tlearn.compare(a, save_run(tmp_path / "b", B | {"1": ("dog", 0.8)}))
    assert found.num_images == 3 and len(found.remarks) == 2


def test_copies_of_one_picture_count_as_often_as_both_have_them(tmp_path: Path) -> None:
    a, b = save_run(tmp_path / "a", A), save_run(tmp_path / "b", B)
    rows = pq.read_table(a / "manifest.parquet").to_pylist()
    rows = [row | {"sha256": row["sha256"].replace("3", "4")} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, manifest.SCHEMA), a / "manifest.parquet")
    assert tlearn.compare(a, a).num_images == 4
    assert tlearn.compare(a, b).num_images == 3


def test_a_run_of_an_earlier_version_is_compared(tmp_path: Path) -> None:
    found = tlearn.compare(BEFORE, BEFORE)
    assert (found.num_images, found.difference, found.p_value) == (6, 0.0, 1.0)
    assert found.a.accuracy == json.loads((BEFORE / "summary.json").read_text())["val_accuracy"]


def unfinished(root: Path) -> Path:
    (save_run(root / "odd", A) / "validation.parquet").unlink()
    return root / "odd"


def damaged(root: Path) -> Path:
    (save_run(root / "odd", A) / "validation.parquet").write_bytes(b"PAR1")
    return root / "odd"


def stopped(root: Path) -> Path:
    (save_run(root / "odd", A) / "summary.json").unlink()
    return root / "odd"


def hollow(root: Path) -> Path:
    folder = save_run(root / "odd", A)
    table = pq.read_table(folder / "validation.parquet")
    pq.write_table(table.set_column(2, "prediction", pa.nulls(4, pa.string())), folder / "validation.parquet")
    return folder


def strange(root: Path) -> Path:
    return save_run(root / "odd", {"9": ("cat", 0.9)})


def learned(root: Path) -> Path:
    return save_run(root / "odd", A, train="1234")


def model(root: Path) -> Path:
    return Path(instant.save_model(root / "odd"))


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (unfinished, InputError, "expected a finished run .* no validation.parquet"),
        (damaged, IntegrityError, "expected validation.parquet of a run"),
        (stopped, InputError, "expected a finished run .* no summary.json"),
        (hollow, IntegrityError, "expected a value in each row of validation.parquet .* none of prediction"),
        (strange, InputError, r"both have, found none \(4 pictures of A are not in the other.*--data DIR"),
        (learned, InputError, r"found none \(4 pictures are training pictures of B"),
        (model, UsageError, "expected --data DIR for the model"),
        (lambda root: root / "nowhere", InputError, "expected a table of scores"),
    ],
)
def test_what_cannot_be_compared_is_said(
    make: Callable[[Path], Path], kind: type[TlearnError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=says):
        tlearn.compare(save_run(tmp_path / "a", A), make(tmp_path))


# Of each class as many pictures as a gate can judge: A is right of all, B of all but some.
def many(num_wrong: int, count: int = 400) -> dict[str, tuple[str, float]]:
    return {str(number): ("cat", 0.4 if number < num_wrong else 0.9) for number in range(count)}


@pytest.mark.parametrize(
    ("num_wrong", "margin", "code", "says"),
    [
        (0, 0.01, 0, "B is not worse than A by more than 0.01: the difference is +0.0000 (95% sure: -0.0095"),
        (0, 0.005, 8, "on 400 pictures: about 765 pictures like these are needed to be sure"),
        (1, 0.02, 0, "B is not worse than A by more than 0.02"),
        (1, 0.01, 8, "got a difference of -0.0025 (95% sure: -0.0140"),
        (40, 0.05, 8, "more pictures would not help"),
        (40, None, 0, "McNemar's exact test: p = 1.82e-12\n"),
    ],
)
def test_the_gate_judges_by_the_lower_end_of_the_interval(
    num_wrong: int, margin: float | None, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save_run(tmp_path / "a", many(0)), save_run(tmp_path / "b", many(num_wrong))
    flags = [] if margin is None else ["--no-worse-than", str(margin)]
    assert main(["compare", str(a), str(b), *flags]) == code
    shown = capsys.readouterr()
    assert says in (shown.err if code else shown.out)
    assert main(["compare", str(a), str(b), *flags, "--json", "--quiet"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["is_good_enough"] == (None if margin is None else code == 0)
    assert (found["only_a"], found["only_b"], len(found["disagreements"])) == (num_wrong, 0, num_wrong)


def test_the_pictures_on_which_they_differ_are_shown_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = save_run(tmp_path / "a", many(0)), save_run(tmp_path / "b", many(12))
    output = tmp_path / "new" / "differences.csv"
    for _ in range(2):  # an earlier one is replaced
        assert main(["compare", str(a), str(b), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "and 2 more: --output NAME.csv" in shown and "val/cat/a-0.jpg" in shown
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert len(rows) == 12
    assert rows[0] == {
        "path": "val/cat/a-0.jpg", "label": "cat", "prediction_a": "cat", "probability_a": "0.8999999761581421",
        "prediction_b": "dog", "probability_b": "0.6000000238418579",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"output": "differences.parquet"}, r"--output NAME\.csv"),
        ({"labels": "labels.csv"}, "expected --data DIR beside --labels"),
        ({"no_worse_than": -0.1}, "no_worse_than must be from 0 to 1"),
        ({"margin": 0.1}, "margin"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        tlearn.compare(BEFORE, BEFORE, **settings)


@pytest.fixture
def models(place: Place) -> tuple[Path, Path]:
    """Runs whose models say the opposite of each other; what they were trained on is not in place.root / "input"."""
    runs = place.root / "a", place.root / "b"
    for run, names in zip(runs, (("cat", "dog"), ("dog", "cat")), strict=True):
        save_run(run, {}, train="1")
        instant.save_model(run / "model", classes=Classes(names))
    return runs


@pytest.mark.parametrize("inner", ["", "model"])
def test_models_are_compared_on_a_folder_as_evaluate_runs_them(
    inner: str, models: tuple[Path, Path], place: Place
) -> None:
    settings = {"data": str(place.root / "input"), "cache": str(place.root / "cache")}
    found = tlearn.compare(models[0] / inner, models[1] / inner, **settings)
    figures = [tlearn.evaluate(run / "model", **settings) for run in models]  # type: ignore[arg-type]
    assert [found.a.accuracy, found.b.accuracy] == [of.accuracy for of in figures]
    assert [found.a.log_loss, found.b.log_loss] == pytest.approx([of.quality.log_loss for of in figures])
    assert found.num_images == len(found.disagreements) == 30 and found.remarks == ()


def test_what_a_model_was_trained_on_is_left_out_of_a_folder_too(models: tuple[Path, Path], place: Place) -> None:
    data, cache = str(place.root / "input"), str(place.root / "cache")
    rows = [
        File("train", path.name, "cat", 1, 1, storage.sha256_file(path)) for path in sorted(Path(data).rglob("*1.jpg"))
    ]
    pq.write_table(manifest.table(rows), models[1] / "manifest.parquet")
    found = tlearn.compare(*models, data=data, cache=cache)
    assert len(rows) == 3 and found.num_images == 27
    assert found.remarks[0].startswith("3 pictures are training pictures of B: on them a comparison is not fair")
    alone = tlearn.compare(place.model, models[1], data=data, cache=cache)
    assert alone.num_images == 27 and alone.remarks[0].startswith("what A was trained on is not known")


def test_a_folder_of_which_too_much_has_no_score_is_not_compared(models: tuple[Path, Path], place: Place) -> None:
    for number in range(3):
        place.put(f"cat/bad{number}.jpg", f"bad {number}")
    settings = {"data": str(place.root / "input"), "cache": str(place.root / "cache")}
    with pytest.raises(TooManyBadFiles, match="got 3 of 33"):
        tlearn.compare(*models, **settings)
    assert tlearn.compare(*models, **settings, max_error_rate=0.1).num_images == 30


def test_tables_of_scores_with_labels_are_compared(models: tuple[Path, Path], place: Place) -> None:
    tables = [str(place.root / name) for name in ("one.parquet", "growing/")]
    for run, table in zip(models, tables, strict=True):
        tlearn.score(run / "model", place.root / "input", table, cache=str(place.root / "cache"))
    found = tlearn.compare(*tables)
    assert (found.num_images, found.only_a + found.only_b) == (30, 30)
