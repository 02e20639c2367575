"""Cross-validation from end to end in one process: what it leaves, that it changes nothing else, that it goes on."""

import dataclasses
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from alone import draw, train, without_ray

from tlearn.classes import Classes
from tlearn.distributed import launch, tasks
from tlearn.distributed.nodes import Node, Nodes
from tlearn.errors import InputError, UsageError
from tlearn.evaluation import folds, quality
from tlearn.evaluation.interval import accuracy_interval
from tlearn.training.run import Run, Summary

DATA = {"train/cat": 9, "train/dog": 9, "val/cat": 3, "val/dog": 3}
QUICK: dict[str, Any] = {"optim": {"num_epochs": 2, "global_batch_size": 8}, "head": {"width": 8}}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def figures(run: Run) -> Any:
    assert run.summary.folds is not None
    return dataclasses.replace(run.summary.folds, seconds=0.0)


def rows(run: Run) -> list[dict[str, Any]]:
    table = pq.read_table(f"{run.location}/folds.parquet")
    assert table.schema.field("fold").type == pa.int32()
    return table.to_pylist(maps_as_pydicts="strict")  # type: ignore[no-any-return]


def test_every_image_is_judged_once_and_the_model_is_the_same_without(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {**DATA, "test/cat": 2})
    plain, run = (train(data, tmp_path / name, **QUICK, **more) for name, more in (("a", {}), ("b", {"folds": 3})))
    assert run.summary.model_digest == plain.summary.model_digest and plain.summary.folds is None
    found = rows(run)
    assert {row["path"] for row in found} == {str(path.relative_to(data)) for path in data.glob("[tv][ra]*/*/*.png")}
    assert Counter((row["fold"], row["label"]) for row in found) == {
        (n, c): 4 for n in range(3) for c in ("cat", "dog")
    }
    for row in found:
        assert row["probabilities"].keys() == {"cat", "dog"}
        assert row["probability"] == row["probabilities"][row["prediction"]] == max(row["probabilities"].values())
    right = [statistics.fmean(r["prediction"] == r["label"] for r in found if r["fold"] == n) for n in range(3)]
    of = figures(run)
    assert [fold.accuracy for fold in of.per_fold] == pytest.approx(right) and of.accuracy == pytest.approx(
        sum(right) / 3
    )
    assert of.accuracy_std == pytest.approx(statistics.stdev(right)) and of.groups is None
    assert Summary.from_json(json.loads((tmp_path / "b/summary.json").read_text())) == run.summary
    assert any(line.startswith("3 folds: accuracy ") for line in run.summary.lines("b"))
    assert (tmp_path / "b/report.html").exists() and not (tmp_path / "b/folds").exists()


def test_a_run_that_is_finished_gets_its_folds_and_has_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw(tmp_path / "data", DATA)
    expected = figures(train(data, tmp_path / "whole", folds=3, **QUICK))
    plain = train(data, tmp_path / "run", **QUICK)
    run = train(data, tmp_path / "run", folds=3, **QUICK)
    assert figures(run) == expected and dataclasses.replace(run.summary, folds=None) == plain.summary
    assert figures(train(data, tmp_path / "run", folds=2, **QUICK)).num_folds == 2
    monkeypatch.setattr(tasks, "run", pytest.fail)
    for more in ({"folds": 2}, {}):
        assert figures(train(data, tmp_path / "run", **more, **QUICK)).num_folds == 2


def test_folds_that_are_done_are_not_done_again_and_their_order_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw(tmp_path / "data", DATA)
    whole = train(data, tmp_path / "whole", folds=4, **QUICK)
    done: list[int] = []

    def killed(function: Any, todo: dict[int, Any], *resources: Any) -> Any:
        for key in sorted(todo, reverse=True):
            if len(done) == 2:
                done.append(-1)
                raise KeyboardInterrupt
            yield key, function(todo[key])
            done.append(key)

    monkeypatch.setattr(tasks, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", folds=4, **QUICK)
    kept = sorted((tmp_path / "run/folds").iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:20])  # of a disk that was lost with its last bytes
    run = train(data, tmp_path / "run", folds=4, **QUICK)
    assert done[:3] == [3, 2, -1] and len(done) == 6 and {0, 1} < {*done[3:]}
    assert figures(run) == figures(whole) and rows(run) == rows(whole)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("frozen", {"frozen_blocks": 4, "augment": "flip"}),
        ("finetune", {"optim": {"num_epochs": 2, "head_epochs": 1, "global_batch_size": 8, "patience": 1}}),
        ("auto", {"optim": {"num_epochs": 2}}),
        ("notebook", {"optim": {"num_epochs": 1}}),
    ],
)
def test_folds_are_trained_in_the_phases_of_the_run(
    recipe: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw(tmp_path / "data", {"train/cat": 5, "train/dog": 5, "train/fox": 5})
    (data / "train/fox/bad.png").write_bytes(b"no picture")
    run = train(data, tmp_path / "run", recipe, folds=2, max_error_rate=0.1, head={"width": 8}, **settings)
    found = rows(run)
    assert len(found) == 15 and {*found[0]["probabilities"]} == {"cat", "dog", "fox"}
    assert figures(run) == figures(
        train(data, tmp_path / "run", recipe, folds=2, max_error_rate=0.1, head={"width": 8}, **settings)
    )


@pytest.mark.parametrize(("settings", "cpus"), [({}, 1), ({"frozen_blocks": 4}, 4)])
def test_a_fold_is_trained_to_the_epoch_of_the_model_and_a_head_by_one_thread_on_any_machine(
    settings: dict[str, Any], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def run(function: Any, todo: dict[int, Any], *resources: Any) -> Any:
        given.append(([(fold.num_epochs, fold.attempt.num_threads) for fold in todo.values()], resources[:2]))
        return ((key, function(fold)) for key, fold in todo.items())

    monkeypatch.setattr(launch, "nodes", lambda: Nodes((Node(8),)))
    monkeypatch.setattr(tasks, "run", run)
    data = draw(tmp_path / "data", DATA)
    optim = {"num_epochs": 4, "global_batch_size": 8, "lr": 0.5}  # too high: the first epochs are better than the last
    summary = train(data, tmp_path / "run", folds=2, head={"width": 8}, optim=optim, **settings).summary
    assert given == [([(summary.best_epoch, cpus)] * 2, (cpus, 0))]


def test_groups_are_in_one_fold_and_a_split_by_a_table_is_part_of_the_run(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/cat": 8, "train/dog": 8})
    table = tmp_path / "groups.csv"
    paths = sorted(str(path.relative_to(data)) for path in data.glob("*/*/*.png"))
    table.write_text(
        "path,group\n" + "".join(f"{path},{path.split('/')[1]} {n // 2}\n" for n, path in enumerate(paths))
    )
    run = train(data, tmp_path / "run", groups=str(table), folds=2, **QUICK)
    places: dict[str, set[int]] = {}
    for row in rows(run):
        places.setdefault(f"{row['label']} {paths.index(row['path']) // 2}", set()).add(row["fold"])
    assert len(places) == 8 and all(len(folds) == 1 for folds in places.values())
    assert figures(run).groups == str(table)
    moved = table.rename(tmp_path / "elsewhere.csv")  # where it lies is no part of the run, what it says is
    assert train(data, tmp_path / "run", groups=str(moved), folds=2, **QUICK) == run
    moved.write_text(moved.read_text().replace("cat 1", "cat 0"))
    with pytest.raises(UsageError, match="expected the same run"):
        train(data, tmp_path / "run", groups=str(moved), folds=2, **QUICK)


def test_labels_and_decisions_are_part_of_the_run_and_counted(tmp_path: Path) -> None:
    draw(tmp_path / "drawn", {"cat": 6, "dog": 6})
    (tmp_path / "flat").mkdir()
    lines = []
    for number, path in enumerate(sorted((tmp_path / "drawn").glob("*/*.png"))):
        path.rename(tmp_path / f"flat/{number}.png")
        lines.append(f"{number},{path.parent.name},{'val' if number % 3 == 0 else 'train'}")
    for name, text in (
        ("labels", "id,label,split\n" + "\n".join(lines)),
        ("out", "path,suggestion\n1.png,exclude\n2,relabel:dog\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
    settings = {"labels": str(tmp_path / "labels.csv"), "exclude": str(tmp_path / "out.csv"), **QUICK}
    run = train(tmp_path / "flat", tmp_path / "run", **settings)
    assert (run.summary.num_train, run.summary.num_val) == (7, 4)
    assert (run.summary.excluded, run.summary.relabelled) == (1, 1)
    assert json.loads((tmp_path / "run/summary.json").read_text())["excluded"] == 1
    assert train(tmp_path / "flat", tmp_path / "run", **settings) == run
    (tmp_path / "labels.csv").write_text("id,label,split\n" + "\n".join(lines).replace("cat,val", "cat,train", 1))
    with pytest.raises(UsageError, match="expected the same run"):
        train(tmp_path / "flat", tmp_path / "run", **settings)


def test_a_group_on_both_sides_is_in_the_last_lines_and_too_many_folds_end_before_training(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/cat": 3, "train/dog": 3, "val/cat": 2, "val/dog": 2})
    run = train(data, tmp_path / "run", groups=r"\w+/(\d)\.png", **QUICK)  # train/cat/0 and val/cat/0 are 0
    assert any("4 pictures of val/ are of groups" in line for line in run.summary.lines("run"))
    with pytest.raises(InputError, match="at least 5 groups for 5 folds, found 3"):
        train(data, tmp_path / "other", groups=r"\w+/(\d)\.png", folds=5, **QUICK)
    assert not (tmp_path / "other/config.json").exists()


def test_figures_are_those_of_each_fold_at_a_temperature_that_the_others_chose() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(0, 3, (count,), generator=generator) for count in (30, 31, 32)]
    logits = [
        5 * torch.randn(len(of), 3, generator=generator) + 4 * torch.nn.functional.one_hot(of, 3) for of in labels
    ]
    calibrated = folds.calibrated(logits, labels)
    for number in range(3):
        others = [n for n in range(3) if n != number]
        temperature = quality.fit_temperature(
            torch.cat([logits[n] for n in others]), torch.cat([labels[n] for n in others])
        )
        assert torch.equal(calibrated[number], logits[number] / temperature)
    found = folds.measure(calibrated, labels, Classes(("a", "b", "c")), "x", 1.0)
    right = sum(int((of.argmax(1) == targets).sum()) for of, targets in zip(logits, labels, strict=True))
    assert found.accuracy == pytest.approx(right / 93) and found.accuracy_interval == accuracy_interval(
        found.accuracy, 93
    )
    losses = [
        torch.nn.functional.cross_entropy(of.double(), t).item() for of, t in zip(calibrated, labels, strict=True)
    ]
    assert [fold.log_loss for fold in found.per_fold] == pytest.approx(losses)
    assert found.log_loss_std == pytest.approx(statistics.stdev(losses))
