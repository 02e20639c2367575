"""What an object store has below a name: listed page by page, the large folders of it side by side."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from tlearn.errors import Unanswered
from tlearn.storage.entries import Entry, encode_name
from tlearn.storage.stores import OddName, answered, filesystem, store

Page = TypeVar("Page")
Part = TypeVar("Part")

_PAGE = 1000
"""Keys in the answer to one request."""
_REQUESTS = 16
"""At a time, by as many threads."""
_TRIES = 3
_LAST = "\U0010fffd"
"""No name that anybody gives begins with it: "a/" and this come after all that is in "a", and before what follows."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What is left of a folder: its keys behind one of them."""

    folder: str
    after: str | None = None
    pages: Iterator[Any] | None = None
    """Of a listing under way."""


@dataclass(frozen=True, slots=True)
class Keys:
    location: str

    def entries(self) -> Iterator[Entry]:
        """Every file, in any order; in memory are a few pages."""
        for page in _side_by_side(self._page, _Part(store(self.location)[1])):
            yield from page

    def _page(self, part: _Part) -> tuple[list[Entry], list[_Part]]:
        """The next page of a part, and what is left of it."""
        try:
            metas, pages = self._asked(part)
        except OddName:
            return self._listed_by_pyarrow(part), []
        entries = [self._entry(meta) for meta in metas if not self._is_marker(meta)]
        if not metas:
            return entries, []
        return entries, self._left(part.folder, metas[0]["path"], metas[-1]["path"], pages)

    def _asked(self, part: _Part) -> tuple[list[Any], Iterator[Any]]:
        client, under_way = store(self.location)[0], [part.pages] if part.pages else []

        def request() -> tuple[list[Any], Iterator[Any]]:
            new = client.list(part.folder or None, offset=part.after, chunk_size=_PAGE)  # asks when it is asked
            pages = under_way.pop() if under_way else iter(new)
            return next(pages, []), pages

        return _again(request)

    def _left(self, folder: str, first: str, last: str, pages: Iterator[Any]) -> list[_Part]:
        """Where a whole page lies in one folder, that one is listed beside what follows it.

        Not on Azure, which cannot begin a listing behind a key.
        """
        inner = _folder_below(folder, last)
        if inner and inner == _folder_below(folder, first) and not self.location.startswith("az://"):
            return [_Part(folder, f"{inner}/{_LAST}"), _Part(inner, last)]
        return [_Part(folder, last, pages)]

    def _entry(self, meta: Any) -> Entry:
        return Entry(self._below(meta["path"]), meta["size"], modified(meta), etag=meta["e_tag"])

    def _below(self, key: str) -> str:
        root = store(self.location)[1]
        return encode_name(key[len(root) + bool(root) :].encode())

    def _is_marker(self, meta: Any) -> bool:
        """Of a folder, as some clients make it: an empty object whose name ends with a slash, which obstore drops."""
        client, root = store(self.location)
        if meta["size"] or meta["path"] == root:
            return bool(meta["path"] == root)
        try:
            with answered():
                client.head(meta["path"])
        except FileNotFoundError:
            return True
        return False

    def _listed_by_pyarrow(self, part: _Part) -> list[Entry]:
        """All at once, with keys like "a//b": each has a row, which says that it cannot be read."""
        scheme, _, bucket = self.location.partition("://")
        place = f"{scheme}://{bucket.partition('/')[0]}/{part.folder}"
        infos = ((info.path.partition("/")[2], info) for info in _infos(place, recursive=True) if info.is_file)
        return [
            Entry(self._below(key), info.size, (info.mtime_ns or 0) // 10**9 * 10**6)
            for key, info in infos
            if key.encode() > (part.after or "").encode()  # stores list in this order
        ]

    def is_any(self) -> bool:
        try:
            return bool(self._asked(_Part(store(self.location)[1]))[0])
        except OddName:
            return True

    def level(self, kind: str) -> list[str]:
        """Names directly below: of "objects" or of "common_prefixes"."""
        client, root = store(self.location)
        try:
            found = _again(lambda: client.list_with_delimiter(root or None)[kind])
        except FileNotFoundError:
            return []
        except OddName:
            infos = _infos(self.location, recursive=False)
            return [info.base_name for info in infos if info.is_file == (kind == "objects")]
        paths = [item if isinstance(item, str) else item["path"] for item in found]
        return [path.rpartition("/")[2] for path in paths if path != root]


def _again(request: Callable[[], Page]) -> Page:
    """Of an answer that breaks off obstore asks again for a file, but not for a listing.

    Where nobody is, it has asked often enough.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            with answered():
                return request()
        except (FileNotFoundError, OddName, Unanswered):
            raise
        except OSError:
            if not tries_left:
                raise
    raise AssertionError


def modified(meta: Any) -> int:
    """Microseconds of whole seconds: some listings know more than what a read says of the same object."""
    return int(meta["last_modified"].timestamp()) * 10**6


def _folder_below(folder: str, key: str) -> str | None:
    start = len(folder) + bool(folder)
    name, slash, _ = key[start:].partition("/")
    return key[:start] + name if slash else None


def _infos(location: str, *, recursive: bool) -> list[Any]:
    from pyarrow import fs

    system, path = filesystem(location)
    found: list[Any] = system.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
    # Of a key that begins with "//" it makes a folder in itself.
    return [info for info in found if info.path.rstrip("/") != path]


def _side_by_side(next_page: Callable[[Part], tuple[Page, list[Part]]], first: Part) -> Iterator[Page]:
    """The pages of all parts, as they come, while the next ones are asked for."""
    parts: list[Part] = []
    with ThreadPoolExecutor(_REQUESTS) as threads:
        running = {threads.submit(next_page, first)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            results = [future.result() for future in done]
            for _, left in results:
                parts += left
            while parts and len(running) < _REQUESTS:
                running.add(threads.submit(next_page, parts.pop()))
            yield from (page for page, _ in results)
