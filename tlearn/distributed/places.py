"""Where a Ray is, or may be started: addresses and folders, known without Ray."""

import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tlearn.errors import StorageError

_ANSWER_SECONDS = 10.0
"""How long an address is tried that refuses."""
_SOCKET = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""What Ray adds to its folder for the longest name of a socket; its day stands for any."""
_MAX_SOCKET = 107
"""Bytes of a socket's path that Linux takes."""
_MIN_FREE = 32 * 2**20
"""Bytes that Ray needs for logs and the like."""


@dataclass(frozen=True, slots=True)
class Address:
    """Of a cluster, and who says so."""

    text: str
    source: str

    def __str__(self) -> str:
        return f"expected a Ray at {self.text} (from {self.source})"

    def require_answer(self) -> None:
        """Raise StorageError where nobody listens. Of ray:// and the like nothing is known."""
        host, colon, port = self.text.removeprefix("ray://").rpartition(":")
        if not colon or not port.isdecimal():
            return
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
                return
            except OSError as error:
                if time.monotonic() > deadline or isinstance(error, socket.gaierror):
                    raise StorageError(
                        f"{self}, nothing answers ({error}): start it, remove what names it, or set "
                        "RAY_ADDRESS=local for a Ray of its own"
                    ) from error
            time.sleep(1)


def cluster() -> Address | None:
    """The cluster that RAY_ADDRESS or a `ray start` on this machine names."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named and named != "auto":
        return Address(named, "RAY_ADDRESS")
    noted = Path(_system_folder()) / "ray" / "ray_current_cluster"
    try:
        text = noted.read_text().strip()
    except OSError:
        text = ""
    if text:
        return Address(text, str(noted))
    return Address("auto", "RAY_ADDRESS") if named else None


def session_folder() -> str:
    """Where a Ray of this process keeps sockets and logs; raises StorageError where there is no place for them.

    Not always Ray's own choice: its path may be too long for a socket, or be another user's.
    """
    own = _system_folder()
    bases = [own] if "RAY_TMPDIR" in os.environ else [own, tempfile.gettempdir(), "/tmp"]
    folders = [Path(base) / name for base in bases for name in ("ray", f"ray-{os.getuid()}")]
    problems = {str(folder): problem for folder in folders if (problem := _problem(folder))}
    usable = next((str(folder) for folder in folders if str(folder) not in problems), None)
    if usable is None:
        folder, problem = next(iter(problems.items()))
        raise StorageError(f"expected a folder for Ray's sockets and logs, {folder} {problem}: set RAY_TMPDIR")
    return usable


def _problem(folder: Path) -> str | None:
    if len(os.fsencode(folder)) + len(_SOCKET) > _MAX_SOCKET:
        return f"is longer than the {_MAX_SOCKET - len(_SOCKET)} bytes that leave room for a socket's name"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"cannot be written to ({error.strerror})"
    if shutil.disk_usage(folder).free < _MIN_FREE:
        return f"has less than {_MIN_FREE >> 20} MiB free"
    return None


def _system_folder() -> str:
    """As Ray looks for it."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
