"""Production's place as the promotion sees it: the one room that may write there, by `open_store`.

Beside production's three files it holds `.mlops/`, which the service never reads: the lock, the journal of a change
that is under way, the audit trail and the backups. They live with production so that every machine sees the same.
`local.LocalStore` is a folder; `bucket.BucketStore` has the same methods on an object store, `tag` being an ETag and
`replace` a conditional write.
"""

from __future__ import annotations

from matchmaking import storage
from matchmaking.base.errors import InputError
from matchmaking.base.redact import redact
from matchmaking.release.store.interface import Store
from matchmaking.release.store.local import LocalStore


def open_store(uri: str) -> Store:
    """The store behind a production URI.

    Raises:
        InputError: not a folder that exists.
    """
    if uri.startswith(("s3://", "gs://")):
        from matchmaking.release.store.bucket import BucketStore

        return BucketStore(uri)
    if "://" in uri and not uri.startswith("file://"):
        raise InputError(f"{redact(uri)} can't be written: promotion works on local folders, s3:// and gs://")
    folder = storage.local_path(uri)
    if not uri or not folder.is_dir():
        raise InputError(f"{uri or '--production'}: no such folder; a production folder is there, if only empty")
    return LocalStore(folder)
