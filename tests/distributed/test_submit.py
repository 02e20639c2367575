"""The same commands through Ray's job server: `ray start --head`, `ray job submit`, `tlearn submit`."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from processes import PROJECT, RAY, TLEARN, Head, wait_for

from tlearn.cli import main
from tlearn.demo import drawings
from tlearn.distributed import submit as submission


@pytest.fixture(scope="module")
def environment(head: Head) -> dict[str, str]:
    """Of a client of the job server."""
    values = {**os.environ, "RAY_API_SERVER_ADDRESS": head.dashboard}
    values.pop("RAY_ADDRESS", None)
    return values


def submit(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    line = [*RAY, "job", "submit", "--working-dir", str(PROJECT), "--", sys.executable, *command]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.cluster
def test_jobs_run_through_ray_job_submit(environment: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    drawings.draw_folder(data, num_train=40, num_val=12, num_test=10, seed=2)
    run = tmp_path / "run"
    small = ["--preprocess.image-size", "64", "--preprocess.short-side", "72", "--optim.num-epochs", "2"]
    small += ["--precision", "bf16", "--arch", "vgg_tiny", "--weights", "none"]
    train = [
        "jobs/train.py",
        "frozen",
        "--data",
        str(data),
        "--output",
        str(run),
        "--cache",
        str(tmp_path / "cache"),
        *small,
    ]
    done = submit(environment, *train)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((run / "summary.json").read_bytes())["num_train"] == 40
    assert "class indices: {'cat': 0, 'dog': 1}" in done.stdout
    scores = tmp_path / "scores.parquet"
    score = ["score", "--model", f"{run}/model", "--input", f"{data}/test", "--output", str(scores)]
    code, _, errors = ended(tlearn_submit(environment, *score, "--max-error-rate", "0.2"))
    assert code == 0 and errors.startswith("tlearn: submitted job score-"), errors
    assert pq.read_table(scores).num_rows == 11


def tlearn_submit(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [*TLEARN, "submit", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def living_actors(environment: dict[str, str]) -> list[str]:
    """The classes of the actors that live."""
    answer = requests.get(
        f"{environment['RAY_API_SERVER_ADDRESS']}/api/v0/actors",
        headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"},
        timeout=30,
    )
    return [one["class_name"] for one in answer.json()["data"]["result"]["result"] if one["state"] != "DEAD"]


@pytest.mark.long
@pytest.mark.cluster
def test_a_job_that_is_stopped_leaves_a_checkpoint_and_the_same_command_ends_it(
    environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    drawings.draw_folder(data, num_train=96, num_val=4, num_test=1, seed=2)
    # Fresh crops run the frozen layers in every step: seven further epochs last longer than the way of the signal.
    train = ["train", "--data", str(data), "--output", str(run), "--cache", str(cache), "--augment", "full"]
    train += ["--preprocess.image-size", "64", "--preprocess.short-side", "72", "--precision", "fp32"]
    train += ["--engine", "torch", "--optim.num-epochs", "8", "--optim.global-batch-size", "4"]
    one = ["--submission-id", "one", *train]
    first = tlearn_submit(environment, *one)
    assert first.stderr is not None and first.stderr.readline() == "tlearn: submitted job one\n"
    second = tlearn_submit(environment, *one)
    assert second.stderr is not None and second.stderr.readline() == "tlearn: job one is there: following it\n"
    wait_for(lambda: (run / "metrics.jsonl").exists(), first)
    first.send_signal(signal.SIGTERM)
    code, _, errors = ended(first)
    assert code == 143 and "stopping job one" in errors
    code, output, errors = ended(second)
    assert code == 143 and "job one was stopped" in errors
    # The driver had the time to end in order, and nothing of it lives on.
    assert "tlearn: terminated; the same command goes on from here" in output and not (run / "lease.json").exists()
    assert not {"RayTrainWorker", "TrainController", "JobSupervisor"} & set(living_actors(environment))
    code, output, errors = ended(tlearn_submit(environment, *one))
    assert code == 0 and "submitted job one-attempt-2" in errors, errors
    assert re.search(r"resumed after epoch \d and \d+ updates", output), output
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["train_count"] for line in lines] == [96] * 8
    code, output, errors = ended(tlearn_submit(environment, *one))
    assert code == 0 and "job one-attempt-2 has succeeded already" in errors and "resumed after epoch" in output


@pytest.mark.cluster
def test_the_exit_code_of_a_job_is_the_drivers_and_a_mistake_is_made_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    nowhere, output = str(tmp_path / "no where"), str(tmp_path / "run")
    code, said, errors = ended(tlearn_submit(environment, "train", "--data", nowhere, "--output", output))
    assert code == 3 and f"expected a folder at {nowhere}" in said
    assert errors.count("submitted job train-") == 1 and "ended with 3" in errors


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"RAY_AUTH_TOKEN": "fedcba9876543210" * 4}, "expected the cluster's token, got Authentication failed: "),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, "expected a job server that takes jobs, got"),
    ],
    ids=["wrong token", "no server"],
)
def test_a_server_that_refuses_or_is_not_there_ends_with_7(
    change: dict[str, str], says: str, environment: dict[str, str], tmp_path: Path
) -> None:
    words = ["train", "--data", str(tmp_path), "--output", str(tmp_path / "run")]
    code, output, errors = ended(tlearn_submit({**environment, **change}, *words))
    assert code == 7 and output == ""
    assert errors.startswith(f"tlearn: {says}") and errors.count("\n") == 1


def test_flags_are_checked_before_anything_is_sent(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--submission-id", "one"]) == 2
    assert main(["submit", "train", "forzen", "--data", "/data", "--output", "/run"]) == 2
    assert main(["submit", "train", "--data", "/data", "--output", "run"]) == 2
    assert "expected an absolute path or a URI for --output, got run" in capfd.readouterr().err
    for flag in ("--labels", "--exclude", "--groups"):
        assert main(["submit", "train", "--data", "/data", "--output", "/run", flag, "a.csv"]) == 2
        assert f"expected an absolute path or a URI for {flag}, got a.csv" in capfd.readouterr().err
    places = ["--model", "/model", "--input", "/in", "--output", "/table/"]
    assert main(["submit", "score", *places, "--report", "page.html"]) == 2
    assert "or a URI for --report, got page.html" in capfd.readouterr().err
    for words in (["--submission-id", "a/b", "train"], ["score", "--mdoel", "/run/model"], ["--max-attempts", "0"]):
        assert main(["submit", *words]) == 2


def test_jobs_have_the_time_to_stop_that_the_runtime_environment_states() -> None:
    stated = yaml.safe_load((PROJECT / "cluster" / "runtime_env.yaml").read_text())["env_vars"]
    assert stated["RAY_JOB_STOP_WAIT_TIME_S"] == str(submission.STOP_SECONDS)


Ending = tuple[str, int | None]
"""Status, exit code of the driver."""


class Server:
    """A job server whose jobs run for a look or two and then end as told."""

    def __init__(self, endings: list[Ending], output: str = ""):
        self.endings, self.output = endings, output
        self.jobs: dict[str, SimpleNamespace] = {}
        self.num_looks = 0
        self.num_failing_looks = 0
        self.num_broken_tails = 0

    def list_jobs(self) -> list[SimpleNamespace]:
        return list(self.jobs.values())

    def submit_job(self, *, submission_id: str, entrypoint: str, **options: Any) -> None:
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        self.jobs[submission_id] = self.job(submission_id, entrypoint)

    def job(self, submission_id: str, entrypoint: str, status: str = "RUNNING") -> SimpleNamespace:
        return SimpleNamespace(
            submission_id=submission_id,
            entrypoint=entrypoint,
            status=submission.JobStatus(status),
            driver_exit_code=None,
            message=None,
        )

    def get_job_info(self, submission_id: str) -> SimpleNamespace:
        self.num_looks += 1
        if self.num_looks <= self.num_failing_looks:
            raise ConnectionError("the head restarts")
        job = self.jobs[submission_id]
        if self.num_looks % 2 == 0 and not job.status.is_terminal():
            status, job.driver_exit_code = self.endings.pop(0)
            job.status = submission.JobStatus(status)
        return job

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        yield self.output[:5]
        if self.num_broken_tails:
            self.num_broken_tails -= 1
            raise aiohttp.ClientConnectionError
        yield self.output[5:]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(submission.time, "sleep", waited.append)
    monkeypatch.setattr(submission.time, "monotonic", lambda: sum(waited))
    return waited


def run(server: Server, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr(submission, "_connect", lambda address: server)
    return main(["submit", *flags, "score", "--model", "/run/model", "--input", "/in", "--output", "/scores/"])


SECOND_TRY_HELPS: list[Ending] = [("FAILED", 5), ("FAILED", 7), ("FAILED", 75), ("FAILED", -9), ("FAILED", None)]


@pytest.mark.parametrize("ending", SECOND_TRY_HELPS)
def test_what_may_pass_is_tried_again_and_no_more_than_told(
    ending: Ending, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server([ending, ("SUCCEEDED", 0)])
    assert run(server, monkeypatch) == 0
    server = Server([ending] * 3)
    waits.clear()
    code = {-9: 137, None: 7}.get(ending[1], ending[1])
    assert run(server, monkeypatch, "--retry-seconds", "400") == code
    first, second, third = server.jobs
    assert (second, third) == (f"{first}-attempt-2", f"{first}-attempt-3")
    assert [wait for wait in waits if wait > 1] == [400, 600]


@pytest.mark.parametrize(
    ("ending", "code"), [*((("FAILED", code), code) for code in (1, 2, 3, 4, 6)), (("STOPPED", None), 143)]
)
def test_what_another_attempt_cannot_mend_is_not_tried_again(
    ending: Ending, code: int, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server([ending])
    assert run(server, monkeypatch) == code
    assert len(server.jobs) == 1


def test_a_command_runs_every_night_and_a_submission_id_once(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server([("SUCCEEDED", 0)] * 3)
    assert [run(server, monkeypatch) for _ in range(2)] == [0, 0]
    assert len(server.jobs) == 2
    assert [run(server, monkeypatch, "--submission-id", "night-2") for _ in range(2)] == [0, 0]
    assert len(server.jobs) == 3
    assert (
        main(["submit", "--submission-id", "night-2", "score", "--model", "/m", "--input", "/i", "--output", "/o/"])
        == 2
    )


def test_one_that_another_sends_at_the_same_moment_is_followed(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server([("SUCCEEDED", 0)])
    entrypoint = "python -m tlearn score --model /run/model --input /in --output /scores/"
    listed: list[list[SimpleNamespace]] = [[]]
    server.jobs["night"] = server.job("night", entrypoint)
    monkeypatch.setattr(server, "list_jobs", lambda: listed.pop() if listed else list(server.jobs.values()))
    assert run(server, monkeypatch, "--submission-id", "night") == 0
    assert list(server.jobs) == ["night"]


def test_a_server_that_goes_as_the_job_is_sent_ends_with_7(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server([])

    def refuse(**options: Any) -> None:
        raise requests.exceptions.ConnectionError("reset by peer")

    monkeypatch.setattr(server, "submit_job", refuse)
    assert run(server, monkeypatch) == 7
    assert capsys.readouterr().err.count("\n") == 1


def test_a_project_that_is_too_large_to_be_sent_ends_with_2_and_what_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "movies").mkdir()
    (tmp_path / "movies" / "film.bin").write_bytes(bytes(3 * 2**20))
    (tmp_path / "excluded").write_bytes(bytes(9 * 2**20))
    (tmp_path / "env.yaml").write_text(f"working_dir: {tmp_path}\nexcludes: [excluded/]\n")
    server = Server([])

    def refuse(**options: Any) -> None:
        raise RuntimeError("Request failed with status code 413: Maximum request body size 104857600 exceeded.")

    monkeypatch.setattr(server, "submit_job", refuse)
    assert run(server, monkeypatch, "--runtime-env", str(tmp_path / "env.yaml")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "100 MiB" in error and "movies (3 MiB)" in error and "excluded (" not in error


@pytest.mark.parametrize("change", [{}, {"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}], ids=["none", "a path to nothing"])
def test_a_token_that_is_missing_ends_with_7_and_one_line(change: dict[str, str], tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    home = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}
    code, _, errors = ended(tlearn_submit({**kept, **home, **change}, "train", "--data", "/data", "--output", "/run"))
    assert code == 7 and errors.startswith("tlearn: expected") and "token" in errors and errors.count("\n") == 1


def test_output_is_printed_once_though_the_connection_breaks(
    waits: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server([("SUCCEEDED", 0)], output="epoch 1\nepoch 2\n")
    server.num_broken_tails, server.num_failing_looks = 1, 3
    assert run(server, monkeypatch) == 0
    assert capsys.readouterr().out == "epoch 1\nepoch 2\n"


def test_a_server_that_stays_away_ends_with_7(
    waits: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server([])
    server.num_failing_looks = 10**9
    assert run(server, monkeypatch) == 7
    assert "the same command follows it again" in capsys.readouterr().err
    assert 300 <= sum(waits) < 310
