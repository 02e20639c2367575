"""Files fetched by a child process, for where an earlier process has died over one of them."""

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tlearn.config import PreprocessConfig
from tlearn.data.fetch import Fetch, Fetched, fetch

_TIMEOUT_SECONDS = 60


class Careful:
    """What a folder's files hold, one after the other; one that kills the child or hangs it is a `decoder_crash`."""

    def __init__(self, folder: str, preprocess: PreprocessConfig, fetch: Fetch = fetch):
        self.fetch, self.folder, self.preprocess = fetch, folder, preprocess

    def __call__(self, paths: Iterable[str]) -> Iterator[Fetched]:
        """In the order of the paths."""
        child = _start()
        try:
            for path in paths:
                fetched = self._fetched(child, path)
                if fetched.status == "decoder_crash":
                    _stop(child)
                    child = _start()
                yield fetched
        finally:
            _stop(child)

    def _fetched(self, child: ProcessPoolExecutor, path: str) -> Fetched:
        try:
            return child.submit(self.fetch, self.folder, path, self.preprocess).result(_TIMEOUT_SECONDS)
        except BrokenProcessPool:
            return Fetched(status="decoder_crash", error="the process that decoded it died")
        except TimeoutError:
            return Fetched(status="decoder_crash", error=f"not decoded after {_TIMEOUT_SECONDS} seconds")


def _start() -> ProcessPoolExecutor:
    """A child that starts with its first file."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _stop(child: ProcessPoolExecutor) -> None:
    for process in list((child._processes or {}).values()):
        process.kill()
    child.shutdown(cancel_futures=True)
