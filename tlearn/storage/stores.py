"""Object stores: which client speaks to a bucket, with which address and credentials; README.md here says which."""

import configparser
import contextlib
import functools
import os
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tlearn.errors import InputError, StorageError, StoreError, Unanswered

READ_SECONDS = 60.0
"""A store that says nothing for so long is asked again, where asking twice does no harm."""

_METADATA = ("169.254.169.254", 80)
"""Where the machines of all three clouds get their credentials."""

_SIGNED_BY = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_", "AWS_METADATA_ENDPOINT", "AWS_SKIP_SIGNATURE"),
    "gs": ("GOOGLE_APPLICATION_", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_BEARER_TOKEN", "GOOGLE_SKIP_SIGNATURE"),
    "az": (
        "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_MASTER_KEY", "AZURE_STORAGE_SAS_",
        "AZURE_STORAGE_TOKEN", "AZURE_STORAGE_CLIENT_", "AZURE_CLIENT_", "AZURE_FEDERATED_", "AZURE_MSI_",
        "AZURE_IDENTITY_", "IDENTITY_ENDPOINT", "AZURE_USE_", "AZURE_STORAGE_USE_", "AZURE_SKIP_SIGNATURE",
    ),
}  # fmt: skip
"""How the variables begin that say how to sign, or not to."""

_BY_BOTO = {"role_arn", "sso_session", "sso_start_url", "credential_process"}
"""What a profile may have instead of a key."""


def store(location: str) -> tuple[Any, str]:
    """obstore's client of a bucket, one for each of them, and the key in it. Raises InputError.

    Raises StorageError in the fork of a process that has used one: there obstore would wait for threads that are gone.
    """
    if os.getpid() != _first_process():
        raise StorageError("expected a process of its own for object stores, got a fork of one: start it with spawn")
    scheme, bucket, key = _parsed(location)
    return _store(scheme, bucket), key


def filesystem(location: str) -> tuple[Any, str]:
    """pyarrow's filesystem and the path in it: for Ray Train, which writes its checkpoints there. Raises InputError."""
    scheme, bucket, key = ("file", "", location) if "://" not in location else _parsed(location)
    system = _filesystem(scheme, bucket)
    return system, f"{bucket}/{key}".rstrip("/") if bucket else key


@functools.cache
def _first_process() -> int:
    return os.getpid()


@functools.lru_cache(maxsize=1024)
def _parsed(location: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"(s3|gs|az)://([^/?]+)/?(.*)", location, re.DOTALL)
    if match is None:
        scheme = location.partition("://")[0].lower()
        small = f": write {scheme}:// in small letters" if not location.startswith(scheme) else ""
        raise InputError(f"expected a path, or a URI like s3://, gs:// or az://BUCKET/NAME, got {location}{small}")
    scheme, bucket, key = match.groups()
    return scheme, bucket, key.rstrip("/")


@functools.lru_cache(maxsize=64)
def _store(scheme: str, bucket: str) -> Any:
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    # An address that begins with http:// was given by somebody who means it.
    client: dict[str, Any] = {
        "allow_http": True,
        "timeout": timedelta(hours=1),
        "read_timeout": timedelta(seconds=READ_SECONDS),
    }
    backoff = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=10), "base": 2}
    options: dict[str, Any] = {"client_options": client, "retry_config": {"max_retries": 10, "backoff": backoff}}
    try:
        if certificates := os.environ.get("AWS_CA_BUNDLE"):
            client["root_certificate"] = _certificates(certificates)
        if bucket.endswith("--x-s3"):
            raise ValueError("a directory bucket, whose listing has no order: use a general purpose bucket")
        if scheme == "s3":
            return S3Store(bucket, **options, **_settings_of_s3(bucket))
        if not (_is_signed(scheme) or _is_in_a_cloud()):
            options["skip_signature"] = True
        return GCSStore(bucket, **options) if scheme == "gs" else AzureStore(bucket, **options)
    except (BaseError, ValueError, OSError, configparser.Error) as error:
        is_account = scheme == "az" and isinstance(error, BaseError)
        look = "; look at AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY" if is_account else ""
        raise InputError(f"expected settings that fit {scheme}://{bucket}, got: {_first_line(error)}{look}") from None


def _certificates(path: str) -> bytes:
    try:
        certificates = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"AWS_CA_BUNDLE={path}, which cannot be read ({error.strerror})") from None
    if b"BEGIN CERTIFICATE" not in certificates:
        raise ValueError(f"AWS_CA_BUNDLE={path}, in which is no certificate")
    return certificates


def _settings_of_s3(bucket: str) -> dict[str, Any]:
    """What a profile says. The variables of the environment come first; obstore reads them itself."""
    profile = _profile()
    region, endpoint = _region_of_s3(profile), _endpoint_of_s3(profile)
    if region is None and endpoint is None:
        region = _region_of_bucket(bucket)
    settings: dict[str, Any] = {"region": region, "endpoint": endpoint}
    if _is_signed("s3"):
        pass
    elif "aws_access_key_id" in profile:
        settings |= {name: profile.get(f"aws_{name}") for name in ("access_key_id", "secret_access_key")}
        settings["session_token"] = profile.get("aws_session_token")
    elif _BY_BOTO & profile.keys():
        settings["credential_provider"] = _provider()
    elif not _is_in_a_cloud():
        settings["skip_signature"] = True
    return {name: value for name, value in settings.items() if value}


def _profile() -> dict[str, str]:
    """What ~/.aws/config and ~/.aws/credentials say of the profile that AWS_PROFILE names, or of the default one."""
    name = os.environ.get("AWS_PROFILE") or "default"
    config = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    settings: dict[str, str] = {}
    for file, section in ((config, name if name == "default" else f"profile {name}"), (credentials, name)):
        parser = configparser.RawConfigParser()
        parser.read(os.path.expanduser(file))
        if parser.has_section(section):
            settings |= parser[section]
    if not settings and "AWS_PROFILE" in os.environ and not _is_signed("s3"):
        raise ValueError(f"no profile {name} in {config} or {credentials}")
    return settings


def _region_of_s3(profile: dict[str, str]) -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or profile.get("region")


def _endpoint_of_s3(profile: dict[str, str]) -> str | None:
    """Raises ValueError for what is no address: obstore would panic at the first request."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    name = next(filter(os.environ.get, names), "endpoint_url")
    address = os.environ.get(name) or profile.get(name)
    if address is not None and not _is_address(address):
        raise ValueError(f"{name}={address}, which is not like http://HOST:PORT")
    return address


def _is_address(address: str) -> bool:
    try:
        urlsplit(address).port  # noqa: B018  # raises where it is no number, or too large
    except ValueError:
        return False
    return address.isascii() and re.fullmatch(r"https?://[^\s/?#:]\S*", address, re.IGNORECASE) is not None


def _region_of_bucket(bucket: str) -> str | None:
    from pyarrow import fs

    try:
        return str(fs.resolve_s3_region(bucket))
    except (OSError, ValueError):  # the first request says what is wrong
        return None


def _provider() -> Any:
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise ValueError("a profile with a role, SSO or a program, which boto3 reads: pip install boto3") from None
    return Boto3CredentialProvider()


def _is_signed(scheme: str) -> bool:
    if scheme == "gs" and Path("~/.config/gcloud/application_default_credentials.json").expanduser().exists():
        return True
    return any(name.startswith(_SIGNED_BY[scheme]) for name in os.environ)


@functools.cache
def _is_in_a_cloud() -> bool:
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    with contextlib.suppress(OSError), socket.create_connection(_METADATA, timeout=1.0):
        return True
    return False


@functools.lru_cache(maxsize=64)
def _filesystem(scheme: str, bucket: str) -> Any:
    from pyarrow import fs

    try:
        if scheme == "az":
            keys = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY")
            key = next(filter(None, map(os.environ.get, keys)), None)
            return fs.AzureFileSystem(os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", ""), account_key=key)
        if scheme != "s3" or (endpoint := _endpoint_of_s3(_profile())) is None:
            return fs.FileSystem.from_uri(f"{scheme}://{bucket or '/'}")[0]
        protocol, _, host = endpoint.partition("://")
        return fs.S3FileSystem(scheme=protocol, endpoint_override=host, region=_region_of_s3(_profile()))
    except Exception as error:
        raise InputError(f"expected settings that fit {scheme}://{bucket}, got: {_first_line(error)}") from None


class OddName(OSError):
    """In a listing: a key that obstore refuses, like "a//b"."""


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Turn the errors of obstore into OSErrors of one line; a refusal by a condition into FileExistsError.

    Raises InputError for an address that is none.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PreconditionError

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(_first_line(error)) from None
    except (AlreadyExistsError, PreconditionError) as error:
        raise FileExistsError(_first_line(error)) from None
    except InvalidPathError as error:
        raise OddName(_first_line(error)) from None
    except (BaseError, ValueError, NotImplementedError) as error:
        line = _first_line(error)
        if "error sending request" in line:
            raise _unanswered(str(error)) from None
        raise (FileNotFoundError if "404 Not Found" in line else StoreError)(line) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which no module exports
            raise
        raise InputError(
            f"expected an address of a store, got {_first_line(error)}: look at the URI, AWS_REGION, GOOGLE_BASE_URL"
        ) from None


def _unanswered(said: str) -> StoreError:
    """From obstore's description of an error: which address gave no answer, and why."""
    address = re.search(r"https?://[^/\s]+", said)
    kind, *_ = *re.findall(r"kind: (\w+)", said), "unknown"
    *_, reason = kind, *re.findall(r'^ *(?:message|error): "?(\w[^"\n,({]*)', said, re.MULTILINE)
    line = f"no answer from {address[0] if address else 'the store'} ({reason.strip()})"
    return Unanswered(line) if kind == "Connect" else StoreError(line)


def _first_line(error: BaseException) -> str:
    """What a client says, without the source of it and without the markup of the store's answer."""
    said = re.search("<Message>(.*?)</Message>", str(error))
    line = re.split(r"\n|: <", str(error), maxsplit=1)[0]
    return f"{line}: {said[1]}" if said else line.rstrip(": ")
