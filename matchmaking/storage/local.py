"""Local paths and file:// URIs."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.files import digest_of, file_sha256, written_whole
from matchmaking.base.redact import redact
from matchmaking.storage.backend import CHUNK, Lost, Missing, Store, scheme_of


def local_path(uri: str) -> Path:
    """The path behind a local URI.

    Raises:
        InputError: it isn't one.
    """
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{redact(uri)}: write a local file as file:///path, or as its path alone")
        return Path(unquote(parts.path))
    if scheme_of(uri):
        raise InputError(f"{redact(uri)}: only a local path can be used here")
    return Path(uri)


class Local(Store):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.path = local_path(uri)

    def fetch(self, file: io.BufferedIOBase) -> str:
        if not self.path.is_file():
            raise Missing
        try:
            source = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.uri} can't be read: {error.strerror}") from error
        with source:
            shutil.copyfileobj(source, file, CHUNK)
            source.seek(0)
            return digest_of(source).hexdigest()

    def write(self, file: io.BufferedIOBase, expected: str | None, writer: str) -> str:
        import fcntl

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                if (file_sha256(self.path) if self.path.exists() else None) != expected:
                    raise Lost
                with written_whole(self.path, durable=True) as temporary, temporary.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
                return file_sha256(self.path)
            finally:
                os.close(folder)
        except OSError as error:
            raise cannot_write(self.uri, error) from error

    def size(self) -> int:
        if not self.path.is_file():
            raise Missing
        return self.path.stat().st_size

    def sizes(self) -> dict[str, int]:
        found = ((path, path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file())
        shown = ((path, name) for path, name in found if not any(part.startswith(".") for part in name.parts))
        return {name.as_posix(): path.stat().st_size for path, name in shown}

    def is_folder(self) -> bool:
        return self.path.is_dir()
