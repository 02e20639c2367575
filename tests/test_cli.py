"""What a person does wrong ends with the exit code of the design, one line, and nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support import build, save_model

from tlearn.cli import main
from tlearn.config import HeadConfig, PreprocessConfig


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 120, 40)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(3):
                put(folder / split / name / f"{number}.png")
    return folder


def missing_folder(data: Path) -> None:
    shutil.rmtree(data)


def file_instead_of_folder(data: Path) -> None:
    shutil.rmtree(data)
    data.write_text("not a folder")


def no_train(data: Path) -> None:
    shutil.rmtree(data / "train")


def empty_class_folder(data: Path) -> None:
    shutil.rmtree(data / "train" / "dog")
    (data / "train" / "dog").mkdir()


def one_class_only(data: Path) -> None:
    shutil.rmtree(data / "train" / "dog")
    shutil.rmtree(data / "val" / "dog")


def class_that_train_lacks(data: Path) -> None:
    put(data / "val" / "fox" / "1.png")


def no_pictures(data: Path) -> None:
    for path in data.rglob("*.png"):
        path.rename(path.with_suffix(".txt"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing_folder, "found nothing"),
        (file_instead_of_folder, "found a file"),
        (no_train, "expected a folder train/"),
        (empty_class_folder, "found none in dog"),
        (one_class_only, "at least two class folders, found 1 (cat)"),
        (class_that_train_lacks, "fox"),
        (no_pictures, "expected images in every class folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_data_that_cannot_be_trained_on_ends_with_3(
    spoil: Callable[[Path], None], says: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(data)
    run = tmp_path / "run"
    assert main(["train", "--data", str(data), "--output", str(run), "--cache", str(tmp_path / "cache")]) == 3
    error = capfd.readouterr().err
    assert error.startswith("tlearn: expected") and error.count("\n") == 1 and says in error
    assert not run.exists() and not (tmp_path / "cache").exists()


def test_weights_with_a_flipped_byte_end_with_6(
    data: Path, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    original = next((cache / "weights").iterdir())
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "cache" / "weights" / original.name).write_bytes(content)
    run = tmp_path / "run"
    assert main(["train", "--data", str(data), "--output", str(run), "--cache", str(tmp_path / "cache")]) == 6
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "sha256" in error and original.name in error
    assert not list(run.iterdir())


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", PreprocessConfig(image_size=32, short_side=32))
    return tmp_path / "model"


def score(model_folder: Path, data: Path, output: Path) -> int:
    return main(["score", "--model", str(model_folder), "--input", str(data), "--output", str(output)])


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_model_with_a_flipped_byte_ends_with_6(
    name: str, model_folder: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((model_folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model_folder / name).write_bytes(content)
    assert score(model_folder, data, tmp_path / "out" / "scores.parquet") == 6
    assert capfd.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_scoring_without_model_or_input_ends_with_3(model_folder: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "scores.parquet"
    assert score(tmp_path / "nowhere", data, output) == 3
    assert score(model_folder, tmp_path / "nowhere", output) == 3
    assert score(model_folder, data / "train" / "cat" / "0.png", output) == 3
    assert not output.exists()


def test_an_output_that_cannot_be_written_ends_with_7(
    model_folder: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert score(model_folder, data, tmp_path / "file" / "scores.parquet") == 7
    assert main(["train", "--data", str(data), "--output", str(tmp_path / "file" / "run")]) == 7
    for line in capfd.readouterr().err.splitlines():
        assert line.startswith("tlearn: expected a folder that can be written")


def test_usage_errors_end_with_2(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["trian"]) == 2
    assert main(["train", "forzen", "--data", str(data), "--output", str(tmp_path / "run")]) == 2
    assert main(["report"]) == 2
    for words in (["train"], ["score", "--mdoel", "x"], ["train", "--data", "x", "--output", "y", "--seed", "one"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", "x", "--output", "y", "--optim.num-epochs", "0"])
    assert ended.value.code == 2
    assert "num_epochs must be at least 1, got 0" in capfd.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, tlearn.cli; tlearn.cli.main(['--help']); print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("set()\n")


def test_every_process_decodes_with_torchvision_and_none_imports_it(cache: Path) -> None:
    import subprocess
    import sys

    code = """
import sys, torch, tlearn.demo.bench, tlearn.features.cache, tlearn.scoring.actor, tlearn.training.job
tlearn.training.job.weights.load("imagenet", sys.argv[1])
assert torch.ops.image.decode_jpeg
print({'torchvision', 'torchmetrics', 'torch._dynamo', 'onnx'} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(cache)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"


def test_same_seed_same_first_weights() -> None:
    from tlearn.training import loop

    heads = []
    for _ in range(2):
        _, trainable = build(5, PreprocessConfig(image_size=32, short_side=32), HeadConfig(width=4), 1)
        trainable.head.initialize(loop.generator(3, 3))
        heads.append(trainable.head.state_dict())
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_job_logs_lines_of_json(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def events() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]

    assert main(["check", "--data", str(data)]) == 0
    assert events() == []
    monkeypatch.setenv("TLEARN_LOG", "json")
    assert main(["check", "--data", str(data)]) == 0
    done = events()
    assert [(line["event"], line.get("code")) for line in done] == [("started", None), ("ended", 0)]
    shutil.rmtree(data)
    assert main(["check", "--data", str(data)]) == 3
    failed = events()
    assert [(line["event"], line.get("code")) for line in failed] == [("started", None), ("error", 3), ("ended", 3)]
    assert "found nothing" in failed[1]["error"] and len({line["job"] for line in done + failed}) == 1
