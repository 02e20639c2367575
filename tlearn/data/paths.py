"""Which of many paths are pictures: the rule of `names`, for columns of millions."""

import re

import pyarrow as pa
import pyarrow.compute as pc

from tlearn.data.names import LITTER, SUFFIXES, Ignored, is_entered, is_picture
from tlearn.storage import Entry


def _expression(pattern: str) -> str:
    """A pattern of LITTER for RE2, within one part of a path."""
    parts = re.split(r"(\*|\[[^]]*\])", pattern)
    return "".join("[^/]*" if part == "*" else part if part.startswith("[") else re.escape(part) for part in parts)


_ODD = rf"(?:^|/)(?:$|/|\.|(?:{'|'.join(map(_expression, LITTER))})(?:/|$))"
_PICTURE = rf"(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))})$"


def odd(paths: pa.Array) -> pa.Array:
    """(paths,) bool: where a part is empty, begins with a dot, or is what a system leaves behind."""
    return pc.match_substring_regex(paths, _ODD, ignore_case=True)


class Pictures:
    """Sorts out table after table of one listing as `listing.picked` does; what is no picture goes to `ignored`."""

    def __init__(self, ignored: Ignored):
        self._ignored = ignored
        self._not_entered: set[str] = set()

    def among(self, paths: pa.Array, is_odd: pa.Array) -> pa.Array:
        """(paths,) bool: whether each is the path of a picture; `odd` has told which are looked at one by one."""
        are_pictures = pc.match_substring_regex(paths, _PICTURE, ignore_case=True)
        others = pc.invert(pc.or_(are_pictures, is_odd))
        if pc.any(others).as_py():
            suffixes = pc.utf8_lower(pc.extract_regex(paths.filter(others), r"(?P<suffix>\.[^./]*)$").field("suffix"))
            for kind in pc.value_counts(suffixes).to_pylist():
                if kind["values"]:
                    self._ignored.count(kind["values"], kind["counts"])
            are_pictures = pc.replace_with_mask(are_pictures, others, pc.equal(suffixes, ""))
        if pc.any(is_odd).as_py():
            judged = [self._is_picture(path) for path in paths.filter(is_odd).to_pylist()]
            are_pictures = pc.replace_with_mask(are_pictures, is_odd, pa.array(judged, pa.bool_()))
        return are_pictures

    def _is_picture(self, path: str) -> bool:
        *folders, name = path.split("/")
        depth = next((depth for depth, folder in enumerate(folders, 1) if not is_entered(folder)), None)
        if depth is None and name:
            is_one = is_picture(path)
            if not is_one:
                self._ignored.add(Entry(path, 0, 0))
            return is_one
        folder = "/".join(folders[:depth])
        if depth is not None and folder not in self._not_entered:
            self._not_entered.add(folder)
            self._ignored.add(Entry(folder, 0, 0, "folder"))
        return False
