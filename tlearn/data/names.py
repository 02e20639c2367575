"""What the name of a file or folder says: a picture, what a system has left behind, or something else."""

import fnmatch
import os
import re
from collections import Counter
from dataclasses import dataclass, field

from tlearn.errors import printable, some
from tlearn.storage import Entry, is_shown

# A file counts as a picture by its name, so that a CSV file beside the pictures is no bad picture. What it holds
# is decided by its content. Kinds that cannot be read are listed too: whoever put them there wants to know.
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".mpo",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".heic",
        ".heif",
        ".jp2",
        ".svg",
        ".ico",
    ]
)

# Files and folders, in any case of letters. Folders whose name starts with a dot are never entered anyway.
LITTER = (
    "_tlearn",  # beside the files of a table of ours
    # macOS and its servers
    "._*", ".DS_Store", ".localized", "Icon\r", "__MACOSX", "Network Trash Folder", "Temporary Items",
    "TheVolumeSettingsFolder",
    # Windows
    "Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "*:Zone.Identifier", "$RECYCLE.BIN",
    "System Volume Information", "found.[0-9][0-9][0-9]", "~$*",
    # Linux, NFS, FUSE
    "lost+found", ".Trash*", ".nfs*", ".fuse_hidden*", ".directory", ".~lock.*",
    # Synology, QNAP, NetApp
    "@eaDir", "*@SynoEAStream", "*@SynoResource", "@tmp", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot",
    ".@__thumb", "~snapshot",
    # programs
    ".git", ".gitkeep", ".gitignore", ".gitattributes", ".ipynb_checkpoints", "__pycache__", ".picasa.ini",
    # Spark, Hadoop, EMR
    "_SUCCESS", "_temporary", "_metadata", "_common_metadata", "_committed_*", "_started_*", "*_$folder$",
)  # fmt: skip
_PATTERNS = [pattern for pattern in LITTER if "*" in pattern or "[" in pattern]
_EXACT = {name.lower(): name for name in LITTER if name not in _PATTERNS}
_ANY_PATTERN = re.compile("|".join(f"({fnmatch.translate(pattern.lower())})" for pattern in _PATTERNS))
_MAX_KINDS = 1000


def litter(name: str) -> str | None:
    """What of LITTER a name is."""
    name = name.lower()
    if name in _EXACT:
        return _EXACT[name]
    match = _ANY_PATTERN.match(name)
    return _PATTERNS[match.lastindex - 1] if match and match.lastindex else None


def is_entered(folder: str) -> bool:
    return is_shown(folder) and litter(folder) is None


def is_picture(path: str, *, needs_suffix: bool = False) -> bool:
    """By its suffix; a name without one counts, unless it starts with a dot. What systems leave behind does not.

    With `needs_suffix` no name without one counts: of a link that leads nowhere, which may have led to a folder.
    """
    name = path.rpartition("/")[2]
    suffix = os.path.splitext(name)[1].lower()
    if suffix:
        return suffix in SUFFIXES and (name[0].isalnum() or litter(name) is None)
    return not (needs_suffix or name.startswith(".")) and litter(name) is None


@dataclass(slots=True)
class Ignored:
    """What a listing found and does not give; it grows with the listing."""

    names: Counter[str] = field(default_factory=Counter)
    """How many files of each suffix, files and folders of each name that systems leave behind; folders end in /."""
    links: list[str] = field(default_factory=list)
    """Paths of links to folders."""
    dead_links: list[str] = field(default_factory=list)
    """Paths of links that lead nowhere and have no picture's suffix."""
    others: list[str] = field(default_factory=list)
    """Paths of pipes, sockets and devices."""
    closed: list[str] = field(default_factory=list)
    """Paths of folders that cannot be read."""
    unused: tuple[str, ...] = ()
    """Folders beside the splits."""
    loose: Counter[str] = field(default_factory=Counter)
    """How many pictures lie in no class folder, by the folder of the split."""
    outside: int = 0
    """Files of an inventory that are not in the folder that was asked for."""

    def total(self) -> int:
        """Files and folders, without links."""
        return self.names.total() + self.loose.total()

    def add(self, entry: Entry, prefix: str = "") -> None:
        """`prefix` is put before its path."""
        if entry.kind == "link":
            self.links.append(prefix + entry.path)
        elif entry.kind == "dead link":
            self.dead_links.append(prefix + entry.path)
        elif entry.kind == "other":
            self.others.append(prefix + entry.path)
        elif entry.kind == "closed folder":
            self.closed.append(prefix + entry.path)
        else:
            name = entry.path.rpartition("/")[2]
            kind = litter(name) or (name if entry.kind == "folder" else os.path.splitext(name)[1].lower() or name)
            self.count(kind + "/" if entry.kind == "folder" else kind)

    def take(self, other: "Ignored") -> None:
        """What another listing has left out, too."""
        for kind, number in other.names.items():
            self.count(kind, number)
        for mine, theirs in zip(self._paths(), other._paths(), strict=True):
            mine += theirs
        self.loose.update(other.loose)
        self.outside += other.outside

    def _paths(self) -> tuple[list[str], ...]:
        return self.links, self.dead_links, self.others, self.closed

    def count(self, kind: str, number: int = 1) -> None:
        """So many of a suffix or name. Of names that are all different there may be as many as files."""
        self.names[kind if kind in self.names or len(self.names) < _MAX_KINDS else "other"] += number

    def hint(self) -> str:
        """For the end of an error about something that was not found."""
        return "".join(f"; {remark}" for remark in self.remarks())

    def remarks(self) -> list[str]:
        """One line each."""
        remarks = [
            f"{count:,} pictures lie loose in {printable(folder)}/, in no class folder: ignored"
            for folder, count in self.loose.items()
        ]
        if self.unused:
            remarks.append(f"not used: {some([f'{name}/' for name in self.unused])}")
        if self.names:
            counts = [f"{kind} {count:,}" for kind, count in self.names.most_common()]
            remarks.append(f"ignored, by name no pictures: {some(counts)}")
        if self.outside:
            remarks.append(f"of the inventory, not in the input: {self.outside:,} files")
        if self.others:
            remarks.append(f"pipes, sockets and devices: {some(self.others)}")
        if self.closed:
            remarks.append(f"folders that cannot be read: {some(self.closed)}")
        if self.links:
            remarks.append(f"links to folders are not followed: {some(self.links)}")
        if self.dead_links:
            remarks.append(f"links that lead nowhere: {some(self.dead_links)}")
        return remarks
