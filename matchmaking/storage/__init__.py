"""Files and folders at any URI: local paths, file://, s3://, gs://, and https:// for reading.

What can be done there stands in `operations`; a backend is a file, which others needn't know.
"""

from matchmaking.storage.backend import ConflictError, StorageError
from matchmaking.storage.bundles import download_bundle, hash_bundle
from matchmaking.storage.globs import matching
from matchmaking.storage.local import local_path
from matchmaking.storage.operations import (
    check_apart,
    delete,
    download,
    download_folder,
    download_if_there,
    is_folder,
    join,
    list_names,
    list_sizes,
    publish,
    read_bytes,
    read_end,
    replace_bytes,
    size,
)

__all__ = [
    "ConflictError",
    "StorageError",
    "check_apart",
    "delete",
    "download",
    "download_bundle",
    "download_folder",
    "download_if_there",
    "hash_bundle",
    "is_folder",
    "join",
    "list_names",
    "list_sizes",
    "local_path",
    "matching",
    "publish",
    "read_bytes",
    "read_end",
    "replace_bytes",
    "size",
]
