"""Production in a bucket (s3:// or gs://) as the promotion sees it: conditional writes instead of renames and flock."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchmaking import storage
from matchmaking.errors import RefusedError
from matchmaking.production_store import LOCK, ChangedError, Stored
from matchmaking.redact import redact

# A lock in a bucket outlives its process. One that is older may be taken over: a promotion takes seconds. Should its
# holder be alive after all, each of its writes is conditional on what it has read, so only one of the two can win.
LEASE_SECONDS = 3600.0
# somebody else appending at the same time is rare, and gone at the next try
APPEND_TRIES = 10


@dataclass(frozen=True)
class BucketStore:
    """A folder in a bucket; the tag of a file is its ETag (s3) or generation (gs)."""

    uri: str

    @contextmanager
    def lock(self, holder: Mapping[str, Any]) -> Iterator[None]:
        """Holds an object that only one can create."""
        mine = json.dumps({**holder, "host": _machine(), "time": time.time()}).encode()
        found = self.read(LOCK)
        if found is not None and not _abandoned(found.data):
            raise self._busy(found.data)
        try:
            token = storage.replace_bytes(self._at(LOCK), mine, found.tag if found else None)
        except storage.ConflictError:
            now = self.read(LOCK)
            raise self._busy(now.data if now else b"it has just begun") from None
        try:
            yield
        finally:
            now = self.read(LOCK)
            if now is not None and now.tag == token:
                storage.delete(self._at(LOCK))

    def read(self, name: str) -> Stored | None:
        found = storage.read_bytes(self._at(name))
        return Stored(*found) if found else None

    def replace(self, name: str, data: bytes, tag: str | None) -> None:
        try:
            storage.replace_bytes(self._at(name), data, tag)
        except storage.ConflictError as error:
            raise ChangedError(
                f"{redact(self._at(name))} has been changed by somebody else; it was left as it is"
            ) from error

    def put(self, name: str, data: bytes) -> None:
        found = self.read(name)
        self.replace(name, data, found.tag if found else None)

    def append(self, name: str, line: str) -> None:
        for attempt in range(1, APPEND_TRIES + 1):
            found = self.read(name)
            data = (found.data if found else b"") + f"{line}\n".encode()
            try:
                self.replace(name, data, found.tag if found else None)
                return
            except ChangedError:
                if attempt == APPEND_TRIES:
                    raise

    def delete(self, name: str) -> None:
        storage.delete(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"

    def _busy(self, found: bytes) -> RefusedError:
        return RefusedError(
            f"another promotion or rollback of {redact(self.uri)} is under way ({found.decode(errors='replace')}); try "
            f"again when it is done; {LEASE_SECONDS / 60:.0f} minutes after it began its lock no longer counts"
        )


def _machine() -> str:
    """Where a process id means something: a host name alone is shared by containers with processes of their own."""
    places = (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid"))
    known = [
        str(place.readlink()) if place.is_symlink() else place.read_text().strip() for place in places if place.exists()
    ]
    return " ".join([socket.gethostname(), *known])


def _abandoned(lock: bytes) -> bool:
    """Whether the holder of a lock is gone: a dead process of this machine, or one that is out of time."""
    try:
        holder = json.loads(lock)
        if time.time() - float(holder["time"]) > LEASE_SECONDS:
            return True
        if holder["host"] != _machine():
            return False
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    except (ValueError, KeyError, TypeError):
        # not one of ours, or cut off while it was written, which no store does
        return False
    return False
