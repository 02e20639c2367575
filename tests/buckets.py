"""An object store on the loopback address, whose answers a test may spoil."""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tlearn.storage import remote, stores

STALL_SECONDS = 1.5

_numbers = itertools.count(1)


class Faults:
    """A WSGI application between the client and the store: every `every`-th request is answered with a fault.

    The status "stall" is no answer for longer than the client waits, "cut" the first half of one.
    """

    def __init__(self, application: Any):
        self.application = application
        self.every: int | None = None
        self.once = ""
        """The method of the next request that is answered with a fault."""
        self.status = "503 Slow Down"
        self.takes_effect = False
        """Whether the store does what it was asked before the fault."""
        self.is_careless = False
        """Whether it writes without a look at conditions."""
        self.num_faults = 0
        self.address = ""
        self.signatures: set[bool] = set()
        self._count = itertools.count(1)
        self._writing = threading.Lock()

    def __call__(self, environment: dict[str, Any], start_response: Any) -> Any:
        self.signatures.add("HTTP_AUTHORIZATION" in environment)
        if self.is_careless:
            environment = {name: environment[name] for name in environment if not name.startswith("HTTP_IF_")}
        is_next = environment["REQUEST_METHOD"] == self.once
        if is_next or (self.every and next(self._count) % self.every == 0):
            self.once = "" if is_next else self.once
            self.num_faults += 1
            if self.takes_effect:
                b"".join(self._answered(environment, lambda *answer: None))
            if self.status == "stall":
                time.sleep(STALL_SECONDS)
            if self.status == "cut":
                return self._cut(environment, start_response)
            if self.takes_effect or self.status != "stall":
                status = "500 Late" if self.status == "stall" else self.status
                start_response(status, [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"]
        return self._answered(environment, start_response)

    def _cut(self, environment: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        whole = b"".join(self._answered(environment, start_response))
        yield whole[: len(whole) // 2]
        raise ConnectionResetError

    def _answered(self, environment: dict[str, Any], start_response: Any) -> Any:
        with self._writing if environment["REQUEST_METHOD"] == "PUT" else contextlib.nullcontext():  # in one step
            return self.application(environment, start_response)


@contextlib.contextmanager
def served(patch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """moto, at the address that the environment says, with the keys that it says."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    faults.address = f"127.0.0.1:{server.server_port}"
    forget()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{faults.address}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        yield faults
    finally:
        forget()
        server.shutdown()
        thread.join()


def forget() -> None:
    """What was found out of stores."""
    for function in (stores._store, stores._filesystem, stores._is_in_a_cloud):
        function.cache_clear()
    remote._conditional.clear()


def make(name: str) -> str:
    """A bucket that nobody has used."""
    from moto.s3.models import s3_backends

    bucket = f"{name}-{next(_numbers)}"
    s3_backends["123456789012"]["aws"].create_bucket(bucket, "us-east-1")
    return f"s3://{bucket}"


def put(location: str, data: bytes) -> None:
    """Straight into the store, whatever the name."""
    from moto.s3.models import s3_backends

    bucket, _, key = location.removeprefix("s3://").partition("/")
    s3_backends["123456789012"]["aws"].put_object(bucket, key, data)
