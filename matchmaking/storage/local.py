"""Local paths and file:// URIs."""

from __future__ import annotations

import io
import os
import shutil
import stat
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from matchmaking.base.errors import InputError, cannot_write
from matchmaking.base.escape import visible
from matchmaking.base.files import file_sha256, written_whole
from matchmaking.base.redact import redact
from matchmaking.storage.backend import CHUNK, Lost, Missing, Store, scheme_of


def local_path(uri: str) -> Path:
    """The path behind a local URI.

    Raises:
        InputError: it isn't one.
    """
    if uri.startswith("file://"):
        # a file has neither a query nor a fragment: ? and # are of its name
        host, slash, path = uri.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            raise InputError(f"{redact(uri)}: write a local file as file:///path, or as its path alone")
        return Path(unquote(slash + path, errors="surrogateescape"))
    if scheme_of(uri):
        raise InputError(f"{redact(uri)}: only a local path can be used here")
    return Path(uri)


def exists(path: Path) -> bool:
    """Whether something is there; what nobody may look at isn't."""
    try:
        return path.exists()
    except OSError:
        return False


def files_in(folder: Path, wanted: Sequence[str] | None = None) -> dict[str, int]:
    """The files in a folder and in its folders, links to either among them, and how many bytes each has.

    Args:
        folder: where to look; in one that isn't there there are none.
        wanted: patterns of the names on the way, one for each folder and the last for the file; None for any.

    Returns:
        By their names in the folder. What begins with `.` is left out, and with `_` (no reader's) if it can't be read.

    Raises:
        InputError: a folder can't be read, a link leads nowhere, or two of its folders or files are one by a link.
    """
    found: dict[str, int] = {}
    # by their real paths; what no reader takes, apart: it doesn't keep from being read what it leads to
    seen: dict[str, str] = {}
    unread: dict[str, str] = {}
    last = len(wanted) - 1 if wanted is not None else None

    def fits(name: str, depth: int) -> bool:
        return not name.startswith(".") and (wanted is None or fnmatchcase(name, wanted[depth]))

    def told(error: OSError) -> None:
        if not _aside(os.path.relpath(error.filename, folder)):
            raise error

    try:
        # `os.walk` calls a folder that isn't there an error
        for root, folders, files in os.walk(folder, followlinks=True, onerror=told) if folder.is_dir() else ():
            place = Path(root).relative_to(folder)
            depth = len(place.parts)
            aside, real = _aside(place.as_posix()), os.path.realpath(root)
            here = seen.get(real) or (unread if aside else seen).setdefault(real, root)
            if here != root:
                folders.clear()
                if aside:
                    continue
                raise _twice("folder", root, here, "its files would")
            folders[:] = sorted(name for name in folders if depth != last and fits(name, depth))
            for name in sorted(files) if last in (None, depth) else ():
                path, aside = folder / place / name, _aside((place / name).as_posix())
                if not fits(name, depth) or (size := _size(path, aside)) < 0:
                    continue
                here = str(path) if aside else seen.setdefault(os.path.realpath(path), str(path))
                if here != str(path):
                    raise _twice("file", str(path), here, "it would")
                found[(place / name).as_posix()] = size
    except OSError as error:
        raise InputError(f"{visible(error.filename or str(folder))} can't be read: {error.strerror}") from error
    return found


def _twice(kind: str, one: str, other: str, what_would: str) -> InputError:
    return InputError(
        f"{visible(one)} is the same {kind} as {visible(other)}, by a link; {what_would} count twice: "
        "take one of them out, or give a pattern"
    )


def _size(path: Path, aside: bool) -> int:
    """A file's bytes; -1 where it is none, as a socket, or can't be read and needn't be."""
    try:
        found = path.stat()
    except OSError as error:
        if aside:
            return -1
        if path.is_symlink() and not isinstance(error, PermissionError):
            raise InputError(f"{visible(str(path))} is a link that leads nowhere; take it out, or mend it") from None
        raise
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _aside(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("/"))


class Local(Store):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.path = local_path(uri)

    def fetch(self, file: io.BufferedIOBase) -> str:
        try:
            if not self.path.is_file():
                raise Missing
            source = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.uri} can't be read: {error.strerror}") from error
        with source:
            shutil.copyfileobj(source, file, CHUNK)
        return ""

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

    def end(self, count: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, io.SEEK_END) - count))
                return file.read()
        except OSError as error:
            raise InputError(f"{self.uri} can't be read: {error.strerror}") from error

    def size(self) -> int:
        try:
            if not self.path.is_file():
                raise Missing
            return self.path.stat().st_size
        except OSError as error:
            raise InputError(f"{self.uri} can't be read: {error.strerror}") from error

    def sizes(self, start: str = "") -> dict[str, int]:
        return {name: size for name, size in files_in(self.path).items() if name.startswith(start)}

    def is_folder(self) -> bool:
        try:
            return self.path.is_dir()
        except OSError as error:
            raise InputError(f"{self.uri} can't be read: {error.strerror}") from error
