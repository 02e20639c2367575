"""The Python face: what it names, what it loads, and that it says what the commands say."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import picture
from support import save_model

import tlearn
from tlearn.classes import Classes
from tlearn.config import PreprocessConfig
from tlearn.errors import InputError, UsageError
from tlearn.recipes import configured

PREPROCESS = PreprocessConfig(image_size=32, short_side=36)


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages a process holds after this."""
    code += "\nimport sys; print(*({'ray', 'torch', 'pyarrow', 'tyro', 'rich', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_face_is_these_names() -> None:
    assert tlearn.__all__ == [
        "RECIPES", "Comparison", "Evaluated", "Exported", "Findings", "Predictor", "Published", "Row", "Run",
        "ScoreConfig", "Scored", "TlearnError", "TrainConfig", "check", "compare", "evaluate", "export", "load",
        "publish", "score", "train",
    ]  # fmt: skip
    assert all(getattr(tlearn, name).__doc__ for name in tlearn.__all__)
    assert set(tlearn.__all__) <= set(dir(tlearn))
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        tlearn.predict  # noqa: B018


@pytest.mark.parametrize("count", [2, 300])
def test_a_model_is_shown_in_one_line(count: int, tmp_path: Path) -> None:
    classes = Classes.of(f"class {number}" for number in range(count))
    digest = save_model(tmp_path / "model", PREPROCESS, classes)
    model = tlearn.load(tmp_path / "model", engine="torch", precision="fp32")
    for shown in (repr(model), repr(model.large)):
        assert "\n" not in shown and len(shown) < 300 + len(str(tmp_path))
    assert "'class 0', 'class 1'" in repr(model) and digest in repr(model)
    assert str(tmp_path / "model") in repr(model)


def test_importing_it_loads_nothing_heavy() -> None:
    assert loaded_by("import tlearn") == set()


def test_predicting_loads_no_ray(tmp_path: Path) -> None:
    save_model(tmp_path / "model", PREPROCESS)
    (tmp_path / "a.png").write_bytes(picture(1))
    code = f"import tlearn; print(tlearn.load({str(tmp_path / 'model')!r}).predict([{str(tmp_path / 'a.png')!r}]))"
    assert "ray" not in loaded_by(code)


def test_rows_come_in_the_order_of_the_paths_whatever_the_files_are(tmp_path: Path) -> None:
    save_model(tmp_path / "model", PREPROCESS)
    (tmp_path / "elsewhere").mkdir()
    for number in range(11):
        (tmp_path / ("elsewhere" if number % 2 else "") / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    paths = [str(path) for path in sorted(tmp_path.rglob("*.png"))]
    paths[3:3] = [str(tmp_path / "broken.jpg"), str(tmp_path / "gone.jpg")]
    model = tlearn.load(tmp_path / "model")
    rows = list(model.predict(paths))
    assert [row.path for row in rows] == paths
    assert [row.status for row in rows[3:5]] == ["unreadable", "missing"]
    assert all(row.status == "scored" and row.prediction in ("cat", "dog") for row in rows[:3] + rows[5:])
    assert all(abs(sum(row.probabilities.values()) - 1) < 1e-6 for row in rows if row.status == "scored")
    (alone,) = model.predict([paths[7]])
    assert alone.prediction == rows[7].prediction and alone.probability == pytest.approx(rows[7].probability, abs=1e-5)
    assert list(model.predict([])) == []
    (strange, known) = model.predict(["nobody://knows/this.jpg", Path(paths[7])])
    assert (strange.status, known.prediction) == ("io_error", rows[7].prediction)
    with pytest.raises(tlearn.TlearnError, match="expected a list of paths"):
        model.predict(paths[7])


def test_what_is_wrong_is_one_line_and_an_error_of_ours(tmp_path: Path) -> None:
    for call in (
        lambda: tlearn.load(tmp_path / "nowhere"),
        lambda: tlearn.check(tmp_path / "nowhere"),
        lambda: tlearn.score(tmp_path / "nowhere", tmp_path, tmp_path / "scores.parquet"),
        lambda: tlearn.train(tmp_path / "nowhere", tmp_path / "run"),
        lambda: tlearn.train(tmp_path),
        lambda: tlearn.train(tmp_path, tmp_path / "run", recipe="forzen"),
        lambda: tlearn.train(tmp_path, tmp_path / "run", sede=1),
        lambda: tlearn.train(tmp_path, tmp_path / "run", optim={"lrr": 1}),
        lambda: tlearn.train(tmp_path, tmp_path / "run", optim={"lr": -1}),
    ):
        with pytest.raises(tlearn.TlearnError) as raised:
            call()
        assert "\n" not in str(raised.value)
    with pytest.raises(tlearn.TlearnError, match="did you mean seed"):
        tlearn.train(tmp_path, tmp_path / "run", sede=1)


def test_settings_of_python_are_those_of_the_command_line() -> None:
    from tlearn import cli, recipes

    words = "train finetune --data photos --output runs/a --seed 3 --optim.lr 2e-5 --head.no-unit-length --no-shuffle"
    command = cli.parse(words.split())
    settings = {"seed": 3, "optim": {"lr": 2e-5}, "head": {"unit_length": False}, "shuffle": False}
    assert command.settings.config == recipes.configured("finetune", "photos", "runs/a", settings)
    names = {"seed", "optim.lr", "head.unit_length", "shuffle"}
    assert tlearn._dotted(settings) == names
    assert names <= cli.given(command.words)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tlearn.load(None),
        lambda: tlearn.load(""),
        lambda: tlearn.load(b"run/model"),
        lambda: tlearn.check(""),
        lambda: tlearn.check(1),
        lambda: tlearn.train(["data"], "run"),
        lambda: tlearn.train("data", "run", recipe=None),
        lambda: tlearn.score(None, "input", "table/"),
        lambda: tlearn.score("model", ["a.jpg", None], "table/"),
        lambda: tlearn.score("model", "input", 3),
        lambda: tlearn.evaluate("model", None),
        lambda: tlearn.compare("run", ""),
        lambda: tlearn.publish(""),
        lambda: tlearn.publish(None),
    ],
)
def test_what_is_no_path_is_an_error_of_usage(call: Callable[[], object]) -> None:
    """An empty one too: "$UNSET" of a script is not the working directory."""
    with pytest.raises(UsageError, match=r"path|recipe"):
        call()


def test_a_file_that_is_no_model_folder_is_an_error_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match="model folder"):
        tlearn.load(tmp_path / "model.json")


def test_numbers_of_numpy_are_numbers() -> None:
    config = configured("frozen", "data", "run", {"seed": np.int64(3), "optim": {"lr": np.float32(0.5)}})
    assert (config.seed, config.optim.lr) == (3, 0.5) and type(config.seed) is int
