"""The files of a production folder, at any URI: all of them, or none."""

from __future__ import annotations

import tempfile
from pathlib import Path

from matchmaking.base.errors import InputError
from matchmaking.base.files import file_sha256
from matchmaking.base.redact import redact
from matchmaking.storage.operations import download_if_there, is_folder, join


def download_bundle(uri: str, names: tuple[str, ...], target: Path) -> bool:
    """Brings the named files of a folder here; False where the folder is there but holds none of them.

    On an object store a folder is there when anything is in it; a bucket may be empty.

    Raises:
        InputError: there is no such folder, or only some of the files are in it.
        StorageError: the store can't be reached, even after retries.
    """
    missing = [name for name in names if not download_if_there(join(uri, name), target / name)]
    if not missing:
        return True
    if len(missing) < len(names):
        raise InputError(
            f"{redact(uri)}: {', '.join(missing)} is missing; a production folder holds {', '.join(names)}"
        )
    if is_folder(uri):
        return False
    raise InputError(
        f"{redact(uri)}: no such folder; a production folder holds {', '.join(names)}, or is empty (or left out) "
        "to bootstrap a first model"
    )


def hash_bundle(uri: str, names: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of the named files of a folder, by name; absent ones are left out.

    Raises:
        InputError: no right to read them.
        StorageError: the store can't be reached, even after retries.
    """
    with tempfile.TemporaryDirectory() as folder:
        copies = {name: Path(folder, name) for name in names}
        return {name: file_sha256(copy) for name, copy in copies.items() if download_if_there(join(uri, name), copy)}
