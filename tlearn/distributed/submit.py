"""A command as a job of a Ray cluster: sent once, followed to its end, sent again where that can help.

ended as     driver's exit code     tlearn submit ends with     another attempt
SUCCEEDED    0                      0                           no
FAILED       2, 3, 4, 6, other      the same                    no
FAILED       5, 7, 75               the same                    yes
FAILED       killed by a signal     128 + its number            yes
FAILED       none: lost, no start   7                           yes
STOPPED      none                   143                         no
"""

import asyncio
import contextlib
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from tlearn.config import ScoreConfig, SubmitConfig, TrainConfig, digest
from tlearn.config.values import is_table
from tlearn.errors import DONE, TERMINATED, LockedError, StorageError, TrainingError, UsageError

STOP_SECONDS = 120
"""What a job that is told to stop has for it before it is killed; Ray's own default is 3."""

_PROJECT = Path(__file__).parents[2]
_RUNTIME_ENV = _PROJECT / "cluster" / "runtime_env.yaml"
_MAX_WAIT_SECONDS = 600.0
_REQUEST_SECONDS = 60.0
_PATIENCE_SECONDS = 300.0
"""How long the job server may be out of reach while a job is followed: a head that restarts."""
_PLACES = ("data", "model", "input", "input_list", "output", "report", "cache", "labels", "groups", "exclude")
"""Settings that are paths."""
_MAX_LASTS = 3
"""How often the end of the output is asked for: the node that holds it may be gone with the job."""
_PASSING = (TrainingError.code, StorageError.code, LockedError.code)


def run(config: SubmitConfig, job: TrainConfig | ScoreConfig, words: Sequence[str]) -> int:
    """Run `words` (train or score, with flags; `job` is what they say) on the cluster; return the exit code.

    Raises UsageError for what no cluster can run, StorageError where the job server refuses or cannot be reached.
    """
    _require_absolute(job)
    entrypoint = shlex.join(["python", "-m", "tlearn", *words])
    name = config.submission_id or f"{words[0]}-{digest(entrypoint)}"
    command = _Command(name, entrypoint, _runtime_env(config.runtime_env))
    with _one_line():
        _require_readable_token()
        client = _connect(config.address)
    seconds = config.retry_seconds
    for attempt in range(1, config.max_attempts + 1):
        with _one_line():
            submission_id = _start(client, config, command)
        details = follow(client, submission_id)
        code, can_pass = outcome(details)
        if code == DONE:
            return code
        what = f"job {submission_id} {_ending(details)}"
        if not can_pass or attempt == config.max_attempts:
            break
        _say(f"{what}; attempt {attempt + 1} of {config.max_attempts} in {seconds:.0f} s")
        time.sleep(seconds)
        seconds = min(2 * seconds, _MAX_WAIT_SECONDS)
    _say(f"{what}; its output again: ray job logs {submission_id}")
    return code


@dataclass(frozen=True, slots=True)
class _Command:
    """What is sent, and the name of its first attempt."""

    name: str
    entrypoint: str
    environment: dict[str, Any]


def _require_absolute(job: TrainConfig | ScoreConfig) -> None:
    for name in _PLACES:
        given = getattr(job, name, None) or ()
        for place in (given,) if isinstance(given, str) else given:
            is_place = name != "groups" or is_table(place)
            if is_place and "://" not in place and not os.path.isabs(place):
                raise UsageError(
                    f"expected an absolute path or a URI for --{name.replace('_', '-')}, got {place}: "
                    "a job has another working directory"
                )


def outcome(details: JobDetails) -> tuple[int, bool]:
    """(exit code, whether another attempt can end otherwise) of a job that has ended."""
    if details.status == JobStatus.SUCCEEDED:
        return DONE, False
    if details.status == JobStatus.STOPPED:
        return TERMINATED, False
    code = details.driver_exit_code
    if code is None:
        return StorageError.code, True
    if code < 0:
        code = 128 - code
    return code, code in _PASSING or code > 128


def follow(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Print the job's output until it has ended. Ctrl-C and SIGTERM stop it first."""
    log = _Log(client, submission_id)
    try:
        return log.follow()
    except KeyboardInterrupt:
        _say(f"stopping job {submission_id}; once more leaves it to itself")
        try:
            client.stop_job(submission_id)
            log.follow()
        except (OSError, RuntimeError) as error:
            _say(f"expected an answer, got {error}; job {submission_id} may still run: ray job stop {submission_id}")
        raise


class _Client(JobSubmissionClient):
    """With requests that end."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _REQUEST_SECONDS, **options})


def _require_readable_token() -> None:
    """Ray's C++ would end the process."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path is not None and "RAY_AUTH_TOKEN" not in os.environ and not os.access(path, os.R_OK):
        raise StorageError(f"expected a token in {path} (from RAY_AUTH_TOKEN_PATH), found nothing that can be read")


def _connect(address: str | None) -> JobSubmissionClient:
    if address is not None:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets it override what it is told
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # what is packed and sent; what goes wrong there comes back as an exception
    return _Client()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """For whatever a job server, or what is between it and us, answers with."""
    try:
        yield
    except (StorageError, UsageError, LockedError):
        raise
    except AuthenticationError as error:
        raise StorageError(
            f"expected the cluster's token, got {str(error).splitlines()[0].partition('. ')[0]}: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(
            f"expected a job server that takes jobs, got {error}: start Ray, or give its address (--address "
            "http://HOST:8265)"
        ) from error


def _runtime_env(path: str | None) -> dict[str, Any]:
    file = Path(path) if path is not None else _RUNTIME_ENV
    environment: dict[str, Any] = {}
    if path is not None or file.exists():
        try:
            environment = yaml.safe_load(file.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UsageError(f"expected a runtime environment in {file}, got {error}") from error
    if path is None and environment:
        environment["working_dir"] = str(_PROJECT)
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **environment.get("env_vars", {})}
    return {**environment, "env_vars": variables}


def _start(client: JobSubmissionClient, config: SubmitConfig, command: _Command) -> str:
    """The submission id of the attempt that is there to be followed, or of a new one."""
    for _ in range(5):  # another may send the same at the same moment
        attempts = _attempts(client, command.name)
        submission_id = _to_follow(attempts, command, is_once=config.submission_id is not None)
        if submission_id is not None:
            return submission_id
        submission_id = _attempt_name(command.name, max(attempts, default=0) + 1)
        if _is_sent(client, config, command, submission_id):
            _say(f"submitted job {submission_id}")
            return submission_id
    raise LockedError(
        f"expected {command.name} to be free, others submit it again and again: choose another --submission-id"
    )


def _to_follow(attempts: dict[int, JobDetails], command: _Command, *, is_once: bool) -> str | None:
    """The newest attempt if it still runs, or if it has succeeded at what is to be done once."""
    if not attempts:
        return None
    number, newest = max(attempts.items())
    if newest.entrypoint != command.entrypoint:
        raise UsageError(
            f"expected the command that {command.name} was submitted with ({newest.entrypoint}), got "
            f"{command.entrypoint}: choose another --submission-id"
        )
    submission_id = _attempt_name(command.name, number)
    if newest.status == JobStatus.SUCCEEDED and is_once:
        _say(f"job {submission_id} has succeeded already")
        return submission_id
    if not newest.status.is_terminal():
        _say(f"job {submission_id} is there: following it")
        return submission_id
    return None


def _is_sent(client: JobSubmissionClient, config: SubmitConfig, command: _Command, submission_id: str) -> bool:
    """Send it; False where another has just sent one of this name."""
    try:
        client.submit_job(
            entrypoint=command.entrypoint,
            submission_id=submission_id,
            runtime_env=command.environment,
            entrypoint_num_cpus=config.entrypoint_num_cpus or None,
            entrypoint_resources=config.entrypoint_resources or None,
        )
    except ValueError as error:
        raise UsageError(f"expected a working directory that can be sent, got {error}") from error
    except RuntimeError as error:
        if "already exists" in str(error):
            return False
        if "413" in str(error):
            raise UsageError(
                f"expected a project folder of the size that the job server takes (100 MiB, where it is not told "
                f"otherwise), its largest parts are {_largest(command.environment)}: exclude them in --runtime-env"
            ) from error
        raise
    return True


def _largest(environment: dict[str, Any]) -> str:
    """Names and sizes of what is largest in the folder that is sent."""
    excluded = {name.strip("/") for name in environment.get("excludes", [])}
    sizes = {path.name: _num_bytes(path) for path in Path(environment["working_dir"]).iterdir()}
    largest = sorted(sizes.keys() - excluded, key=lambda name: -sizes[name])
    return ", ".join(f"{name} ({sizes[name] / 2**20:.0f} MiB)" for name in largest[:3])


def _num_bytes(path: Path) -> int:
    return sum(file.lstat().st_size for file in [path, *path.rglob("*")])


def _attempt_name(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-attempt-{number}"


def _attempts(client: JobSubmissionClient, name: str) -> dict[int, JobDetails]:
    jobs = {details.submission_id: details for details in client.list_jobs()}
    attempts, number = {}, 1
    while (details := jobs.get(_attempt_name(name, number))) is not None:
        attempts[number] = details
        number += 1
    return attempts


class _Log:
    """A job's output, printed once."""

    def __init__(self, client: JobSubmissionClient, submission_id: str):
        self.client, self.submission_id = client, submission_id
        self.num_printed = 0

    def follow(self) -> JobDetails:
        """Print until the job has ended. Raises StorageError after five minutes without an answer."""
        answered, is_whole, num_lasts = time.monotonic(), False, 0
        while True:
            try:
                details = self.client.get_job_info(self.submission_id)
                answered = time.monotonic()
            except StorageError:
                raise
            except (OSError, RuntimeError) as error:
                if time.monotonic() - answered > _PATIENCE_SECONDS:
                    raise StorageError(
                        f"expected news of job {self.submission_id}, got {error} for {_PATIENCE_SECONDS:.0f} s: the "
                        "same command follows it again"
                    ) from error
            else:
                if details.status.is_terminal() and (is_whole or num_lasts == _MAX_LASTS):
                    return details
                num_lasts += details.status.is_terminal()
                is_whole = asyncio.run(self._print())
            time.sleep(1)

    async def _print(self) -> bool:
        """Print what is new until the job ends (True), the connection, or a minute: a dead one says nothing."""
        num_seen = 0
        with contextlib.suppress(aiohttp.ClientError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                async for text in self.client.tail_job_logs(self.submission_id):
                    print(text[max(self.num_printed - num_seen, 0) :], end="", flush=True)
                    num_seen += len(text)
                    self.num_printed = max(self.num_printed, num_seen)
            return True
        return False


def _ending(details: JobDetails) -> str:
    if details.status == JobStatus.STOPPED:
        return "was stopped"
    if details.driver_exit_code is not None:
        return f"ended with {details.driver_exit_code}"
    return f"was lost ({(details.message or 'no reason given').splitlines()[0]})"


def _say(text: str) -> None:
    print(f"tlearn: {' '.join(text.split())}", file=sys.stderr, flush=True)
