"""Whatever a storage or a decoder raises is one file's row, but for what ends the whole job."""

from pathlib import Path

import pytest
from pictures import picture

from tlearn import storage
from tlearn.config import PreprocessConfig
from tlearn.data import images, manifest
from tlearn.data.fetch import fetch
from tlearn.data.manifest import File
from tlearn.errors import StorageError

RAISED = [
    OSError(5, "Input/output error"),
    PermissionError("AWS Error ACCESS_DENIED:\n  403"),
    ValueError("Empty path component in path bucket/a//2.jpg"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OverflowError("timestamp out of range"),
    MemoryError(),
    RuntimeError("x" * 1000),
]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "a.png").write_bytes(picture(0))
    return str(tmp_path)


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: type(raised).__name__)
def test_what_a_storage_raises_is_an_error_of_the_file(
    raised: Exception, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr(storage, "read_listed", broken)
    fetched = fetch(folder, "a.png", PreprocessConfig())
    (hashed,) = manifest.add_hashes(folder, [File("train", "a.png", "cat", 1, 1)], str(tmp_path / "cache"))
    for status, error in ((fetched.status, fetched.error), (hashed.status, hashed.error)):
        assert status == "io_error" and error and error.isprintable() and len(error) <= 200


@pytest.mark.parametrize("raised", [StorageError("the store is gone"), KeyboardInterrupt()])
def test_what_ends_the_job_is_no_error_of_the_file(
    raised: BaseException, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr(storage, "read_listed", broken)
    with pytest.raises(type(raised)):
        fetch(folder, "a.png", PreprocessConfig())


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: type(raised).__name__)
@pytest.mark.parametrize("step", ["_decode_with_pillow", "resize"])
def test_what_a_decoder_raises_is_an_error_of_the_file(
    step: str, raised: Exception, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr(images, step, broken)
    fetched = fetch(folder, "a.png", PreprocessConfig())
    assert fetched.status == "unreadable" and fetched.error and fetched.error.isprintable()
    assert (fetched.width, fetched.height) == (80, 90) and fetched.sha256
