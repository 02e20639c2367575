"""Object stores: names, listings, credentials and faults, against a server on the loopback address."""

import bisect
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import buckets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import Faults
from obstore.store import S3Store

from tlearn import storage
from tlearn.errors import InputError, StorageError
from tlearn.scoring.inputs import Input
from tlearn.storage import keys, remote, stores

pytest.importorskip("moto.server", reason="moto[server] (extra dev) is not installed")

pytestmark = pytest.mark.slow

NAMES = [
    "a.jpg", "sub/b c.jpg", "sub/%20.jpg", "sub/%FF.jpg", "#1?.jpg", "é ü/ß.jpg", "a+b=c&d.jpg", "[x]{y}~*|<>`^\"'.jpg",
    "back\\slash.jpg", ".hidden", "sub/deep/er/x", "日本.jpg", "a;b,c@d$e!.jpg",
]  # fmt: skip
NO_ADDRESSES = [
    "127.0.0.1:9", "http://", "http://:9", "http://a:bad", "http://a:99999", "ftp://a", "http://a b", "http://é",
]  # fmt: skip
BACKOFF = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=0.1), "base": 2}
REFUSED = ["a//2.jpg", "//3.jpg", "sub/../4.jpg", "./5.jpg", "sub/./6.jpg"]


@pytest.fixture(scope="module")
def server() -> Iterator[Faults]:
    with pytest.MonkeyPatch.context() as patch, buckets.served(patch) as faults:
        yield faults


@pytest.fixture
def place(server: Faults) -> Iterator[str]:
    place = buckets.make("place")
    yield place
    server.every, server.takes_effect, server.is_careless = None, False, False


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stores, "READ_SECONDS", 0.5)
    monkeypatch.setattr(buckets, "STALL_SECONDS", 0.9)
    stores._store.cache_clear()
    yield
    stores._store.cache_clear()


def test_names_of_any_letters_are_written_listed_and_read(place: str) -> None:
    for name in NAMES:
        storage.write_bytes(f"{place}/in/{name}", name.encode())
        assert storage.read(f"{place}/in/{name}").data == name.encode()
    listed = {entry.path: entry for entry in storage.stream(f"{place}/in", lambda name: True)}
    assert listed.keys() == {storage.encode_name(name.encode()) for name in NAMES}
    for path, entry in listed.items():
        content = storage.read_listed(f"{place}/in", path)
        assert content.data == storage.decode_name(path)
        assert (content.size, content.modified, content.version) == (entry.size, entry.modified, entry.etag)
    assert storage.names(f"{place}/in") == sorted(n for n in NAMES if "/" not in n and not n.startswith("."))
    assert storage.folders(f"{place}/in") == sorted({n.split("/")[0] for n in NAMES if "/" in n})


def test_a_key_that_no_client_reads_is_listed_beside_the_others_and_cannot_be_read(place: str) -> None:
    for key in [*NAMES, *REFUSED]:
        buckets.put(f"{place}/in/{key}", b"1")
    listed = [entry.path for entry in storage.stream(f"{place}/in", lambda name: True)]
    assert sorted(listed) == sorted(storage.encode_name(key.encode()) for key in [*NAMES, *REFUSED])
    for key in REFUSED:
        with pytest.raises(OSError):
            storage.read_listed(f"{place}/in", key)
        with pytest.raises(OSError):
            storage.write_bytes(f"{place}/in/{key}", b"")
    assert "sub" in storage.folders(f"{place}/in") and "a.jpg" in storage.names(f"{place}/in")
    assert storage.kind(f"{place}/in") == "folder"
    storage.remove_folder(f"{place}/in")
    assert storage.kind(f"{place}/in") is None


def test_large_folders_are_listed_side_by_side_and_every_key_once(place: str) -> None:
    names = [f"{folder}/{number:04}.jpg" for folder in ("a", "ä b", "c") for number in range(1_100)]
    names += ["a.jpg", "a0", "a/", "c/", "d"]
    for name in names:
        buckets.put(f"{place}/in/{name}", b"" if name.endswith("/") else b"1")
    expected = sorted(name for name in names if not name.endswith("/"))
    assert sorted(entry.path for entry in storage.stream(f"{place}/in")) == expected
    buckets.put(f"{place}/in/c//refused.jpg", b"1")
    assert sorted(entry.path for entry in storage.stream(f"{place}/in")) == sorted([*expected, "c//refused.jpg"])


@pytest.mark.parametrize("name", ["", "/a", "a/", "/"])
def test_a_slash_at_an_end_is_no_name_of_another_object(place: str, name: str) -> None:
    storage.write_bytes(f"{place}/a", b"other")
    with pytest.raises(OSError):
        storage.read_listed(place, name)


def test_the_objects_that_stand_for_folders_are_no_files(place: str) -> None:
    for key in ("in/", "in/empty/", "in/a/", "in/a/1.jpg", "in/nothing"):
        buckets.put(f"{place}/{key}", b"" if key != "in/a/1.jpg" else b"1")
    assert sorted(entry.path for entry in storage.stream(f"{place}/in")) == ["a/1.jpg", "nothing"]
    assert storage.names(f"{place}/in") == ["nothing"] and storage.folders(f"{place}/in") == ["a", "empty"]
    kinds = {name: storage.kind(f"{place}/in/{name}") for name in ("a", "empty", "nothing", "none", "a/1.jpg", "a/1")}
    assert kinds == {
        "a": "folder", "empty": "folder", "nothing": "file", "none": None, "a/1.jpg": "file", "a/1": None,
    }  # fmt: skip
    storage.remove_folder(f"{place}/in")
    assert not storage.exists(f"{place}/in")
    # A bucket is a folder, be it empty.
    assert (storage.kind(place), storage.exists(place), storage.names(place)) == ("folder", True, [])
    assert (storage.kind("s3://nowhere"), storage.exists("s3://nowhere"), storage.names("s3://nowhere")) == (
        None,
        False,
        [],
    )


def test_a_file_is_read_from_anywhere_in_it_and_as_one_version(place: str) -> None:
    table = pa.table({"number": range(200_000)})
    storage.write(f"{place}/t.parquet", lambda sink: pq.write_table(table, sink, row_group_size=50_000))
    data = storage.read(f"{place}/t.parquet").data
    assert storage.sha256_file(f"{place}/t.parquet") == hashlib.sha256(data).hexdigest()
    assert storage.read_listed(place, "t.parquet", max_bytes=9).data == data[:10]
    with storage.open_input(f"{place}/t.parquet") as file:
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(3).column("number").to_pylist()[-1] == 199_999
        assert (file.seek(-4, io.SEEK_END), file.read(), file.read(), file.tell()) == (
            len(data) - 4, b"PAR1", b"", len(data),
        )  # fmt: skip
        file.seek(0)
        storage.write_bytes(f"{place}/t.parquet", bytes(len(data)))
        with pytest.raises(OSError, match="precondition"):
            file.read(len(data))
    with pytest.raises(FileNotFoundError):
        storage.open_input(f"{place}/nothing")


@pytest.mark.parametrize("num_bytes", [0, 1, 18_000_000])
def test_a_file_of_any_size_arrives_whole(place: str, tmp_path: Path, num_bytes: int) -> None:
    data = bytes(range(256)) * (num_bytes // 256) + b"x" * (num_bytes % 256)
    file = tmp_path / "file"
    file.write_bytes(data)
    storage.write_bytes(f"{place}/written", data)
    storage.publish(file, f"{place}/replaced", replace=True)
    storage.publish(file, f"{place}/new")
    storage.publish(file, f"{place}/new")
    for name in ("written", "replaced", "new"):
        assert storage.read(f"{place}/{name}").data == data
    file.write_bytes(data + b"other")
    with pytest.raises(storage.Taken):
        storage.publish(file, f"{place}/new")


PASSING = ["409 Conflict", "412 Precondition Failed", "429 Too Many Requests", "500 Internal", "503 Slow Down", "stall"]


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("status", PASSING)
@pytest.mark.parametrize("is_swap", [False, True])
def test_a_conditional_write_is_done_once_whatever_its_first_answer(
    place: str, server: Faults, impatient: None, is_swap: bool, status: str, takes_effect: bool
) -> None:
    file = f"{place}/file"
    assert storage.is_conditional(place)
    seen = storage.create(file, b"old") if is_swap else ""
    server.once, server.status, server.takes_effect = "PUT", status, takes_effect
    version = storage.swap(file, b"new", seen) if is_swap else storage.create(file, b"new")
    assert not server.once
    assert storage.read(file).data == b"new" and storage.read(file).version == version
    with pytest.raises(storage.Taken):
        storage.swap(file, b"late", seen or "0")


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal", "503 Slow Down", "stall", "cut"])
def test_reads_and_plain_writes_are_made_again(place: str, server: Faults, impatient: None, status: str) -> None:
    server.status = status
    calls: list[tuple[str, Callable[[], object]]] = [
        ("PUT", lambda: storage.write_bytes(f"{place}/file", b"1")),
        ("GET", lambda: storage.read(f"{place}/file").data),
        ("HEAD", lambda: storage.exists(f"{place}/file")),
        ("GET", lambda: [entry.path for entry in storage.stream(place)]),
        ("GET", lambda: storage.names(place)),
        ("GET", lambda: storage.exists(f"{place}/none")),
        ("GET", lambda: storage.sha256_file(f"{place}/file")),
    ]
    for method, call in calls:
        expected = call()
        server.once = method
        assert call() == expected and not server.once


def test_what_a_store_refuses_for_good_is_one_line(place: str, server: Faults) -> None:
    storage.write_bytes(f"{place}/in/file", b"1")
    assert storage.is_conditional(place)
    server.every, server.status = 1, "403 Forbidden"
    for call in (
        lambda: storage.read(f"{place}/in/file"),
        lambda: list(storage.stream(f"{place}/in")),
        lambda: storage.names(f"{place}/in"),
        lambda: storage.exists(f"{place}/in"),
        lambda: storage.create(f"{place}/new", b""),
    ):
        with pytest.raises(OSError, match=r"403 Forbidden(: later)?$") as raised:
            call()
        assert "\n" not in str(raised.value) and not isinstance(raised.value, FileNotFoundError)


def test_a_store_without_conditional_writes_is_found_out(
    place: str, server: Faults, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.is_careless = True
    buckets.forget()
    assert not storage.is_conditional(place)
    assert list(storage.stream(place)) == []
    server.is_careless = False
    for status, takes_effect in (("503 Slow Down", True), ("stall", False), ("stall", True)):
        buckets.forget()
        server.once, server.status, server.takes_effect = "PUT", status, takes_effect
        assert storage.is_conditional(place)
        assert takes_effect is False or list(storage.stream(place)) == []
    buckets.forget()
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    assert not storage.is_conditional(place)


class Endless:
    """A bucket as obstore lists it, a page when it is asked for one."""

    def __init__(self, keys: list[str]):
        self.keys, self.num_pages = sorted(keys), 0

    def list(self, folder: str, offset: str | None, chunk_size: int) -> Iterator[list[dict[str, Any]]]:
        start = bisect.bisect_left(self.keys, f"{folder}/") if offset is None else bisect.bisect(self.keys, offset)
        end = bisect.bisect(self.keys, f"{folder}/\U0010ffff")
        for page in range(start, end, chunk_size):
            self.num_pages += 1
            yield [
                {"path": key, "size": 1, "last_modified": datetime.now(UTC), "e_tag": "e", "version": None}
                for key in self.keys[page : min(page + chunk_size, end)]
            ]


@pytest.mark.parametrize(
    "name",
    [
        "{n:06}.jpg",
        "{n}.jpg",
        "{folder}/{n:06}.jpg",
        "{folder}/{folder}/{n:06}.jpg",
        "{n}/1.jpg",
        "{folder}-{n}/x/{n}.jpg",
        "{folder}/{n}/1.jpg",
    ],
)
def test_many_keys_are_listed_once_and_never_more_than_some_pages_of_them_are_in_memory(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    names = [name.format(n=number, folder=number % 7) for number in range(20_000)]
    bucket = Endless([f"in/{name}" for name in names] + ["in-/a.jpg", "in0", "im/z"])
    monkeypatch.setattr(stores, "_store", lambda scheme, name: bucket)
    listed, most = [], 0
    for entry in storage.stream("s3://bucket/in"):
        listed.append(entry.path)
        most = max(most, bucket.num_pages - len(listed) // 1000)
    assert sorted(listed) == sorted(names)
    assert most <= 3 * keys._REQUESTS and bucket.num_pages <= 2 * 20_000 // 1000 + 40


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A machine without credentials, in no cloud."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "IDENTITY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(stores, "_METADATA", ("127.0.0.1", 1))
    monkeypatch.setattr(stores, "_region_of_bucket", lambda bucket: "eu-found-1")
    buckets.forget()
    yield monkeypatch
    buckets.forget()


CONFIG = """
[default]
region = eu-default-1
[profile role]
role_arn = arn:aws:iam::1:role/r
[profile other]
region = eu-other-1
endpoint_url = https://store.example
s3 =
    addressing_style = path
"""
CREDENTIALS = """
[default]
aws_access_key_id = default id
aws_secret_access_key = default key
[other]
aws_access_key_id = other id
aws_secret_access_key = other key
aws_session_token = token
[loose]
aws_access_key_id = loose id
aws_secret_access_key = loose key
"""
DEFAULT = {"access_key_id": "default id", "secret_access_key": "default key", "region": "eu-default-1"}
OTHER = {
    "access_key_id": "other id", "secret_access_key": "other key", "session_token": "token", "region": "eu-other-1",
    "endpoint": "https://store.example",
}  # fmt: skip
LOOSE = {"access_key_id": "loose id", "secret_access_key": "loose key", "region": "eu-found-1"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, DEFAULT),
        ({"AWS_PROFILE": "other"}, OTHER),
        ({"AWS_PROFILE": "other", "AWS_ENDPOINT_URL": "http://here:1"}, OTHER | {"endpoint": "http://here:1"}),
        (
            {"AWS_PROFILE": "other", "AWS_ENDPOINT_URL": "http://here:1", "AWS_ENDPOINT_URL_S3": "http://here:2"},
            OTHER | {"endpoint": "http://here:2"},
        ),
        ({"AWS_PROFILE": "loose"}, LOOSE),
        ({"AWS_PROFILE": "loose", "AWS_DEFAULT_REGION": "eu-said-1"}, LOOSE | {"region": "eu-said-1"}),
        ({"AWS_ACCESS_KEY_ID": "said id", "AWS_SECRET_ACCESS_KEY": "read by obstore"}, {"region": "eu-default-1"}),
        ({"AWS_SKIP_SIGNATURE": "true"}, {"region": "eu-default-1"}),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}, {"skip_signature": "true", "region": "eu-default-1"}),
        (
            {"AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_CONFIG_FILE": "/nowhere"},
            {"skip_signature": "true", "region": "eu-found-1"},
        ),
    ],
)
def test_the_key_and_the_address_of_a_bucket_are_those_that_a_person_has_said(
    nowhere: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], expected: dict[str, Any]
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    (tmp_path / ".aws" / "credentials").write_text(CREDENTIALS)
    for name, value in variables.items():
        nowhere.setenv(name, value)
    client, key = stores.store("s3://bucket/some/key")
    assert key == "some/key"
    assert {name.removeprefix("aws_"): value for name, value in client.config.items()} == {
        "bucket": "bucket"
    } | expected


@pytest.mark.parametrize(
    ("variables", "location", "message"),
    [
        ({"AWS_PROFILE": "mistyped"}, "s3://bucket/key", "no profile mistyped in ~/.aws/config"),
        ({}, "az://container/key", "Account must be specified; look at AZURE_STORAGE_ACCOUNT_NAME"),
        ({}, "hdfs://host/key", "a URI like s3://, gs:// or az://BUCKET/NAME, got hdfs://host/key"),
        ({}, "s3://", "a URI like s3://"),
        ({"AWS_CONFIG_FILE": __file__}, "s3://bucket/key", "expected settings that fit s3://bucket, got"),
        ({}, "s3://bucket--use1-az4--x-s3/key", "a directory bucket"),
        ({"AWS_CA_BUNDLE": "/nowhere"}, "s3://bucket/key", "AWS_CA_BUNDLE=/nowhere, which cannot be read"),
        ({"AWS_CA_BUNDLE": __file__}, "s3://bucket/key", f"AWS_CA_BUNDLE={__file__}, in which is no certificate"),
        ({}, "S3://bucket/key", "write s3:// in small letters"),
        *(
            ({name: address}, "s3://bucket/key", f"{name}={address}, which is not like http://HOST:PORT")
            for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
            for address in NO_ADDRESSES
        ),
        ({"AWS_REGION": "eu west"}, "s3://bucket/key", "expected an address of a store"),
        ({"AWS_REGION": "eu-1"}, "s3://buc ket/key", "expected an address of a store"),
        ({"GOOGLE_BASE_URL": "127.0.0.1:9"}, "gs://bucket/key", "expected an address of a store"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    nowhere: pytest.MonkeyPatch, variables: dict[str, str], location: str, message: str
) -> None:
    for name, value in variables.items():
        nowhere.setenv(name, value)
    with pytest.raises(InputError) as raised:
        storage.exists(location)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_an_address_at_which_nobody_is_is_named_and_asked_by_obstore_alone(
    nowhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    once = S3Store(
        "bucket", endpoint="http://127.0.0.1:1", skip_signature=True, client_options={"allow_http": True},
        retry_config={"max_retries": 0, "backoff": BACKOFF},
    )  # fmt: skip
    asked: list[str] = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(once, name)

    (tmp_path / "file").write_bytes(b"1")
    for call in (
        lambda: storage.read("s3://bucket/in/file"),
        lambda: list(storage.stream("s3://bucket/in")),
        lambda: storage.names("s3://bucket/in"),
        lambda: storage.kind("s3://bucket/in"),
        lambda: storage.create("s3://bucket/in/file", b"1"),
        lambda: storage.publish(tmp_path / "file", "s3://bucket/in/file"),
    ):
        asked.clear()
        with nowhere.context() as patch:
            patch.setattr(stores, "_store", lambda scheme, bucket: Counted())
            with pytest.raises(OSError, match=r"no answer from http://127.0.0.1:1 \(Connection refused\)$"):
                call()
        assert len(asked) == 1
    with nowhere.context() as patch, pytest.raises(OSError, match="no answer from"):
        patch.setattr(stores, "_store", lambda scheme, bucket: Counted())
        patch.setitem(remote._conditional, "s3://bucket", True)
        asked.clear()
        storage.create("s3://bucket/in/file", b"1")
    assert len(asked) == 1


def test_a_bucket_that_is_missing_is_named(place: str, tmp_path: Path) -> None:
    for call in (
        lambda: storage.create("s3://missing/out/file", b""),
        lambda: storage.write_bytes("s3://missing/out/file", b""),
        lambda: storage.is_conditional("s3://missing/out"),
    ):
        with pytest.raises(StorageError, match="there is no bucket s3://missing: make it, or check the name"):
            call()
    for call in (lambda: storage.require_folder("s3://missing/in"), lambda: Input.of("s3://missing/in", ())):
        with pytest.raises(InputError, match="found no bucket s3://missing: check"):
            call()
    assert (storage.nothing(f"{place}/in"), storage.nothing(str(tmp_path / "in"))) == ("nothing", "nothing")


def test_a_fork_is_told_that_it_cannot_use_the_stores_of_its_parent(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{place}/file", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        for call in (storage.read, storage.exists, storage.remove):
            with pytest.raises(StorageError, match="spawn"):
                call(f"{place}/file")
    assert storage.read(f"{place}/file").data == b"1"


def test_google_and_azure_are_addressed_as_elsewhere(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for location, config, key in (
        ("gs://bucket/a b?/c#", {"bucket": "bucket", "skip_signature": "true"}, "a b?/c#"),
        ("gs://bucket", {"bucket": "bucket", "skip_signature": "true"}, ""),
        (
            "az://container/a/b/",
            {"container_name": "container", "skip_signature": "true"},
            "a/b",
        ),
    ):
        client, found = stores.store(location)
        assert (client.config | config, found) == (client.config, key)
        assert stores.store(location)[0] is client
        assert storage.filesystem(location)[1] == f"{location.split('/')[2]}/{key}".rstrip("/")
    nowhere.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    buckets.forget()
    assert "skip_signature" not in stores.store("az://container")[0].config


def test_who_has_no_key_asks_for_what_is_public(server: Faults, place: str, nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
    server.signatures.clear()
    assert not storage.exists(f"{place}/in/file") and server.signatures == {False}
    nowhere.setenv("AWS_ACCESS_KEY_ID", "id")
    nowhere.setenv("AWS_SECRET_ACCESS_KEY", "key")
    buckets.forget()
    server.signatures.clear()
    assert not storage.exists(f"{place}/in/file") and server.signatures == {True}
