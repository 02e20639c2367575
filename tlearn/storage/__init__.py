"""Files by local path or URI: listed, read, written in one atomic step; who may write them.

from tlearn import storage
storage.read("s3://bucket/inbox/a.jpg").sha256
"""

from tlearn.storage.files import (
    Content as Content,
)
from tlearn.storage.files import (
    Entry as Entry,
)
from tlearn.storage.files import (
    Workplace as Workplace,
)
from tlearn.storage.files import (
    absolute as absolute,
)
from tlearn.storage.files import (
    at_hand as at_hand,
)
from tlearn.storage.files import (
    copy_folder as copy_folder,
)
from tlearn.storage.files import (
    decode_name as decode_name,
)
from tlearn.storage.files import (
    disk as disk,
)
from tlearn.storage.files import (
    encode_name as encode_name,
)
from tlearn.storage.files import (
    exists as exists,
)
from tlearn.storage.files import (
    filesystem as filesystem,
)
from tlearn.storage.files import (
    folders as folders,
)
from tlearn.storage.files import (
    is_remote as is_remote,
)
from tlearn.storage.files import (
    join as join,
)
from tlearn.storage.files import (
    local as local,
)
from tlearn.storage.files import (
    names as names,
)
from tlearn.storage.files import (
    open_input as open_input,
)
from tlearn.storage.files import (
    publish as publish,
)
from tlearn.storage.files import (
    read as read,
)
from tlearn.storage.files import (
    read_json as read_json,
)
from tlearn.storage.files import (
    read_listed as read_listed,
)
from tlearn.storage.files import (
    remove as remove,
)
from tlearn.storage.files import (
    remove_folder as remove_folder,
)
from tlearn.storage.files import (
    require_writable as require_writable,
)
from tlearn.storage.files import (
    sha256_file as sha256_file,
)
from tlearn.storage.files import (
    stream as stream,
)
from tlearn.storage.files import (
    sync_folder as sync_folder,
)
from tlearn.storage.files import (
    walk as walk,
)
from tlearn.storage.files import (
    workplace as workplace,
)
from tlearn.storage.files import (
    write as write,
)
from tlearn.storage.files import (
    write_bytes as write_bytes,
)
