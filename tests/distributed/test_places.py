"""Where Ray is joined or started, on machines of all kinds; without Ray."""

import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import TLEARN, free_port

from tlearn.distributed import places
from tlearn.distributed.places import Address
from tlearn.errors import StorageError


@pytest.fixture(autouse=True)
def no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(places, "_ANSWER_SECONDS", 0.0)


def test_the_cluster_is_that_of_the_environment_or_of_ray_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert places.cluster() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.7:6379\n")
    assert places.cluster() == Address("10.0.0.7:6379", f"{tmp_path}/ray/ray_current_cluster")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert places.cluster() == Address("head:6379", "RAY_ADDRESS")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert places.cluster() is None


def test_an_address_at_which_somebody_listens_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        Address(f"127.0.0.1:{server.getsockname()[1]}", "RAY_ADDRESS").require_answer()
    Address("auto", "RAY_ADDRESS").require_answer()  # Ray's own to find


@pytest.mark.parametrize("host", ["127.0.0.1", "ray://127.0.0.1", "[::1]", "no-such-host.invalid"])
def test_an_address_at_which_nobody_does_is_named_with_its_source(host: str) -> None:
    address = Address(f"{host}:{free_port()}", "RAY_ADDRESS")
    with pytest.raises(StorageError, match=r"\(from RAY_ADDRESS\), nothing answers") as raised:
        address.require_answer()
    assert address.text in str(raised.value)


def test_a_folder_of_ray_is_short_enough_for_its_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.session_folder() == f"{tmp_path}/ray" or len(str(tmp_path)) > 38
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 90)))
    folder = places.session_folder()
    with socket.socket(socket.AF_UNIX) as server:  # as Ray binds one
        path = Path(f"{folder}{places._SOCKET}")
        path.parent.mkdir(parents=True)
        server.bind(str(path))
    shutil.rmtree(path.parents[1])


def long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(folder / ("x" * 90)))


def of_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_SOCKET", "")
    (folder / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(folder / "file"))


def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1000))


@pytest.mark.parametrize(
    ("spoil", "says"), [(long, "is longer than"), (of_somebody_else, "cannot be written to"), (full, "32 MiB free")]
)
def test_no_folder_for_ray_is_one_line_that_names_the_variable(
    spoil: Callable[[Path, pytest.MonkeyPatch], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(tmp_path, monkeypatch)
    with pytest.raises(StorageError, match=f"{says}.*: set RAY_TMPDIR$"):
        places.session_folder()


def test_another_folder_is_taken_where_that_of_ray_is_somebody_else_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_SOCKET", "")
    (tmp_path / "ray").touch()
    assert places.session_folder() == f"{tmp_path}/ray-{os.getuid()}"


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_user_without_a_home_has_the_command_line(home: str | None, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    own = {**kept, **({"HOME": home} if home else {})}
    words = ["check", "--data", str(tmp_path / "nothing")]
    code = "import pwd; pwd.getpwuid = lambda user: (_ for _ in ()).throw(KeyError(user)); "
    command = [*TLEARN[:2], code + TLEARN[2], *words]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    code += "from tlearn.storage import default_cache; print(default_cache())"
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{(home or '/').rstrip('/')}/.cache/tlearn\n", done.stderr
