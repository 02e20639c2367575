"""Names without loss, listings without surprises, writes in one step."""

import os
import socket
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from obstore.store import LocalStore
from pictures import NAMES

from tlearn import storage
from tlearn.errors import StorageError
from tlearn.storage import stores


@given(st.binary(min_size=1).filter(lambda name: b"/" not in name and b"\0" not in name))
@example(b"%FF")
@example(b"\xff")
@example(b"%25%FF\xff%2")
def test_a_name_survives_as_text(name: bytes) -> None:
    text = storage.encode_name(name)
    text.encode()
    assert storage.decode_name(text) == name


def test_plain_names_stay_as_they_are() -> None:
    for name in NAMES:
        if "%FF" not in name and "%25FF" not in name:
            assert storage.encode_name(name.encode()) == name
    assert len({storage.encode_name(name) for name in (b"%FF", b"\xff", b"%25FF")}) == 3


def test_every_regular_file_is_listed_once_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    names = [name.encode() for name in NAMES] + [b"bad\xff\xfe.jpg"]
    for folder in (b"", b"sub", b"sub.d"):
        os.makedirs(os.path.join(root, folder), exist_ok=True)
        for name in names:
            with open(os.path.join(root, folder, name), "wb") as file:
                file.write(folder + name)
    expected = sorted(os.path.join(folder, name) for folder in (b"", b"sub", b"sub.d") for name in names)
    listed = storage.in_order(storage.stream(str(tmp_path)))
    assert [storage.decode_name(entry.path) for entry in listed] == expected
    for entry in listed:
        content = storage.read_listed(str(tmp_path), entry.path)
        assert content.data == storage.decode_name(entry.path).replace(b"sub/", b"sub").replace(b"sub.d/", b"sub.d")
        assert (content.size, content.modified) == (entry.size, entry.modified)


def test_pipes_sockets_and_links_that_lead_nowhere_do_no_harm(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "1.jpg").write_bytes(b"1")
    os.symlink("1.jpg", tmp_path / "2.jpg")
    os.link(tmp_path / "1.jpg", tmp_path / "3.jpg")
    os.symlink("nowhere", tmp_path / "4.jpg")
    os.symlink("5.jpg", tmp_path / "5.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.jpg"))
        listed = {entry.path: (entry.size, entry.kind) for entry in storage.stream(str(tmp_path))}
    whole, dead = (1, "file"), (-1, "dead link")
    files = {"1.jpg": whole, "2.jpg": whole, "3.jpg": whole}
    others = {"4.jpg": dead, "5.jpg": dead, "pipe.jpg": (-1, "other"), "s.jpg": (-1, "other")}
    assert listed == files | others
    with pytest.raises(OSError, match="regular file"):
        storage.read_listed(str(tmp_path), "pipe.jpg")
    with pytest.raises(FileNotFoundError):
        storage.read_listed(str(tmp_path), "4.jpg")


def test_what_is_not_entered_is_listed_by_its_kind_and_the_folder_itself_may_be_called_anything(
    tmp_path: Path,
) -> None:
    for name in (".named/a/1.jpg", ".named/.git/HEAD", ".named/a/.cache/x/2.jpg", "elsewhere/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.symlink("../elsewhere", tmp_path / ".named" / "link")
    os.symlink("..", tmp_path / ".named" / "a" / "loop")
    os.symlink(".named", tmp_path / "also")
    kinds = {".git": "folder", "a/.cache": "folder", "a/1.jpg": "file", "a/loop": "link", "link": "link"}
    for name in (".named", "also"):
        assert {entry.path: entry.kind for entry in storage.stream(str(tmp_path / name))} == kinds
        assert storage.folders(str(tmp_path / name)) == [".git", "a"]
        assert storage.links(str(tmp_path / name)) == ["link"]


def test_a_missing_folder_and_a_file_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.symlink("gone", tmp_path / "link")
    for name, found in (("nowhere", "found nothing"), ("file", "found a file"), ("link", "a link that leads nowhere")):
        with pytest.raises(ValueError, match=found):
            list(storage.stream(str(tmp_path / name)))


def test_a_file_uri_is_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "1.jpg").write_bytes(b"1")
    uri = (tmp_path / "a b").as_uri()
    assert [entry.path for entry in storage.stream(uri)] == ["1.jpg"]
    assert storage.read_listed(uri, "1.jpg").data == b"1"


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target, stop, seen = tmp_path / "file", threading.Event(), set()
    contents = [bytes([letter]) * 2_000_000 for letter in b"ab"]
    storage.write_bytes(str(target), contents[0])

    def look() -> None:
        while not stop.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(20):
        storage.write_bytes(str(target), contents[number % 2])
    stop.set()
    reader.join()
    assert seen <= set(contents)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    storage.write_bytes(str(target), b"before")

    def fail(sink: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        storage.write(str(target), fail)
    assert target.read_bytes() == b"before" and list(tmp_path.iterdir()) == [target]


def test_an_upload_that_fails_halfway_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = LocalStore(tmp_path)
    monkeypatch.setattr(stores, "_store", lambda scheme, bucket: client)

    def fail(sink: BinaryIO) -> None:
        sink.write(b"half")
        raise KeyError

    storage.write_bytes("s3://bucket/old", b"old")
    for name in ("old", "new"):
        with pytest.raises(KeyError):
            storage.write(f"s3://bucket/{name}", fail)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"old"}


def test_a_published_file_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "taken").write_bytes(b"old")
    with pytest.raises(storage.Taken):
        storage.publish(tmp_path / "new", str(tmp_path / "taken"))
    assert (tmp_path / "taken").read_bytes() == b"old"
    storage.publish(tmp_path / "new", str(tmp_path / "taken"), replace=True)
    assert (tmp_path / "taken").read_bytes() == b"new"
