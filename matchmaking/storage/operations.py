"""What can be done at any URI: local paths, file://, s3://, gs://, and https:// for reading.

A request is made again while the store is away, with back-off, as `limits` says. An object store has no rename of a
folder, so there `manifest.json`, uploaded last, makes a published
folder: one without it is an unfinished upload, which readers treat as absent. No object is ever written without a
condition on what it replaces.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from matchmaking.base.errors import InputError, MlopsError, cannot_write
from matchmaking.base.escape import visible
from matchmaking.base.files import file_sha256, sync, temporary_beside, written_whole
from matchmaking.base.redact import redact
from matchmaking.storage import limits
from matchmaking.storage.backend import (
    Bucket,
    ConflictError,
    Lost,
    Missing,
    Outage,
    StorageError,
    Store,
    Until,
    scheme_of,
)
from matchmaking.storage.gcs import GS
from matchmaking.storage.local import Local, local_path
from matchmaking.storage.s3 import S3
from matchmaking.storage.web import Web

MANIFEST = "manifest.json"


T = TypeVar("T")


def download(uri: str, target: Path) -> None:
    """Brings one file here, streaming; it is whole or absent.

    Raises:
        InputError: there is no such file, or no right to read it.
        StorageError: the store can't be reached, even after retries.
    """
    try:
        _fetch(uri, target)
    except Missing:
        if is_folder(uri):
            raise InputError(f"{redact(uri)} is a folder; give a file") from None
        raise InputError(f"{redact(uri)} doesn't exist; give the path of a file") from None


def download_if_there(uri: str, target: Path) -> bool:
    """`download`; False where there is no such file."""
    try:
        _fetch(uri, target)
    except Missing:
        return False
    return True


def download_folder(uri: str, names: Iterable[str], target: Path) -> None:
    """Brings these files of a folder here, as `list_sizes` names them; each is whole or absent.

    Raises:
        InputError: one of them isn't there (any more), may not be read, or would be written outside of the folder, or
            two are the same file on this disk.
        StorageError: the store can't be reached, even after retries.
    """
    names = list(names)
    for name in names:
        place = target / name
        if not place.resolve().is_relative_to(target.resolve()):
            raise InputError(f"{redact(uri)}: the part '{visible(name)}' leads out of the folder; rename it")
        download(join(uri, name), place)
    check_apart(uri, names, target)


def check_apart(uri: str, names: Iterable[str], target: Path) -> None:
    """Refuses, with an InputError, files of a folder brought here of which two are one on this disk."""
    # a//b is a/b on a disk, and on some A is a
    by_file: dict[tuple[int, int], str] = {}
    for name in names:
        found = (target / name).stat()
        other = by_file.setdefault((found.st_dev, found.st_ino), name)
        if other != name:
            raise InputError(
                f"{redact(uri)}: '{visible(other)}' and '{visible(name)}' are the same file on a disk; rename one"
            )


def publish(folder: Path, uri: str) -> str:
    """Copies a folder to a URI, whole or not at all; gives the URI back.

    On an object store each file is created, never overwritten, and the store compares its sha256 (s3) or CRC32C (gs);
    `manifest.json` goes last. What fails before that takes back what it wrote. Files that a killed try left behind are
    used where they are the same, so that the step can be run again.

    Raises:
        InputError: something is there already, or the place cannot be written.
        StorageError: the store can't be reached, even after retries.
    """
    if scheme_of(uri):
        return _publish_objects(folder, uri)
    target = local_path(uri)
    if target.exists():
        raise InputError(f"{uri} exists already; a published candidate is never overwritten")
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, temporary, copy_function=shutil.copyfile)
        # on the disk before it has its name: what is there after a power failure is whole, too
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        temporary.rename(target)
        sync(target.parent)
    except shutil.Error as error:
        raise MlopsError(f"{uri} can't be written: {error.args[0][0][2]}") from error
    except OSError as error:
        raise cannot_write(uri, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return uri


def read_bytes(uri: str) -> tuple[bytes, str] | None:
    """A small file's content, and the token that `replace_bytes` takes for it; None where there is no such file.

    Raises:
        InputError: no right to read it.
        StorageError: the store can't be reached, even after retries.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        try:
            token = _fetch(uri, copy)
        except Missing:
            return None
        # of a dataset nobody wants it, and it takes as long as copying
        return copy.read_bytes(), token or file_sha256(copy)


def size(uri: str) -> int:
    """How many bytes a file or object has, without reading it; asked once, as nothing depends on it but a guess.

    Raises:
        InputError: it isn't there, or may not be read.
        StorageError: it can't be reached.
    """
    return _once(uri, lambda store: store.size())


def read_end(uri: str, count: int) -> bytes:
    """The last bytes of a file or object, so many of them, or all; asked once, errors as of `size`."""
    return _once(uri, lambda store: store.end(count))


def replace_bytes(uri: str, data: bytes, expected_token: str | None) -> str:
    """Writes a small file if it still is what was read: of all writers that hold the same token, one wins.

    Args:
        uri: the file. s3:// is written with If-Match, gs:// with if_generation_match, a local file under a lock
            (flock) on its folder, which only this function heeds.
        data: the new content.
        expected_token: what `read_bytes` gave; None creates the file. On s3 and locally it stands for the content:
            a file that was changed and changed back is what it was.

    Returns:
        The token of the new content.

    Raises:
        ConflictError: the file is another one by now, or (None) there is one already.
        InputError: the place cannot be written.
        StorageError: the store can't be reached, even after retries; then it is open whether the file was written.
    """
    try:
        return _write(uri, lambda: io.BytesIO(data), expected_token, uuid.uuid4().hex)
    except Lost:
        now = "exists already" if expected_token is None else "has changed since it was read"
        raise ConflictError(f"{redact(uri)} {now}; nothing was written") from None


def list_names(uri: str) -> list[str]:
    """The names of all files under a folder, relative to it and sorted; none where there is no such folder.

    Hidden files on a local disk are left out: unfinished copies are among them.

    Raises:
        InputError: no right to list, or a place that can't be listed.
        StorageError: the store can't be reached, even after retries.
    """
    return [*list_sizes(uri)]


def list_sizes(uri: str, start: str = "", *, once: bool = False) -> dict[str, int]:
    """The names of `list_names`, and how many bytes each file has; errors as there.

    Args:
        uri: the folder.
        start: of the names; others aren't asked for.
        once: whether not to wait for a store that is away, as nothing depends on it but a guess.
    """

    def sizes(store: Store) -> dict[str, int]:
        return store.sizes(start)

    return dict(sorted((_once(uri, sizes) if once else _patiently(uri, "listed", sizes)).items()))


def is_folder(uri: str) -> bool:
    """Whether there is such a folder: in a bucket, whether anything is in it."""
    return _patiently(uri, "listed", lambda store: store.is_folder())


def delete(uri: str) -> None:
    """Deletes a file of a bucket, or a folder with all that is in it; one that isn't there is fine.

    Raises:
        InputError: no right to.
        StorageError: the store can't be reached, even after retries.
    """
    for name in list_names(uri):
        _patiently(join(uri, name), "deleted", lambda store: store.remove())
    with suppress(Missing):
        _patiently(uri, "deleted", lambda store: store.remove())


_STORES = {"": Local, "file": Local, "s3": S3, "gs": GS, "https": Web, "http": Web}


def _open(uri: str) -> Store:
    scheme = scheme_of(uri)
    if scheme not in _STORES:
        raise InputError(f"{redact(uri)}: give a local path, or a URI that begins with file, s3, gs, https or http")
    return _STORES[scheme](uri)


def _once(uri: str, request: Callable[[Store], T]) -> T:
    """Makes a request of a store, and no other one if that is away."""
    try:
        return request(_open(uri))
    except Missing:
        raise InputError(f"{redact(uri)} isn't there") from None
    except Outage as error:
        raise StorageError(f"{redact(uri)} can't be reached: {redact(str(error))}") from None


def _patiently(uri: str, verb: str, request: Callable[[Store], T]) -> T:
    """Makes a request of a store, again while that is away, in bounded time.

    It runs in a thread of its own, because no SDK bounds a whole transfer: its time-outs are those of one packet.
    """
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        sleep_using_event,
        stop_after_attempt,
        stop_before_delay,
        stop_when_event_set,
        wait_exponential,
    )

    over = threading.Event()
    retrying = Retrying(
        stop=stop_after_attempt(limits.TRIES) | stop_before_delay(limits.TOTAL_SECONDS) | stop_when_event_set(over),
        wait=wait_exponential(limits.FIRST_WAIT, max=limits.LONGEST_WAIT),
        sleep=sleep_using_event(over),
        retry=retry_if_exception_type(Outage),
        reraise=True,
    )
    answer: Future[T] = Future()

    def attempt() -> T:
        store = _open(uri)
        store.over = over
        return request(store)

    def run() -> None:
        try:
            answer.set_result(retrying(attempt))
        except BaseException as error:
            answer.set_exception(error)

    start = time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(limits.TOTAL_SECONDS)
    except (Outage, TimeoutError) as outage:
        reason = redact(" ".join(str(outage).split())) or "it is too slow"
        # what is told to have failed must not happen later, behind whoever was told
        over.set()
        spent = time.monotonic() - start
        raise StorageError(f"{redact(uri)} can't be {verb}: {reason}; gave up after {spent:.0f} s") from None


def _fetch(uri: str, target: Path) -> str:
    """Brings a file here, whole or not at all; gives its token, as `Store.fetch` does."""

    def fetch(store: Store) -> str:
        with temporary.open("wb") as file:
            return store.fetch(Until(file, store.over))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as temporary:
            return _patiently(uri, "read", fetch)
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error.strerror or error}") from error


def _write(uri: str, source: Callable[[], io.BufferedIOBase], expected: str | None, writer: str) -> str:
    """Writes an object if its token is the expected one; gives the new one.

    Raises:
        _Lost: it isn't.
    """

    def write(store: Store) -> str:
        try:
            with source() as file:
                return store.write(file, expected, writer)
        except Lost:
            # an earlier try may have got through, and only the answer was lost
            found = store.stat() if isinstance(store, Bucket) else None
            if found and found[1] == writer:
                return found[0]
            raise

    return _patiently(uri, "written", write)


def _publish_objects(folder: Path, uri: str) -> str:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if MANIFEST not in names:
        raise InputError(f"{folder} holds no {MANIFEST}; without it nothing can be published")
    names.remove(MANIFEST)
    exists = InputError(f"{redact(uri)} exists already; a published candidate is never overwritten")
    manifest = join(uri, MANIFEST)
    if _patiently(manifest, "read", lambda store: store.stat()):
        raise exists
    writer = uuid.uuid4().hex
    try:
        for name in names:
            _create_or_find(folder / name, join(uri, name), writer)
    except BaseException:
        with suppress(Exception):
            for name in names:
                _remove_own(join(uri, name), writer)
        raise
    # from here on nothing is taken back: a late manifest must find its files
    try:
        _write(manifest, lambda: (folder / MANIFEST).open("rb"), None, writer)
    except Lost:
        raise exists from None
    return uri


def _create_or_find(path: Path, uri: str, writer: str) -> None:
    try:
        _write(uri, lambda: path.open("rb"), None, writer)
    except Lost:
        with tempfile.TemporaryDirectory() as folder:
            if download_if_there(uri, copy := Path(folder, "copy")) and file_sha256(copy) == file_sha256(path):
                return
        raise InputError(
            f"{redact(uri)} is there already, from another upload that isn't finished; remove it, or publish elsewhere"
        ) from None


def _remove_own(uri: str, writer: str) -> None:
    """Removes an object that this writer wrote; one try, as the store may be away."""
    store = _open(uri)
    found = store.stat()
    if found and found[1] == writer:
        store.remove()


def join(uri: str, name: str) -> str:
    """The URI of a file, by its name in a folder."""
    if uri.startswith("file://"):
        name = quote(name, errors="surrogateescape")
    return f"{uri.rstrip('/')}/{name}"
