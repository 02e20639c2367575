"""What the READMEs show is there: commands are parsed, Python is run or checked, names and links lead somewhere."""

import ast
import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import picture
from support import save_model

import tlearn
from tlearn import cli, config, errors
from tlearn.cli import parsing
from tlearn.data import status
from tlearn.errors import UsageError
from tlearn.recipes import RECIPES, configured
from tlearn.scoring import table

PROJECT = Path(__file__).parent.parent
WINGS = sorted(path.parent.name for path in (PROJECT / "tlearn").glob("*/__init__.py"))
PAGES = {
    name: (PROJECT / name).read_text()
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "cluster/README.md",
        "tests/benchmarks/README.md",
        "tlearn/doctor/README.md",
        "tlearn/network/README.md",
        "tlearn/report/README.md",
        "tlearn/scoring/README.md",
        "tlearn/storage/README.md",
        "tlearn/training/README.md",
    )
}
SOURCES = "\n".join(path.read_text() for path in [*(PROJECT / "tlearn").rglob("*.py"), PROJECT / "pyproject.toml"])
MAKEFILE = (PROJECT / "Makefile").read_text()
CLUSTER = "\n".join(
    path.read_text() for path in (PROJECT / "cluster").rglob("*") if path.suffix in (".yaml", ".sbatch")
)

# Commands of others; the files of ours among their words must be there.
OTHERS = {
    "docker",
    "kubectl",
    "openssl",
    "tr",
    "sbatch",
    "ray",
    "chmod",
    "cp",
    "systemctl",
    ".venv/bin/ruff",
    ".ci/run",
}
FLAGS_OF_OTHERS = {"--feature-gates=RayCronJob=true"}


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    found = []
    for page, text in PAGES.items():
        for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            assert kind in ("sh", "python", "sql", "text"), f"{page}: a block without a language"
            found.append(Block(page, kind, body))
    return [block for block in found if block.language == language]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands in `backticks` outside of blocks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(block: Block) -> Iterator[list[str]]:
    """Words of each command: lines that go on are joined, comments dropped, `&&` and `|` separate."""
    text = re.sub(r"(\\|\|)\n\s*", lambda match: match[1].strip("\\") + " ", block.text)
    for line in text.splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "|"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


COMMANDS = [(block.page, words) for block in blocks("sh") for words in commands(block)]


def understood(words: list[str]) -> bool:
    """Whether tlearn's own parser takes these words, without running anything."""
    if words in (["--version"], ["--help"]) or words[:1] == ["--tyro-write-completion"] or words[-1:] == ["--help"]:
        return cli.main(words) == 0
    try:
        cli.parse([word for word in words if word != "[RECIPE]"])
    except (SystemExit, UsageError):
        return False
    return True


def files_are_there(words: list[str]) -> bool:
    """Whether what looks like a file of the project is one."""
    wanted = [word.partition("::")[0] for word in words if re.match(r"(cluster|jobs|tests|tlearn|\.ci)/\S", word)]
    return all(list(PROJECT.glob(name)) for name in wanted)


def make_knows(words: list[str]) -> bool:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    variables = {word.partition("=")[0] for word in words if "=" in word}
    return {word for word in words if "=" not in word} <= targets and all(
        f"$({name})" in MAKEFILE for name in variables
    )


def script_has(words: list[str]) -> bool:
    """Whether a benchmark has these flags."""
    script = PROJECT / words[0]
    flags = [word for word in words if word.startswith("--")]
    return script.is_file() and all(f'add_argument("{flag}"' in script.read_text() for flag in flags)


def pytest_finds(words: list[str]) -> bool:
    markers = re.findall(r'^  "(\w+):', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    if "-m" in words and words[words.index("-m") + 1] not in markers:
        return False
    named = [word.split("::") for word in words if "::" in word]
    return all(f"def {test}(" in (PROJECT / file).read_text() for file, test in named)


def holds(words: list[str]) -> bool:
    """Whether a command of a README would be understood."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "export":
        return all(re.match(r"[A-Z_]+=", word) for word in words[1:])
    if not files_are_there(words):
        return False
    program, rest = words[0], words[1:]
    if program == "tlearn":
        return understood(rest)
    if program == "make":
        return make_knows(rest)
    if program.endswith("/pytest"):
        return pytest_finds(rest)
    if program.rpartition("/")[2] == "python":
        return script_has(rest)
    if "--" in rest:  # ray job submit
        script = rest[rest.index("--") + 1 :]
        return script[0] == "python" and understood([Path(script[1]).stem, *script[2:]])
    return program in OTHERS


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page}: {shlex.join(words)[:60]}" for page, words in COMMANDS]
)
def test_every_command_is_understood(
    page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert holds(words)


@pytest.mark.parametrize(
    "line",
    [
        "tlearn trian --data DIR --output RUN",
        "tlearn train --data DIR",
        "tlearn train frozen --data DIR --output RUN --optim.rate 1",
        "tlearn score --model M --input DIR",
        "tlearn submit train --data DIR --output RUN --attempts 3",
        "ray job submit --runtime-env cluster/runtime_env.yaml -- python jobs/score.py --model M --input DIR",
        "ray up cluster/vm/clusters.yaml",
        "sbatch cluster/slurm/tune.sbatch",
        "make tests",
        "make peers FOLDER=DIR",
        "python tests/benchmarks/listings.py 10",
        "python tests/benchmarks/scale.py 4 --images 10",
        ".venv/bin/pytest -m quick",
        ".venv/bin/pytest tests/test_readme.py::test_that_is_not_there",
        "helm install tlearn",
    ],
)
def test_a_command_that_is_wrong_is_found(line: str) -> None:
    assert not holds(shlex.split(line))


def test_every_command_of_tlearn_is_in_the_readme() -> None:
    shown = {words[1] for page, words in COMMANDS if page == "README.md" and words[0] == "tlearn"}
    assert set(parsing.COMMANDS) <= shown


def flags_of(kind: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(kind):
        name = prefix + field.name.replace("_", "-")
        default = field.default_factory() if callable(field.default_factory) else field.default
        if dataclasses.is_dataclass(default):
            yield from flags_of(type(default), f"{name}.")
        yield from (f"--{name}", f"--{prefix}no-{name.removeprefix(prefix)}")


FLAGS = {
    "--help",
    "--version",
    *FLAGS_OF_OTHERS,
    *(
        flag
        for kind in vars(config).values()
        if dataclasses.is_dataclass(kind) and isinstance(kind, type)
        for flag in flags_of(kind)
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_in_the_prose_exists(page: str) -> None:
    named = {word for span in spans(PAGES[page]) for word in span.split() if word.startswith("--")}
    assert named <= FLAGS


def test_commands_in_the_prose_are_commands() -> None:
    named = [span.split()[1:] for text in PAGES.values() for span in spans(text) if span.startswith("tlearn ")]
    assert len(named) > 5
    for words in named:
        assert words[0] in parsing.COMMANDS or words == ["COMMAND", "--help"], words
        assert words[0] != "train" or len(words) == 1 or words[1] in RECIPES or words[1].startswith("-"), words


# --- Python


def is_of_tlearn(block: Block) -> bool:
    return "import tlearn" in block.text


def calls(block: Block) -> Iterator[tuple[str, ast.Call]]:
    """(function, call) of every call of tlearn.FUNCTION."""
    for node in ast.walk(ast.parse(block.text)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="tlearn"), attr=name)):
                yield name, node


def test_the_names_of_the_python_blocks_are_public() -> None:
    names = {name for block in blocks("python") for name, _ in calls(block)}
    assert names == {"train", "load", "score", "evaluate", "compare", "check", "export"}
    assert names <= set(tlearn.__all__)
    assert all(callable(getattr(tlearn, name)) for name in names)


def test_the_settings_of_the_python_blocks_exist() -> None:
    trained = [call for block in blocks("python") for name, call in calls(block) if name == "train"]
    assert trained
    for call in trained:
        settings = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        data, output = map(ast.literal_eval, call.args)
        made = configured(settings.pop("recipe", "frozen"), data, output, settings)
        assert made.data == data and made.output == output


@pytest.mark.long
def test_the_python_blocks_have_the_types_of_the_package(tmp_path: Path) -> None:
    text = "\n".join(block.text for block in blocks("python") if is_of_tlearn(block))
    for code, expected in ((text, 0), (text + "\nrun.accuracy_of_nothing\n", 1)):
        (tmp_path / "readme.py").write_text(code)
        command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "readme.py")]
        places = {**os.environ, "MYPYPATH": str(PROJECT)}
        ended = subprocess.run(command, cwd=PROJECT, env=places, capture_output=True, text=True, check=False)
        assert ended.returncode == expected, ended.stdout


def write_table(path: Path) -> None:
    schema = table.SCHEMA
    rows = [
        {"path": "a.jpg", "status": "scored", "prediction": name, "scored_at": datetime(2026, 1, day, tzinfo=UTC)}
        for day, name in ((1, "cat"), (2, "dog"))
    ]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def test_a_table_opens_as_the_python_blocks_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "scores.parquet")
    monkeypatch.chdir(tmp_path)
    opened = [block for block in blocks("python") if "duckdb" in block.text]
    assert len(opened) == 1
    last = ast.parse(opened[0].text).body.pop()
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(opened[0].text, names)
    assert len(eval(ast.unparse(last), names)) == 2
    assert names["duckdb"].sql("select count(distinct prediction) from 'scores.parquet'").fetchall() == [(2,)]


def test_an_onnx_file_is_run_as_the_python_blocks_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "runs" / "a" / "model", config.PreprocessConfig(image_size=32, short_side=36))
    (tmp_path / "a.jpg").write_bytes(picture(1))
    names: dict[str, Any] = {}
    for block in blocks("python"):
        if block.page == "tlearn/network/README.md" and "torchvision" not in block.text:
            exec(block.text, names)
    (row,) = tlearn.load("runs/a/model", precision="fp32", engine="torch").predict(["a.jpg"])
    assert row.probabilities == pytest.approx(
        dict(zip(names["classes"], names["probabilities"][0], strict=True)), abs=1e-4
    )


def test_the_query_of_the_newest_rows_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    write_table(tmp_path / "TABLE" / "scores.parquet")
    monkeypatch.chdir(tmp_path)
    (query,) = blocks("sql")
    assert [row["prediction"] for row in duckdb.sql(query.text).to_arrow_table().to_pylist()] == ["dog"]
    assert " ".join(query.text.split()) == " ".join(table.LATEST.format(folder="TABLE").split())


# --- Names, files, links


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page]))
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = (PROJECT / page).parent / name if name else PROJECT / page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], (
            link
        )


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    for span in spans(PAGES[page]):
        if re.match(r"(tlearn|tests|cluster|jobs|\.ci)/", span) or re.fullmatch(r"[\w-]+\.(toml|lock)", span):
            assert (PROJECT / span).exists(), span


def test_every_page_is_reached_from_the_readme() -> None:
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in PAGES["README.md"], page
    written = {
        str(path.relative_to(PROJECT))
        for place in ("tlearn", "cluster", "jobs", "tests")
        for path in (PROJECT / place).rglob("*.md")
    }
    assert written <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_variables_and_counters_that_are_named_are_used(page: str) -> None:
    used = SOURCES + (PROJECT / ".ci" / "run").read_text()
    for name in re.findall(r"\bTLEARN_[A-Z]+", PAGES[page]):
        assert name in used, name
    for name in re.findall(r"\bray_tlearn_(\w+)_total", PAGES[page]):
        assert f'count("{name}"' in SOURCES, name


def test_labels_and_variables_of_the_cluster_page_are_those_of_its_files() -> None:
    lines = [words for page, words in COMMANDS if page == "cluster/README.md"]
    labels = {word for words in lines for word in words if "/component=" in word}
    assert labels
    for label in labels:
        assert label.replace("=", ": ") in CLUSTER
    for words in lines:
        if words[0] == "sbatch":
            script = (PROJECT / words[-1]).read_text()
            given = {pair.partition("=")[0] for word in words[1:-1] for pair in word.split(",")[1:]}
            assert given == set(re.findall(r"\$\{(\w+):\?", script))


def test_events_that_are_named_are_written() -> None:
    section = PAGES["cluster/README.md"].partition("## Meters and logs")[2].partition("\n\n|")[0]
    sentence = section.partition("per event:")[2].partition("\n\n")[0]
    named, written = set(re.findall(r"`(\w+)`", sentence)), set(re.findall(r'\bevent\(\s*"(\w+)"', SOURCES))
    assert named == written


def test_every_wing_is_in_the_readme() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|", PAGES["README.md"].partition("Each wing is a folder")[2].partition("## ")[0], re.MULTILINE
    )
    assert sorted(rows) == WINGS
    assert all(re.search(rf"\b{wing}\b", PAGES["CONTRIBUTING.md"]) for wing in WINGS)


def test_the_picture_of_the_imports_is_that_of_the_contract() -> None:
    (layers,) = [
        contract["layers"]
        for contract in tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    (picture,) = [block.text for block in blocks("text") if block.page == "CONTRIBUTING.md"]
    drawn = [re.split(r"\s{2,}", line)[0] for line in picture.splitlines() if line.strip() != "|"]
    assert drawn == [layer for layer in layers if layer != "__main__"]


def test_every_recipe_is_described() -> None:
    for name in RECIPES:
        assert f"| `{name}` |" in PAGES["tlearn/training/README.md"], name
        assert re.search(rf"\b{name}\b", PAGES["README.md"]), name


def test_every_column_and_status_of_a_score_table_is_described() -> None:
    columns, _, rest = PAGES["tlearn/scoring/README.md"].partition("## Columns")[2].partition("| status |")
    described = [
        name for row in re.findall(r"^\| (`.*?`) \|", columns, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert described == table.SCHEMA.names
    statuses = re.findall(r"^\| `(\w+)` \|", rest.partition("\n## ")[0], re.MULTILINE)
    assert set(statuses) == {*get_args(status.Status), *status.SCORED} - {"ok"}


def test_every_exit_code_is_described() -> None:
    described = re.findall(r"^\| ([\d, ]+) \|", PAGES["README.md"].partition("| exit code |")[2], re.MULTILINE)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")]
    signals = (128 + number for number in errors.Stopped.WORDS)
    codes = {errors.DONE, errors.FAULT, errors.NOT_AS_GOOD, *signals, *(kind.code for kind in kinds)}
    assert [int(code) for row in described for code in row.split(", ")] == sorted(codes)


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_bytes()) <= 10_000


def test_the_readme_shows_what_both_commands_print() -> None:
    demo, tests = [block.text for block in blocks("text") if block.page == "README.md"][:2]
    for line in ("validation accuracy", "test accuracy", "  report ", "  model ", "  scores "):
        assert line in demo
    assert re.search(r"\d+ passed", tests)


# --- What installs


def test_jobs_are_short() -> None:
    for path in (PROJECT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) < 30


def locked(name: str) -> dict[str, str]:
    text = (PROJECT / name).read_text()
    return {
        key.lower(): version for key, version in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*\])?==(\S+)", text, re.MULTILINE)
    }


def wanted(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_have_a_hash_for_everything_and_name_no_index(name: str) -> None:
    text = (PROJECT / name).read_text()
    entries = re.split(r"^(?=[A-Za-z0-9_.-]+(?:\[.*\])?==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_the_lock_of_what_runs_holds_no_developers_tool() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    run, developed = locked("requirements.lock"), locked("requirements-dev.lock")
    assert wanted([*project["dependencies"], *extras["offline"], *extras["cpu"], *extras["export"]]) <= run.keys()
    assert wanted(extras["dev"]) <= developed.keys()
    # These come with Ray and with the extras, too.
    assert wanted(extras["dev"]) & run.keys() <= {"pyyaml", "jsonschema", "pandas", *wanted(extras["export"])}
    assert {name: developed[name] for name in run} == run


def test_the_image_installs_the_lock_of_what_runs() -> None:
    dockerfile = (PROJECT / "cluster" / "Dockerfile").read_text()
    assert "requirements.lock" in dockerfile and "requirements-dev" not in dockerfile
