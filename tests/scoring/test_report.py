"""The page of a scored folder is made of its rows, and of what the model of these rows sees in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import alone
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tlearn
from tlearn.cli import main
from tlearn.config import EvaluateConfig, ScoreConfig
from tlearn.distributed import launch
from tlearn.errors import UsageError
from tlearn.evaluation import drift
from tlearn.evaluation.drift import Reference
from tlearn.report import page
from tlearn.report.pictures import PICTURES
from tlearn.scoring import planning, report

COUNTS = {f"{split}/{name}": 20 for split in ("train", "val") for name in ("cat", "dog")}


@pytest.fixture(autouse=True)
def in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone.without_ray(monkeypatch)
    monkeypatch.setattr(launch, "start_ray", lambda: None)
    monkeypatch.setattr(launch, "require_shared", lambda files, folders: None)
    monkeypatch.setattr(planning, "start_ray", lambda: None)

    def write_scored(folder: str, target: str) -> None:
        shutil.copytree(folder, target)

    monkeypatch.setattr(page, "write_scored", write_scored, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        alone.without_ray(patch)
        alone.train(alone.draw(folder / "data", COUNTS), folder / "run", optim={"num_epochs": 3})
    return folder


def settings(output: str, target: str, **more: Any) -> dict[str, Any]:
    common = {"engine": "torch", "precision": "fp32", "cache": "cache"}
    return {"output": output, "report": target, **common, **more}


def content(target: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    table = pq.read_table(f"{target}/pictures.parquet")
    assert table.schema == PICTURES
    rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    return rows, *(json.loads(Path(target, f"{name}.json").read_text()) for name in ("scored", "drift"))  # type: ignore[return-value]


def odd(folder: Path, count: int) -> set[str]:
    """Pictures unlike those that the model knows: black and white stripes."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:: 2 + number] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return {f"{folder.name}/{number}.png" for number in range(count)}


def test_a_report_shows_what_a_run_has_added_or_with_nothing_new_all(trained: Path) -> None:
    model, inbox = trained / "run/model", shutil.copytree(trained / "data/val", "inbox")
    scored = tlearn.score(model, inbox, **settings("table/", "a.html", abstain_below=0.9))
    rows, said, drifted = content("a.html")
    assert said == json.loads(json.dumps(scored.to_json())) and len(rows) == 40
    assert drifted == {"value": scored.drift, "sentence": scored.drift_sentence, "paths": drifted["paths"]}
    table = {row["path"]: row for row in pq.read_table("table/").to_pylist(maps_as_pydicts="strict")}
    for row in rows:
        for name in ("status", "label", "prediction", "probability", "probabilities", "width", "height", "bytes"):
            assert row[name] == table[row["path"]][name]
        assert row["split"] == "scored" and row["thumbnail"] and row["format"] == "PNG" and not row["nearest"]
        assert len(row["attention"]) == row["attention_rows"] ** 2 == 1
        assert -1 <= row["typicality"] <= 1.001 and row["cluster"] >= 0
    validation = {
        row["path"]: row for row in pq.read_table(trained / "run/pictures.parquet").to_pylist(maps_as_pydicts="strict")
    }
    for row in rows:  # as training said of the same pictures
        assert row["raw"] == pytest.approx(validation[f"val/{row['path']}"]["raw"], abs=1e-3)
        assert row["attention"] == validation[f"val/{row['path']}"]["attention"]
    strange = odd(Path("inbox/odd"), 4)
    tlearn.score(model, inbox, **settings("table/", "b.html"))
    assert {row["path"] for row in content("b.html")[0]} == strange
    tlearn.score(model, inbox, **settings("table/", "c.html"))
    assert len(content("c.html")[0]) == 44


def test_the_pictures_that_drive_the_drift_are_those_that_are_unlike_the_others(trained: Path) -> None:
    inbox = shutil.copytree(trained / "data/val", "inbox")
    strange = odd(Path("inbox/odd"), 38)
    scored = tlearn.score(trained / "run/model", inbox, **settings("scores.parquet", "page.html"))
    drifted = content("page.html")[2]
    assert scored.drift is not None and drifted["value"] == scored.drift > 0.1
    assert set(drifted["paths"][:20]) <= strange


@pytest.mark.parametrize("top_k", [None, 1])
def test_a_report_beside_a_csv_is_that_beside_parquet(top_k: int | None, trained: Path) -> None:
    inbox = shutil.copytree(trained / "data/val/cat", "inbox")
    Path("inbox/bad.jpg").write_text("no picture")
    tlearn.score(trained / "run/model", inbox, **settings("one.csv", "a.html", top_k=top_k))
    tlearn.score(trained / "run/model", inbox, **settings("one.parquet", "b.html"))
    assert content("a.html")[0] == content("b.html")[0] and len(content("a.html")[0]) == 20
    assert sorted(path.name for path in Path().glob("*one*")) == ["one.csv", "one.parquet"]


def test_the_labels_of_an_evaluation_are_those_of_its_report(trained: Path) -> None:
    flat = Path("flat")
    flat.mkdir()
    for number, file in enumerate(sorted((trained / "data/val").glob("*/*.png"))[10:30]):
        shutil.copy(file, flat / f"{number}.png")
    Path("labels.csv").write_text(
        "file,label\n" + "".join(f"{number},{'cat' if number < 10 else 'dog'}\n" for number in range(18))
    )
    words = ["evaluate", str(trained / "run/model"), "flat", "--labels", "labels.csv", "--report", "page.html"]
    assert main([*words, "--engine", "torch", "--precision", "fp32", "--cache", "cache", "--quiet"]) == 0
    labels = {row["path"]: row["label"] for row in content("page.html")[0]}
    expected = {f"{number}.png": "cat" if number < 10 else "dog" if number < 18 else None for number in range(20)}
    assert labels == expected


def test_pictures_beyond_those_that_are_looked_at_have_a_row_and_a_thumbnail(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_MAX_DESCRIBED", 6)
    tlearn.score(trained / "run/model", trained / "data/val", **settings("scores.parquet", "page.html"))
    rows = content("page.html")[0]
    described = [row for row in rows if row["attention"] is not None]
    assert len(described) == 6 and len(rows) == 40 and all(row["thumbnail"] for row in rows)
    assert {row["path"] for row in sorted(rows, key=lambda row: row["probability"])[:3]} <= {
        row["path"] for row in described
    }


def test_without_a_score_there_is_no_page(trained: Path) -> None:
    Path("inbox").mkdir()
    Path("inbox/bad.jpg").write_text("no picture")
    scored = tlearn.score(trained / "run/model", "inbox", **settings("scores.parquet", "page.html"))
    assert scored.failed == 1 and not Path("page.html").exists()


@pytest.mark.parametrize("target", ["", "page.pdf", "folder/"])
def test_a_report_is_a_page(target: str) -> None:
    with pytest.raises(UsageError, match=r"--report NAME\.html"):
        ScoreConfig(model="m", input="i", output="o", report=target)
    with pytest.raises(UsageError, match=r"--report NAME\.html"):
        EvaluateConfig(model="m", data="d", report=target)


def test_shares_of_the_drift_lie_where_there_are_more_than_expected() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(1 + drift.NUM_PROJECTIONS, 500))
    reference = Reference.of(usual)
    seen = rng.normal(size=(1 + drift.NUM_PROJECTIONS, 200))
    seen[3, :40] = 9.0
    found = drift.shares(reference, reference.count(seen), seen)
    assert found.shape == (200,) and (found >= 0).all() and found[:40].mean() > 2 * found[40:].mean()
    seen[3, :40] = -40.0  # whichever end
    assert drift.shares(reference, reference.count(seen), seen)[:40].mean() > 2 * found[40:].mean()
    assert drift.shares(reference, reference.counts, usual).max() < 1e-6
