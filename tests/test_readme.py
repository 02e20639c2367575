"""What the README shows is there, and its commands are understood."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tlearn import cli

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()


def commands() -> list[str]:
    lines = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    found = [line.partition(" -- python jobs/")[2].replace(".py", "", 1) for line in lines if "jobs/" in line]
    found += [line.removeprefix("tlearn ").removeprefix("submit ") for line in lines if line.startswith("tlearn ")]
    return [re.sub(r"\s{2,}.*", "", line) for line in found if line]


@pytest.mark.parametrize("command", [line for line in commands() if line.split()[0] in ("train", "score", "check")])
def test_every_command_of_the_readme_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []

    class Understood(Exception):
        pass

    def stop(config: Any) -> None:
        parsed.append(config)
        raise Understood

    for target in ("tlearn.training.job.train", "tlearn.scoring.job.score", "tlearn.data.check.check"):
        monkeypatch.setattr(target, stop)
    with pytest.raises(Understood):
        cli.main(shlex.split(command))
    assert parsed


def test_every_column_of_a_score_table_is_named() -> None:
    from tlearn.classes import Classes
    from tlearn.scoring import table

    section = README.partition("Columns of a score table")[2].partition("\n\n")[0]
    for name in table.schema(Classes(("a", "b"))).names:
        assert re.search(rf"\b{name}\b", section), name


def test_make_has_the_targets_that_the_readme_names() -> None:
    targets = set(re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint", "lock"} <= targets


def test_jobs_are_short() -> None:
    for path in (PROJECT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) < 30


def test_the_lock_has_hashes_and_names_no_index() -> None:
    lock = (PROJECT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "://" not in lock and "--index" not in lock
    locked = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*\])?==", lock, re.MULTILINE)}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    assert {re.split(r"[\[><=]", one)[0].lower() for one in wanted} <= locked
