"""Time and memory of listing a bucket: python tests/benchmarks/objects.py 20000 200000

The store is moto on the loopback address, with as many objects as told, in one folder or in ten. Each request is
answered 0.1 seconds late, as by a store that is far away. Store and client are processes of their own. The memory is
the most that the client had.
"""

import bisect
import copy
import json
import logging
import os
import subprocess
import sys
import time
from typing import Any

DELAY_SECONDS = 0.1
LAYOUTS = {"one folder": 1, "ten folders": 10}

CLIENT = """
import json, resource, sys, time
from tlearn import storage

start, listed, first = time.perf_counter(), 0, 0.0
for listed, _ in enumerate(storage.stream(sys.argv[1]), 1):
    first = first or time.perf_counter() - start
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"listed": listed, "first": first, "seconds": seconds, "peak": peak}))
"""


def serve(count: int, num_folders: int) -> None:
    """The objects are made as they are asked for: moto would sort all of them for each page of a listing."""
    from moto.s3.models import FakeKey, s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    names = sorted(f"in/{number % num_folders}/{number:09}.jpg" for number in range(count))
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket("bucket", "us-east-1")
    one = FakeKey("", b"x", account_id="123456789012", region_name="us-east-1", bucket_name="bucket")

    def page(
        *, prefix: str, continuation_token: str | None, start_after: str | None, max_keys: int, **_: Any
    ) -> tuple[list[FakeKey], bool, str | None]:
        after = continuation_token or start_after
        first = bisect.bisect_left(names, prefix) if after is None else bisect.bisect(names, after)
        found = [name for name in names[first : first + max_keys] if name.startswith(prefix)]
        is_cut = len(found) == max_keys and first + max_keys < len(names)
        objects = [copy.copy(one) for _ in found]
        for key, name in zip(objects, found, strict=True):
            key.name = name
        return objects, is_cut, found[-1] if is_cut else None

    backend.list_objects_v2 = page
    application = DomainDispatcherApplication(create_backend_app)

    def late(environment: Any, start_response: Any) -> Any:
        time.sleep(DELAY_SECONDS)
        return application(environment, start_response)

    server = make_server("127.0.0.1", 0, late, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def measure(count: int, num_folders: int) -> dict[str, float]:
    with subprocess.Popen(
        [sys.executable, __file__, "serve", str(count), str(num_folders)], stdout=subprocess.PIPE, text=True
    ) as store:
        try:
            assert store.stdout is not None
            address = f"http://127.0.0.1:{int(store.stdout.readline())}"
            keys = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
            client = subprocess.run(
                [sys.executable, "-c", CLIENT, "s3://bucket/in"],
                env=os.environ | keys,
                stdout=subprocess.PIPE,
                check=True,
            )
        finally:
            store.kill()
    result: dict[str, float] = json.loads(client.stdout)
    assert result["listed"] == count
    return result


def main() -> None:
    print("| objects | in | first after, seconds | all after, seconds | objects/s | memory, MB |")
    print("|---|---|---|---|---|---|")
    for count in map(int, sys.argv[1:]):
        for layout, num_folders in LAYOUTS.items():
            result = measure(count, num_folders)
            rate = count / result["seconds"]
            figures = f"{result['first']:.1f} | {result['seconds']:.1f} | {rate:,.0f} | {result['peak']:.0f}"
            print(f"| {count:,} | {layout} | {figures} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
