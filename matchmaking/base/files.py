"""Files: written whole or not at all, copied, hashed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's bytes; the copy is whole or absent, and writable whatever the source is."""
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def written_whole(target: Path, *, durable: bool = False, temporary: Path | None = None) -> Iterator[Path]:
    """A place to write a file that becomes the target when all went well, and vanishes when not.

    Args:
        target: the file; its folder is there.
        durable: the file is on the disk before it has its name, and has its name there before this ends.
        temporary: where to write, in the same folder; a name of its own if left out, so that two may write at once.
    """
    temporary = temporary or temporary_beside(target)
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, target)
        if durable:
            sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes in hex: what DVC 3 records as a dataset's version."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Has a file's bytes, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(file: io.BufferedIOBase, algorithm: str = "sha256") -> hashlib._Hash:
    """The digest of a whole file, which is at its beginning before and after."""
    digest = hashlib.file_digest(file, algorithm)
    file.seek(0)
    return digest
