"""Production in a folder: renames and flock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchmaking.base.errors import InputError, RefusedError, cannot_write
from matchmaking.base.files import sync, written_whole
from matchmaking.release.store.interface import LOCK, STATE, ChangedError, Stored

_TEMPORARY = ".mlops-tmp"


@dataclass(frozen=True)
class LocalStore:
    """A folder on a POSIX file system; the tag of a file is its sha256."""

    folder: Path

    @contextmanager
    def lock(self, holder: Mapping[str, Any], say: Callable[[str], None] = print) -> Iterator[None]:
        """Holds an flock: the kernel lets go of it when the process ends, however it ends."""
        path = self.folder / LOCK
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
                raise RefusedError(
                    f"another promotion or rollback of {self.folder} is under way ({found or 'it has just begun'}); "
                    "try again when it is done"
                ) from None
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            except OSError as error:
                raise cannot_write(path, error) from error
            # nobody else can be writing: what is left of a write that was cut off belongs to a dead process
            for left in (*self.folder.glob(f".*{_TEMPORARY}"), *(self.folder / STATE).rglob(f".*{_TEMPORARY}")):
                left.unlink()
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def read(self, name: str) -> Stored | None:
        try:
            data = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        return Stored(data, hashlib.sha256(data).hexdigest())

    def check(self, names: Iterable[str]) -> None:
        for path in (self.folder / name for name in names):
            if path.is_symlink():
                raise InputError(f"{path} is a symbolic link; promotion replaces plain files only")

    def replace(self, name: str, data: bytes, tag: str | None) -> None:
        path = self.folder / name
        self.check([name])
        found = self.read(name)
        if (found.tag if found else None) != tag:
            raise ChangedError(f"{path} has been changed by somebody else; it was left as it is")
        self._write(path, data, path.stat() if found else None)

    def put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        for folder in reversed(path.relative_to(self.folder).parents[:-1]):
            try:
                (self.folder / folder).mkdir(exist_ok=True)
            except OSError as error:
                raise cannot_write(self.folder / folder, error) from error
            sync((self.folder / folder).parent)
        self._write(path, data, None)

    def append(self, name: str, line: str) -> None:
        try:
            with (self.folder / name).open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    # a line that was cut off stays on its own
                    line = line if file.read(1) == b"\n" else f"\n{line}"
                file.write(f"{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.folder / name, error) from error
        sync((self.folder / name).parent)

    def delete(self, name: str) -> None:
        path = self.folder / name
        if path.is_dir():
            for entry in path.iterdir():
                self.delete(f"{name}/{entry.name}")
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        if path.parent.exists():
            sync(path.parent)

    def _write(self, path: Path, data: bytes, like: os.stat_result | None) -> None:
        """Writes beside the file and renames over it: a reader opens the old file or the new one, never a mix."""
        # under the lock there is one writer, and what a killed one left is written over
        temporary = path.with_name(f".{path.name}{_TEMPORARY}")
        try:
            with written_whole(path, durable=True, temporary=temporary), temporary.open("wb") as file:
                if like is not None:
                    _keep_owner(file.fileno(), like, path)
                    os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
                file.write(data)
        except OSError as error:
            raise cannot_write(path, error) from error


def _keep_owner(descriptor: int, like: os.stat_result, path: Path) -> None:
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) == (like.st_uid, like.st_gid):
        return
    try:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    except PermissionError:
        if not like.st_mode & stat.S_IROTH:
            raise InputError(
                f"{path} belongs to another user, who could not read a file of yours in its place; promote as that user"
            ) from None
