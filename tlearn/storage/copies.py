"""This machine's part in what is stored elsewhere: where the cache is, copies to read, a place to write."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlearn.storage import files
from tlearn.storage.local import local
from tlearn.storage.remote import Remote

_COPY_BYTES = 8 * 2**20


def default_cache() -> str:
    home = os.path.expanduser("~")
    known = home if home != "~" else "/"  # a user whom the system does not know
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path(known) / ".cache") / "tlearn")


def disk(location: str) -> Path:
    """The folder of this machine in which a folder is, or lie the copies of what is used of it."""
    return Path(default_cache()) / "copies" if files.is_remote(location) else local(location)


def at_hand(location: str) -> Path:
    """A local file with these bytes: the file itself, or a copy that all processes of a machine fetch once.

    Another version has another copy. Raises OSError.
    """
    if not files.is_remote(location):
        return local(location)
    source = Remote(location)
    key = hashlib.sha256(f"{location} {source.version()}".encode()).hexdigest()[:32]
    copy = disk(location) / key
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                with source.open_input() as remote:
                    files.write(str(copy), lambda file: shutil.copyfileobj(remote, file, _COPY_BYTES))
    return copy


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where the files of a folder are written: in the folder, or in a temporary one from which they are uploaded."""

    location: str
    path: Path
    _uploaded: dict[Path, int] = field(default_factory=dict)

    def upload(self, last: str = "") -> None:
        """Let readers of a remote folder see what was written since the last time, the file of name `last` last."""
        if not files.is_remote(self.location):
            return
        for file in sorted(self.path.rglob("*"), key=lambda file: file.name == last):
            written = file.stat().st_mtime_ns
            if file.is_file() and self._uploaded.get(file) != written:
                files.publish(file, files.join(self.location, *file.relative_to(self.path).parts), replace=True)
                self._uploaded[file] = written


@contextlib.contextmanager
def workplace(location: str) -> Iterator[Workplace]:
    if not files.is_remote(location):
        yield Workplace(location, local(location))
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Workplace(location, Path(folder))
