"""What a person does wrong ends with the exit code of the design, one line, and nothing half-written."""

import dataclasses
import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support import build, save_model

from tlearn import errors
from tlearn.cli import main, parse
from tlearn.cli.words import arranged
from tlearn.config import (
    BenchConfig,
    DemoConfig,
    EvaluateConfig,
    HeadConfig,
    PreprocessConfig,
    ScoreConfig,
    ScoresConfig,
    SubmitConfig,
    TrainConfig,
)
from tlearn.errors import UsageError
from tlearn.recipes import SUMMARIES


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


def test_what_is_no_table_ends_with_3_and_a_single_file_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [main([command, str(tmp_path / "nope")]) for command in ("scores", "verify")] == [3, 3]
    assert main(["verify", str(tmp_path)]) == 3
    rows = {"path": ["a"], "status": ["scored"], "prediction": ["cat"], "probability": [0.9], "error": [None]}
    rows["scored_at"] = [datetime.now(UTC)]
    pq.write_table(pa.table(rows), tmp_path / "scores.parquet")
    assert main(["verify", str(tmp_path / "scores.parquet")]) == 3
    capfd.readouterr()
    assert main(["scores", str(tmp_path / "scores.parquet")]) == 0
    assert "cat" in capfd.readouterr().out


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


@pytest.mark.parametrize(("computed", "rate"), [(7, False), (500, True)])
def test_the_last_lines_of_score_say_how_long_and_what_next_and_no_rate_of_a_handful(
    computed: int, rate: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tlearn.scoring import job

    found = SimpleNamespace(
        report=None,
        listed=computed, unchanged=0, added=computed, computed=computed, statuses={"scored": computed}, drift=None,
        accuracy=None, accuracy_interval=None, failed=0, scored=computed, images_per_second=592.31, seconds_total=4.4,
        exceeds=lambda share: False, not_published=None,
    )  # fmt: skip
    monkeypatch.setattr(job, "score", lambda config: found)
    (tmp_path / "model.json").touch()
    assert main(["score", str(tmp_path), str(tmp_path), "--output", str(tmp_path / "my scores")]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.endswith("; 4 seconds" + (", 592.3 images/s" if rate else ""))
    assert last == f"next: tlearn scores '{tmp_path / 'my scores'}'"


def test_scoring_without_model_or_input_ends_with_3(model_folder: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "scores.parquet"
    assert score(tmp_path / "nowhere", data, output) == 3
    assert score(model_folder, tmp_path / "nowhere", output) == 3
    assert not output.exists()


def test_an_output_that_cannot_be_written_ends_with_7(
    model_folder: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert score(model_folder, data, tmp_path / "file" / "scores.parquet") == 7
    assert main(["train", "--data", str(data), "--output", str(tmp_path / "file" / "run")]) == 7
    for line in capfd.readouterr().err.splitlines():
        assert line.startswith("tlearn: expected a folder that can be written")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "got trian; did you mean train?"),
        (["train", "forzen", "--data", "x", "--output", "y"], "got forzen; did you mean frozen?"),
        (["train"], "--data"),
        (["report"], "expected --run, got none: tlearn report runs/a"),
        (["score", "--mdoel", "x", "--input", "y", "--output", "z"], "--model"),
        (["train", "--data", "x", "--output", "y", "--seed", "one"], "one"),
        (["train", "--data", "x", "--output", "y", "--optim.lrr", "1"], "did you mean --optim.lr?"),
        (["train", "--data", "x", "--output", "y", "--recipe", "auto"], "--recipe"),
        (["train", "--data", "x", "--output", "y", "--optim.num-epochs", "0"], "num_epochs must be at least 1, got 0"),
        (["submit", "--address", "http://x:1", "sorce"], "sorce"),
        (["train", "--data", "x", "--outptu", "y"], "got --outptu; did you mean --output?"),
        (["train", "nowhere", "--output", "y"], "a folder that is there, or a recipe"),
        (["train", "frozen", "--data", "x", "--output", "y", "z"], "got z: tlearn train frozen --help"),
        (["check", "--json", "/nowhere", "more"], "got more: tlearn check --help"),
        (["train", "x/", "--output", "y", "--augment", "ful"], "(none, flip, full), got ful; did you mean full?"),
        (["train", "x/", "--output"], "expected a value after --output"),
        (["train", "x/", "--output", "--json"], "expected a value after --output"),
        (["train", "x/", "--output", "y", "--val-fraction=much"], "expected a number for --val-fraction, got much"),
        (["score", "m", "i", "--output", "o", "--workers"], "expected a value after --workers"),
        (["demo", "--num-classes", "5"], "num_classes must be from 2 to 3, got 5"),
        (["demo", "--num-test", "0"], "num_test must be at least 1, got 0"),
        (["demo", "--num-train", "-3"], "num_train must be at least"),
        (["scores", "t", "--num-rows", "-1"], "num_rows must be at least 0, got -1"),
        (
            ["train", "x/", "--output", "y", "--groups", "(a"],
            "groups must be a regular expression or NAME.csv, got '(a'",
        ),
        (["check", "x/", "--groups", "*"], "groups must be a regular expression or NAME.csv, got '*'"),
        (["train", "x/", "--output", "y", "--folds", "1"], "folds must be from 2 to 100, got 1"),
        (["submit"], "expected a job (train or score)"),
        (
            ["train", "x/", "--output", "y", "--optim.clip-norm", "abc"],
            "expected a number for --optim.clip-norm, got abc",
        ),
        (["score", "m", "i", "--output", "o", "--batch-size=1.5"], "expected a whole number for --batch-size, got 1.5"),
        (["submit", "--retry-secnds", "3", "train", "/d", "--output", "/o"], "did you mean --retry-seconds?"),
        (["submit", "train", "/d", "--outptu", "/o"], "did you mean --output?"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_usage_errors_end_with_2_and_say_what_was_meant(
    words: list[str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capfd.readouterr().err
    assert says in error and error.startswith("tlearn: ") and error.count("\n") == 1 and "Config" not in error


def test_a_fault_of_ours_is_no_mistake_of_the_user(
    data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for error in (ValueError("shapes (3,4) and (5,6) not aligned"), OSError("odd"), RuntimeError("odd"), KeyError("a")):
        monkeypatch.setattr("tlearn.doctor.check.check", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert main(["check", "--data", str(data), "--quick"]) == 70
        lines = capfd.readouterr().err.splitlines()
        assert lines[0].startswith("tlearn: this is a fault of tlearn") and "report it" in lines[0]
        assert lines[1].startswith("Traceback") and type(error).__name__ in lines[-1]


def test_every_error_of_ours_has_its_code() -> None:
    kinds = {kind.__name__: kind.code for kind in errors.TlearnError.__subclasses__()}
    assert kinds == {
        "UsageError": 2, "InputError": 3, "TooManyBadFiles": 4, "TrainingError": 5, "IntegrityError": 6,
        "StorageError": 7, "LockedError": 75,
    }  # fmt: skip


COMMANDS = (
    "train", "score", "evaluate", "compare", "submit", "scores", "verify", "check", "report", "export", "weights",
    "demo", "bench",
)  # fmt: skip


@pytest.mark.parametrize("words", [[], ["train"], ["train", "auto"], ["submit", "train"], *([c] for c in COMMANDS[1:])])
def test_every_command_has_help_and_it_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import resource, sys, tlearn.cli\n"
        f"code = tlearn.cli.main([*{words!r}, '--help'])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(code, {'torch', 'ray', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules), used.ru_utime + used.ru_stime)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *text, last = output.splitlines()
    ended, modules, seconds = last.split()
    assert (ended, modules) == ("0", "set()") and len(text) > 5
    assert float(seconds) < 1.0  # of the processor, on slow ones too; a third of it on a fast one
    assert text[0].startswith("usage: tlearn")
    examples = [line for line in text if line.startswith("tlearn ")]
    assert not words or (text[2] and [line.split()[1] for line in examples] in (words[:1], words[-1:]))


def test_help_lists_every_command_and_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"• {name} {summary[:20]}" in shown for name, summary in SUMMARIES.items())


@pytest.mark.parametrize("words", [["train", "frozen"], ["submit"], ["score"], ["demo"]])
def test_the_help_of_a_setting_is_one_paragraph(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words, "--help"]) == 0
    cells = [line[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    told = [(len(cell) - len(cell.lstrip()), cell.strip(), len(cell)) for cell in cells]
    for (indent, text, width), (next_indent, following, _) in itertools.pairwise(told):
        if indent == next_indent > 4 and not following.startswith(("-", "{")):
            assert indent + len(text) + 1 + len(following.split()[0]) > width - 1, (text, following)


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["train", "photos/", "--output", "o"], ["train", "frozen", "--data", "photos/", "--output", "o"]),
        (
            ["train", "auto", "--seed", "3", "./x", "--output=o"],
            ["train", "auto", "--data", "./x", "--output", "o", "--seed", "3"],
        ),
        (["train", "frozen", "--shuffle", "p/", "--output", "o"], ["train", "--data", "p/", "--output", "o"]),
        (["check", "--json", "p"], ["check", "--data", "p", "--json"]),
        (["check", "p", "--quiet"], ["check", "--data", "p", "--quiet"]),
        (["report", "r"], ["report", "--run", "r"]),
        (["compare", "r", "--json", "s"], ["compare", "--a", "r", "--b", "s", "--json"]),
        (["score", "m", "i", "--output", "o"], ["score", "--model", "m", "--input", "i", "--output", "o"]),
        (["score", "--model", "m", "i", "--output", "o"], ["score", "--input", "i", "--output", "o", "--model", "m"]),
        (
            ["train", "p/", "--output", "o", "--head.no-unit-length"],
            ["train", "p/", "--output", "o", "--head.unit_length=False"],
        ),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_path_by_position_is_the_path_behind_its_flag(words: list[str], same: list[str]) -> None:
    if "unit_length=False" in same[-1]:
        same = [*same[:-1], "--head.no_unit_length"]
    assert parse(words).settings == parse(same).settings


@dataclasses.dataclass
class Several:
    """tlearn several"""

    model: str
    input: str | tuple[str, ...]


@pytest.mark.parametrize("words", [["m", "a", "b"], ["--model", "m", "a", "b"], ["a", "b", "--model", "m"]])
def test_what_takes_several_paths_takes_them_by_position_too(words: list[str]) -> None:
    taken = arranged(words, Several, ("model", "input"), "tlearn several")
    assert taken[taken.index("--input") + 1 :][:2] == ["a", "b"] and taken[taken.index("--model") + 1] == "m"


NOWHERE = [
    ["train", "--data", "{}/nowhere", "--output", "{}/run"],
    ["train", "--data", "{}", "--output", "{}/run", "--weights", "{}/none.pth"],
    ["train", "--data", "{}", "--output", "{}/file/run"],
    ["train", "--data", "{}", "--output", "{}/run", "--cache", "{}/file"],
    ["score", "--model", "{}/nowhere", "--input", "{}", "--output", "{}/s.parquet"],
    *(
        ["train", "--data", "{}", "--output", "{}/run", flag, "{}/no.csv"]
        for flag in ("--labels", "--exclude", "--groups")
    ),
    *(["check", "{}", flag, "{}/no.csv"] for flag in ("--labels", "--exclude", "--groups")),
    ["check", "{}/nowhere"],
    ["check", "{}/" + 300 * "x"],
    ["report", "{}/\udcff"],
    ["evaluate", "{}/nowhere", "{}"],
    ["report", "{}/nowhere"],
    ["compare", "{}/nowhere", "{}"],
    ["compare", "{}", "{}/nowhere"],
    ["compare", "{}", "{}", "--output", "{}/file/d.csv"],
    ["scores", "{}/nowhere"],
    ["verify", "{}/nowhere"],
    ["weights", "{}/nowhere.pth"],
    ["bench", "{}/nowhere"],
    ["demo", "{}/file"],
]


def test_a_path_that_leads_nowhere_is_said_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    commands = [[word.format(tmp_path) for word in words] for words in NOWHERE]
    code = (
        f"import sys, tlearn.cli; print(*[tlearn.cli.main(words) for words in {commands!r}])\n"
        "print({'torch', 'ray', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    codes, loaded = done.stdout.splitlines()
    assert loaded == "set()" and codes.split() == ["7" if "/file" in " ".join(words) else "3" for words in NOWHERE]
    errors = done.stderr.splitlines()
    assert len(errors) == len(NOWHERE) and all(line.startswith("tlearn: expected") for line in errors)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("line", "code"), [("train frozen --help >&-", 0), ("--version >&- 2>&-", 0), ("demo --num-tset 3 2>&-", 2)]
)
def test_a_closed_output_changes_nothing_but_what_is_seen(line: str, code: int) -> None:
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m tlearn {line}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


CONFIGS = (
    BenchConfig,
    DemoConfig,
    EvaluateConfig,
    HeadConfig,
    PreprocessConfig,
    ScoreConfig,
    ScoresConfig,
    SubmitConfig,
)
NUMBERS = [
    (config, field.name)
    for config in CONFIGS
    for field in dataclasses.fields(config)
    if {int, float} & {field.type, *get_args(field.type)} and get_origin(field.type) is not dict
]


@pytest.mark.parametrize(("config", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_has_a_range(config: Any, name: str) -> None:
    needed = {field.name: "x" for field in dataclasses.fields(config) if field.default is field.default_factory}
    config(**needed)
    with pytest.raises(UsageError, match=name):
        config(**needed, **{name: -(10**9)})


def test_a_run_given_for_its_model_is_pointed_to_it(
    model_folder: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert score(model_folder.parent, data, tmp_path / "scores.parquet") == 3
    assert f"give --model {model_folder}" in capfd.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tlearn {metadata.version('tlearn')}\n"


def test_python_m_tlearn_is_tlearn() -> None:
    done = subprocess.run([sys.executable, "-m", "tlearn", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "tlearn")
    done = subprocess.run([sys.executable, "-m", "tlearn", "trian"], capture_output=True, text=True)
    assert done.returncode == 2


@pytest.mark.parametrize(("number", "word"), [("SIGINT", "stopped"), ("SIGTERM", "terminated"), ("SIGHUP", "hung up")])
def test_a_signal_while_it_imports_ends_a_command_with_its_word(number: str, word: str) -> None:
    code = (
        f"import os, signal, sys; signal.signal(signal.{number}, signal.default_int_handler)\n"
        "class Signalled:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == 'tyro': os.kill(os.getpid(), signal.{number})\n"
        "sys.meta_path.insert(0, Signalled())\n"
        "from tlearn.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    said = f"tlearn: {word}; the same command goes on from here\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.Signals[number], "", said)


def test_a_shell_completes_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tyro-print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("verify", "finetune", "--optim.lr"))


def test_whoever_has_read_enough_ends_nothing_badly(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tlearn train frozen --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0" and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["submit", "train", "--data", "/d", "--output", "/o"],
        ["submit", "--submission-id", "score", "train", "frozen", "--data", "/d", "--output", "/o"],
        ["submit", "--submission-id", "train", "score", "--model", "/m", "--input", "train", "--output", "/o/"],
    ],
)
def test_the_words_of_a_submitted_job_are_found(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[SubmitConfig, TrainConfig | ScoreConfig, Sequence[str]]] = []
    monkeypatch.setattr("tlearn.distributed.submit.run", lambda *arguments: sent.append(arguments) or 0)
    assert main(words) == 0
    ((config, job, job_words),) = sent
    assert config.submission_id == (words[2] if words[1].startswith("--") else None)
    parsed = parse(job_words)
    assert (parsed.settings.config if parsed.name == "train" else parsed.settings) == job


def test_no_process_imports_torchvision_to_decode(cache: Path) -> None:
    code = """
import sys, tlearn.demo.bench, tlearn.features.cache, tlearn.scoring.actor, tlearn.training.job
tlearn.training.job.weights.load("imagenet", sys.argv[1])
print({'torchvision', 'torchmetrics', 'torch._dynamo', 'onnx'} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(cache)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"


def test_same_seed_same_first_weights() -> None:
    from tlearn.training.streams import Stream, generator

    heads = []
    for _ in range(2):
        _, trainable = build(5, PreprocessConfig(image_size=32, short_side=32), HeadConfig(width=4), 1)
        trainable.head.initialize(generator(3, Stream.HEAD))
        heads.append(trainable.head.state_dict())
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_job_logs_lines_of_json(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def events() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]

    assert main(["check", "--data", str(data), "--quick"]) == 0
    assert events() == []
    monkeypatch.setenv("TLEARN_LOG", "json")
    assert main(["check", "--data", str(data), "--quick"]) == 0
    done = events()
    assert [(line["event"], line.get("code")) for line in done] == [("started", None), ("ended", 0)]
    shutil.rmtree(data)
    assert main(["check", "--data", str(data), "--quick"]) == 3
    failed = events()
    assert [(line["event"], line.get("code")) for line in failed] == [("started", None), ("error", 3), ("ended", 3)]
    assert "found nothing" in failed[1]["error"] and len({line["job"] for line in done + failed}) == 1


def test_pictures_without_class_folders_are_trained_on_where_a_file_has_their_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: TrainConfig, given: frozenset[str]) -> None:
        raise errors.TrainingError("reached")

    monkeypatch.setattr("tlearn.training.job.train", train)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "labels.csv").write_text("id,label\n1,cat\n")
    words = ["train", str(tmp_path), "--output", str(tmp_path / "run")]
    assert main(words) == 3 and "--labels FILE" in capfd.readouterr().err
    assert main([*words, "--labels", str(tmp_path / "labels.csv")]) == 5
    assert capfd.readouterr().err == "tlearn: reached\n"
