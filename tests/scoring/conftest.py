"""A place with a folder to score and a table, and a bucket, for all modules here."""

from collections.abc import Iterator

import pytest
from test_scoring import place

__all__ = ["place"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a store on this machine."""
    server = pytest.importorskip("moto.server", reason="moto[server] (extra dev) is not installed")
    import boto3

    moto = server.ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    names = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    names |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "a", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=names["AWS_ENDPOINT_URL"]).create_bucket(Bucket=f"lake-{port}")
    yield f"s3://lake-{port}"  # clients are kept by the name of the bucket
    moto.stop()
