"""Production in a bucket (s3:// or gs://) as the promotion sees it: conditional writes instead of renames and flock."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matchmaking import storage
from matchmaking.base.errors import InputError, MlopsError, RefusedError
from matchmaking.base.redact import redact
from matchmaking.release.store.interface import LOCK, ChangedError, Stored

# A lock in a bucket outlives its process, so its holder renews it, and one that stays the same for this long may be
# taken over. No clock of another machine is asked: whoever wants the lock watches it for that time by its own. Should
# the holder be alive after all, each of its writes is conditional on what it has read, so only one of the two can win.
LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0
# somebody else appending at the same time is rare, and gone at the next try
APPEND_TRIES = 10
# an ETag, and a generation, that no object has
NO_TAG = {"s3": '"00000000000000000000000000000000"', "gs": "1"}


@dataclass(frozen=True)
class BucketStore:
    """A folder in a bucket; the tag of a file is its ETag (s3) or generation (gs)."""

    uri: str
    # of the lock that this process has lost to another one
    _lost: threading.Event = field(default_factory=threading.Event, init=False, repr=False, compare=False)

    @contextmanager
    def lock(self, holder: Mapping[str, Any], say: Callable[[str], None] = print) -> Iterator[None]:
        """Holds an object that only one can create, and renews it; nothing is written once it is lost."""
        found = self._abandoned(say)
        content = {**holder, "host": _machine(), "renewed": 0}
        try:
            token = storage.replace_bytes(self._at(LOCK), json.dumps(content).encode(), found.tag if found else None)
        except storage.ConflictError:
            now = self.read(LOCK)
            raise self._busy(now.data if now else b"it has just begun") from None
        over = threading.Event()
        tokens = [token]
        self._lost.clear()
        renewing = threading.Thread(target=self._renew, args=(content, tokens, over), daemon=True)
        try:
            self._probe(token)
            renewing.start()
            yield
        finally:
            over.set()
            if renewing.ident:
                renewing.join()
            now = self.read(LOCK)
            if now is not None and now.tag == tokens[-1]:
                storage.delete(self._at(LOCK))
            self._lost.clear()

    def check(self, names: Iterable[str]) -> None:
        """Every object can be replaced."""

    def read(self, name: str) -> Stored | None:
        found = storage.read_bytes(self._at(name))
        return Stored(*found) if found else None

    def replace(self, name: str, data: bytes, tag: str | None) -> None:
        self._must_hold()
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
            data = found.data if found else b""
            # a line that somebody else left unfinished stays on its own
            data += b"" if not data or data.endswith(b"\n") else b"\n"
            try:
                self.replace(name, data + f"{line}\n".encode(), found.tag if found else None)
                return
            except ChangedError:
                if attempt == APPEND_TRIES or self._lost.is_set():
                    raise

    def delete(self, name: str) -> None:
        self._must_hold()
        storage.delete(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"

    def _must_hold(self) -> None:
        if self._lost.is_set():
            raise ChangedError(
                f"another promotion or rollback of {redact(self.uri)} took the lock over, as it was not renewed for "
                f"{LEASE_SECONDS:.0f} s; this one has stopped"
            )

    def _abandoned(self, say: Callable[[str], None]) -> Stored | None:
        """The lock of a holder that is gone: a dead process of this machine, or one that renews no more.

        Returns:
            The lock to take over; None where there is none.

        Raises:
            RefusedError: its holder is alive.
        """
        found = self.read(LOCK)
        if found is None or _dead(found.data):
            return found
        said = redact(found.data.decode(errors="replace"))
        say(f"there is a lock ({said}); looking for up to {LEASE_SECONDS:.0f} s whether it is renewed")
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until:
            time.sleep(RENEW_SECONDS / 4)
            now = self.read(LOCK)
            if now is None:
                return None
            if now.tag != found.tag:
                raise self._busy(now.data)
        return found

    def _renew(self, content: dict[str, Any], tokens: list[str], over: threading.Event) -> None:
        """Rewrites the lock until it is given back; in a thread of its own."""
        while not over.wait(RENEW_SECONDS):
            content["renewed"] += 1
            try:
                tokens.append(storage.replace_bytes(self._at(LOCK), json.dumps(content).encode(), tokens[-1]))
            except storage.ConflictError:
                self._lost.set()
                return
            except MlopsError:
                # the store is away, for whoever wants the lock as well; should it be lost by then, a write will tell
                continue

    def _probe(self, token: str) -> None:
        """Makes sure, on the lock, that the store heeds the conditions of writes, on which all of this rests.

        Raises:
            InputError: it passes over them.
        """
        for expected in (None, NO_TAG[self.uri.partition("://")[0]]):
            with suppress(storage.ConflictError):
                storage.replace_bytes(self._at(LOCK), b"{}", expected)
                storage.delete(self._at(LOCK))
                raise InputError(
                    f"the store of {redact(self.uri)} passes over the conditions of a write "
                    f"({'If-None-Match' if expected is None else 'If-Match'}): two promotions at once could both win, "
                    "so none is made there; use a store that heeds them (AWS S3, MinIO, SeaweedFS, GCS), or a folder"
                )

    def _busy(self, found: bytes) -> RefusedError:
        return RefusedError(
            f"another promotion or rollback of {redact(self.uri)} is under way "
            f"({redact(found.decode(errors='replace'))}); try again when it is done"
        )


def _machine() -> str:
    """Where a process id means something: a host name alone is shared by containers with processes of their own."""
    places = (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid"))
    known = [
        str(place.readlink()) if place.is_symlink() else place.read_text().strip() for place in places if place.exists()
    ]
    return " ".join([socket.gethostname(), *known])


def _dead(lock: bytes) -> bool:
    """Whether the holder of a lock was a process of this machine that is there no more."""
    try:
        holder = json.loads(lock)
        if holder["host"] == _machine():
            os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        # somebody else's process, or no lock of ours
        return False
    return False
