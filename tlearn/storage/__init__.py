"""Files by local path or URI: listed, read, written in one atomic step; who may write them.

from tlearn import storage
storage.read("s3://bucket/inbox/a.jpg").sha256
"""

from tlearn.storage.copies import Workplace, at_hand, default_cache, disk, workplace
from tlearn.storage.entries import DATES, Content, DeadLink, Entry, decode_name, encode_name, in_order, is_shown
from tlearn.storage.failures import reached
from tlearn.storage.files import (
    absolute,
    copy_folder,
    exists,
    folders,
    is_remote,
    join,
    kind,
    links,
    look,
    names,
    open_input,
    publish,
    read,
    read_json,
    read_listed,
    remove,
    remove_folder,
    require_folder,
    require_writable,
    sha256_file,
    stream,
    write,
    write_bytes,
)
from tlearn.storage.local import local, sync_folder
from tlearn.storage.remote import filesystem

__all__ = [
    "DATES",
    "Content",
    "DeadLink",
    "Entry",
    "Workplace",
    "absolute",
    "at_hand",
    "copy_folder",
    "decode_name",
    "default_cache",
    "disk",
    "encode_name",
    "exists",
    "filesystem",
    "folders",
    "in_order",
    "is_remote",
    "is_shown",
    "join",
    "kind",
    "links",
    "local",
    "look",
    "names",
    "open_input",
    "publish",
    "reached",
    "read",
    "read_json",
    "read_listed",
    "remove",
    "remove_folder",
    "require_folder",
    "require_writable",
    "sha256_file",
    "stream",
    "sync_folder",
    "workplace",
    "write",
    "write_bytes",
]
