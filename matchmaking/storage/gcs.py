"""Every URI the project reads or writes: local paths, file://, s3://, gs://, and https:// for reading.

The SDKs are used directly: neither cloudpathlib nor fsspec offers a conditional write, on which both "of two promotions
one wins" and "never overwritten" rest; cloudpathlib copies through a cache of its own, and fsspec's s3fs pins a
botocore. Each is imported only when a URI needs it, and its own retries are off: the ones here are the same for all.

A request is made again while the store is away, with back-off, up to TRIES times, and nothing takes longer than
TOTAL_SECONDS. An object store has no rename of a folder, so there `manifest.json`, uploaded last, makes a published
folder: one without it is an unfinished upload, which readers treat as absent. No object is ever written without a
condition on what it replaces.
"""

from __future__ import annotations

import base64
import hashlib
import io
import ipaddress
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from matchmaking.errors import InputError, MlopsError, cannot_write
from matchmaking.redact import redact

if TYPE_CHECKING:
    import requests

MANIFEST = "manifest.json"

# the waits before seven tries add up to 51 s, about as long as a server takes to be started again
TRIES = 7
FIRST_WAIT = 1.0
LONGEST_WAIT = 20.0
CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
TOTAL_SECONDS = 900.0

_CHUNK = 1 << 20
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# what S3 answers with 400 or 403 and means as "again": a body that came too slowly, or not as it was sent
_AGAIN_CODES = frozenset(
    {"RequestTimeout", "RequestTimeoutException", "BadDigest", "PriorRequestNotComplete", "SlowDown"}
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 10

T = TypeVar("T")


class StorageError(MlopsError):
    """A store can't be reached, or didn't do what it was asked."""


class ConflictError(MlopsError):
    """Somebody else has written what was to be replaced."""

    exit_code = 3


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's bytes; the copy is whole or absent, and writable whatever the source is."""
    with _whole(target) as temporary:
        shutil.copyfile(source, temporary)


def download(uri: str, target: Path) -> None:
    """Brings one file here, streaming; it is whole or absent.

    Raises:
        InputError: there is no such file, or no right to read it.
        StorageError: the store can't be reached, even after retries.
    """
    try:
        _fetch(uri, target)
    except _Missing:
        if _is_folder(uri):
            raise InputError(f"{redact(uri)} is a folder; give a CSV file") from None
        raise InputError(f"{redact(uri)} doesn't exist; give the path of a CSV file") from None


def download_bundle(uri: str, names: tuple[str, ...], target: Path) -> bool:
    """Brings the named files of a folder here; False where the folder is there but holds none of them.

    On an object store a folder is there when anything is in it; a bucket may be empty.

    Raises:
        InputError: there is no such folder, or only some of the files are in it.
        StorageError: the store can't be reached, even after retries.
    """
    missing = [name for name in names if not _fetched(_join(uri, name), target / name)]
    if not missing:
        return True
    if len(missing) < len(names):
        raise InputError(
            f"{redact(uri)}: {', '.join(missing)} is missing; a production folder holds {', '.join(names)}"
        )
    if _is_folder(uri):
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
        return {name: _sha256(copy) for name, copy in copies.items() if _fetched(_join(uri, name), copy)}


def publish(folder: Path, uri: str) -> str:
    """Copies a folder to a URI, whole or not at all; gives the URI back.

    On an object store each file is created, never overwritten, and the store compares its sha256 (s3) or CRC32C (gs);
    `manifest.json` goes last. What fails before that takes back what it wrote. Files that a killed try left behind are
    used where they are the same, so that the step can be run again.

    Raises:
        InputError: something is there already, or the place cannot be written.
        StorageError: the store can't be reached, even after retries.
    """
    if _scheme(uri):
        return _publish_objects(folder, uri)
    target = local_path(uri)
    if target.exists():
        raise InputError(f"{uri} exists already; a published candidate is never overwritten")
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, temporary, copy_function=shutil.copyfile)
        # on the disk before it has its name: what is there after a power failure is whole, too
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
        temporary.rename(target)
        _sync(target.parent)
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
        except _Missing:
            return None
        return copy.read_bytes(), token


def size(uri: str) -> int:
    """How many bytes a file or object has, without reading it; asked once, as nothing depends on it but a guess.

    Raises:
        InputError: it isn't there, or may not be read.
        StorageError: it can't be reached.
    """
    try:
        return _open(uri).size()
    except _Missing:
        raise InputError(f"{redact(uri)} isn't there") from None
    except _Outage as error:
        raise StorageError(f"{redact(uri)} can't be reached: {redact(str(error))}") from None


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
    except _Lost:
        now = "exists already" if expected_token is None else "has changed since it was read"
        raise ConflictError(f"{redact(uri)} {now}; nothing was written") from None


def list_names(uri: str) -> list[str]:
    """The names of all files under a folder, relative to it and sorted; none where there is no such folder.

    Hidden files on a local disk are left out: unfinished copies are among them.

    Raises:
        InputError: no right to list, or a place that can't be listed.
        StorageError: the store can't be reached, even after retries.
    """
    return sorted(_patiently(uri, "listed", lambda store: store.names()))


def delete(uri: str) -> None:
    """Deletes a file of a bucket, or a folder with all that is in it; one that isn't there is fine.

    Raises:
        InputError: no right to.
        StorageError: the store can't be reached, even after retries.
    """
    for name in list_names(uri):
        _patiently(_join(uri, name), "deleted", lambda store: store.remove())
    with suppress(_Missing):
        _patiently(uri, "deleted", lambda store: store.remove())


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
    if _scheme(uri):
        raise InputError(f"{redact(uri)}: only a local path can be used here")
    return Path(uri)


class _Missing(Exception):
    """There is no such object."""


class _Lost(Exception):
    """The condition of a write doesn't hold."""


class _Outage(Exception):
    """Trying again may help."""


class _Until(io.BufferedIOBase):
    """A file that can be read and written until it is over."""

    def __init__(self, file: io.BufferedIOBase, over: threading.Event) -> None:
        self.file, self.over = file, over

    def read(self, size: int | None = -1, /) -> bytes:
        self._must_go_on()
        return self.file.read(size)

    def write(self, data: Any, /) -> int:
        self._must_go_on()
        return self.file.write(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return self.file.readable()

    def writable(self) -> bool:
        return self.file.writable()

    def seekable(self) -> bool:
        return True

    def _must_go_on(self) -> None:
        if self.over.is_set():
            raise _Outage("it took too long")


class _Store:
    """One object somewhere, or the folder of that name; what it can't do, it can't do at all."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        # set when nobody waits for this request any more
        self.over = threading.Event()

    def fetch(self, file: io.BufferedIOBase) -> str:
        """Writes the object's content into a file; gives its token."""
        self._cannot()

    def write(self, file: io.BufferedIOBase, expected: str | None, writer: str) -> str:
        """Writes the object if its token is the expected one (None: if there is none); gives its token."""
        self._cannot()

    def stat(self) -> tuple[str, str] | None:
        """The object's token and who wrote it; None where there is none."""
        self._cannot()

    def size(self) -> int:
        """The object's bytes."""
        self._cannot()

    def names(self) -> list[str]:
        """What is in the folder."""
        self._cannot()

    def is_folder(self) -> bool:
        """Whether there is such a folder."""
        return False

    def remove(self) -> None:
        """Removes the object."""
        self._cannot()

    def _cannot(self) -> NoReturn:
        raise InputError(f"{redact(self.uri)}: only single files can be read here; use a local path, s3:// or gs://")


class _Local(_Store):
    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.path = local_path(uri)

    def fetch(self, file: io.BufferedIOBase) -> str:
        if not self.path.is_file():
            raise _Missing
        try:
            source = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.uri} can't be read: {error.strerror}") from error
        with source:
            shutil.copyfileobj(source, file, _CHUNK)
            source.seek(0)
            return _digest(source).hexdigest()

    def write(self, file: io.BufferedIOBase, expected: str | None, writer: str) -> str:
        import fcntl

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                if (_sha256(self.path) if self.path.exists() else None) != expected:
                    raise _Lost
                with _whole(self.path) as temporary, temporary.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
                    copy.flush()
                    os.fsync(copy.fileno())
                os.fsync(folder)
                return _sha256(self.path)
            finally:
                os.close(folder)
        except OSError as error:
            raise cannot_write(self.uri, error) from error

    def size(self) -> int:
        if not self.path.is_file():
            raise _Missing
        return self.path.stat().st_size

    def names(self) -> list[str]:
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]

    def is_folder(self) -> bool:
        return self.path.is_dir()


class _Web(_Store):
    def fetch(self, file: io.BufferedIOBase) -> str:
        import requests

        # a body that is compressed on its way would not be the file, whose md5 is the dataset's version
        headers = {"Accept-Encoding": "identity"}
        with _http_errors(self.uri), requests.Session() as session, self._answer(session, headers) as answer:
            if not answer.ok:
                _refused(self.uri, answer.status_code, answer.reason)
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise InputError(f"{redact(self.uri)} gives a web page, not a file")
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
            return str(answer.headers.get("ETag", ""))

    def size(self) -> int:
        import requests

        # of a GET, whose body isn't read: not every server answers a HEAD
        headers = {"Accept-Encoding": "identity"}
        with _http_errors(self.uri), requests.Session() as session, self._answer(session, headers) as answer:
            if not answer.ok:
                _refused(self.uri, answer.status_code, answer.reason)
            length = answer.headers.get("Content-Length", "")
        if not length.isdigit():
            raise StorageError(f"{redact(self.uri)}: its server doesn't tell how large it is")
        return int(length)

    def _answer(self, session: requests.Session, headers: dict[str, str]) -> requests.Response:
        """What the URI leads to. Its host is the user's choice; an address that it sends us to must be a public one.

        A server that is asked for a dataset could otherwise make a pod read its cloud's credentials, or a neighbour.
        """
        from requests.adapters import HTTPAdapter

        own = urlsplit(self.uri).hostname
        uri = self.uri
        for _ in range(MOST_REDIRECTS + 1):
            timeout = (CONNECT_SECONDS, READ_SECONDS)
            answer = session.get(uri, stream=True, timeout=timeout, headers=headers, allow_redirects=False)
            target = session.get_redirect_target(answer) if answer.status_code in _REDIRECTS else None
            if not target:
                return answer
            answer.close()
            uri = urljoin(uri, target)
            place = urlsplit(uri)
            if place.scheme not in ("http", "https") or not place.hostname:
                raise InputError(f"{redact(self.uri)} leads to {redact(uri)}, which is no web address")
            adapter = HTTPAdapter() if place.hostname == own else _public_adapter()
            for scheme in ("http://", "https://"):
                session.mount(scheme, adapter)
            if place.hostname != own:
                _must_be_public(place.hostname, self.uri)
        raise InputError(f"{redact(self.uri)} leads from one address to the next, more than {MOST_REDIRECTS} times")


class _Bucket(_Store):
    """What s3:// and gs:// share."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.bucket, _, self.key = uri.partition("://")[2].partition("/")
        if not self.bucket or re.search(r"[@:]", self.bucket):
            raise InputError(f"{redact(uri)}: write it as {_scheme(uri)}://bucket/path, without credentials")
        self.prefix = f"{self.key.rstrip('/')}/" if self.key else ""

    def is_folder(self) -> bool:
        return bool(self.names()) or not self.key

    def _no_bucket(self) -> InputError:
        return InputError(f"{redact(self.uri)}: there is no bucket {self.bucket}")

    def _check_key(self) -> None:
        # some stores have an empty object behind the name of a folder
        if self.key == self.prefix:
            raise _Missing


class _S3(_Bucket):
    """Any S3: the endpoint, the credentials and the region are found as boto3 finds them."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
        with self._errors():
            self.client = _s3_client(settings, CONNECT_SECONDS, READ_SECONDS)

    def fetch(self, file: io.BufferedIOBase) -> str:
        self._check_key()
        with self._errors():
            # as it is read, the body is compared with its length and, where the store knows one, its checksum
            found = self.client.get_object(Bucket=self.bucket, Key=self.key)
            for chunk in found["Body"].iter_chunks(_CHUNK):
                file.write(chunk)
            return str(found["ETag"])

    def write(self, file: io.BufferedIOBase, expected: str | None, writer: str) -> str:
        sha256 = base64.b64encode(_digest(file, "sha256").digest()).decode()
        md5 = _digest(file, "md5").hexdigest()
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        try:
            with self._errors():
                # one request, so that the object is there whole or not at all; the store compares the sha256
                answer = self.client.put_object(
                    Bucket=self.bucket,
                    Key=self.key,
                    Body=_Until(file, self.over),
                    ChecksumSHA256=sha256,
                    Metadata={"writer": writer},
                    **condition,
                )
        except _Missing:
            # AWS's answer to If-Match where there is no object any more
            raise _Lost from None
        # a store that doesn't know sha256 has the md5 as the ETag of an object that came in one request
        if answer.get("ChecksumSHA256") != sha256 and answer["ETag"].strip('"') != md5:
            raise StorageError(f"{redact(self.uri)}: the store has not confirmed what it was sent")
        return str(answer["ETag"])

    def stat(self) -> tuple[str, str] | None:
        try:
            with self._errors():
                found = self.client.head_object(Bucket=self.bucket, Key=self.key)
        except _Missing:
            return None
        return str(found["ETag"]), found["Metadata"].get("writer", "")

    def size(self) -> int:
        self._check_key()
        with self._errors():
            return int(self.client.head_object(Bucket=self.bucket, Key=self.key)["ContentLength"])

    def names(self) -> list[str]:
        with self._errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return [key.removeprefix(self.prefix) for key in keys]

    def remove(self) -> None:
        with self._errors():
            self.client.delete_object(Bucket=self.bucket, Key=self.key)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore import exceptions as boto

        try:
            yield
        except boto.ClientError as error:
            found = error.response["Error"]
            if found["Code"] == "NoSuchBucket":
                raise self._no_bucket() from None
            if found["Code"] in _AGAIN_CODES:
                raise _Outage(f"{found['Code']}: {found['Message']}") from None
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            _refused(self.uri, status, f"{found['Code']}: {found['Message']}")
        except (
            boto.ConnectionError,
            boto.HTTPClientError,
            boto.IncompleteReadError,
            boto.FlexibleChecksumError,
        ) as error:
            raise _Outage(str(error)) from None
        except (boto.BotoCoreError, ValueError) as error:
            raise InputError(f"{redact(self.uri)}: {redact(str(error))}") from None


@lru_cache(maxsize=2)
def _s3_client(settings: frozenset[tuple[str, str]], connect: float, read: float) -> Any:
    """The boto3 client for these environment variables; making one takes longer than most requests."""
    from boto3.session import Session
    from botocore.config import Config

    config = Config(connect_timeout=connect, read_timeout=read, retries={"total_max_attempts": 1})
    return Session().client("s3", config=config)


class _GS(_Bucket):
    """Google Cloud Storage with the application default credentials, or the emulator at STORAGE_EMULATOR_HOST."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        with self._errors():
            from google.cloud.storage import Client

            # reading and writing objects needs no project
            self.blobs = Client(project=None).bucket(self.bucket)
        self.blob = self.blobs.blob(self.key)
        self.options: dict[str, Any] = {"timeout": (CONNECT_SECONDS, READ_SECONDS), "retry": None}

    def fetch(self, file: io.BufferedIOBase) -> str:
        self._check_key()
        with self._errors():
            # the bytes as they are stored; the SDK compares their checksum
            self.blob.download_to_file(file, raw_download=True, **self.options)
        return str(self.blob.generation)

    def write(self, file: io.BufferedIOBase, expected: str | None, writer: str) -> str:
        self.blob.metadata = {"writer": writer}
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        # generation 0 is that of an object that isn't there
        condition = int(expected or 0)
        try:
            with self._errors():
                self.blob.upload_from_file(
                    _Until(file, self.over), size=size, if_generation_match=condition, checksum="crc32c", **self.options
                )
        except _Missing:
            raise self._no_bucket() from None
        return str(self.blob.generation)

    def stat(self) -> tuple[str, str] | None:
        with self._errors():
            found = self.blobs.get_blob(self.key, **self.options)
        return (str(found.generation), (found.metadata or {}).get("writer", "")) if found else None

    def size(self) -> int:
        self._check_key()
        with self._errors():
            found = self.blobs.get_blob(self.key, **self.options)
        if not found:
            raise _Missing
        return int(found.size)

    def names(self) -> list[str]:
        try:
            with self._errors():
                keys = [found.name for found in self.blobs.list_blobs(prefix=self.prefix, **self.options)]
        except _Missing:
            raise self._no_bucket() from None
        return [key.removeprefix(self.prefix) for key in keys]

    def remove(self) -> None:
        with self._errors():
            self.blob.delete(**self.options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.cloud.storage.exceptions import DataCorruption

        try:
            with _http_errors(self.uri):
                yield
        except GoogleAPICallError as error:
            # its text repeats the request and its URL
            reason = error.errors[0].get("message") if error.errors else None
            _refused(self.uri, error.code or 0, reason or type(error).__name__)
        except (TransportError, DataCorruption) as error:
            raise _Outage(str(error)) from None
        except GoogleAuthError as error:
            raise InputError(f"{redact(self.uri)}: {redact(str(error))}") from None


_STORES = {"": _Local, "file": _Local, "s3": _S3, "gs": _GS, "https": _Web, "http": _Web}


def _scheme(uri: str) -> str:
    """What stands before ://; empty for a local file."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator and scheme != "file" else ""


def _open(uri: str) -> _Store:
    scheme = _scheme(uri)
    if scheme not in _STORES:
        raise InputError(f"{redact(uri)}: give a local path, or a URI that begins with file, s3, gs, https or http")
    return _STORES[scheme](uri)


def _patiently(uri: str, verb: str, request: Callable[[_Store], T]) -> T:
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
        stop=stop_after_attempt(TRIES) | stop_before_delay(TOTAL_SECONDS) | stop_when_event_set(over),
        wait=wait_exponential(FIRST_WAIT, max=LONGEST_WAIT),
        sleep=sleep_using_event(over),
        retry=retry_if_exception_type(_Outage),
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
        return answer.result(TOTAL_SECONDS)
    except (_Outage, TimeoutError) as outage:
        reason = redact(" ".join(str(outage).split())) or "it is too slow"
        # what is told to have failed must not happen later, behind whoever was told
        over.set()
        spent = time.monotonic() - start
        raise StorageError(f"{redact(uri)} can't be {verb}: {reason}; gave up after {spent:.0f} s") from None


def _fetch(uri: str, target: Path) -> str:
    """Brings a file here, whole or not at all; gives its token."""

    def fetch(store: _Store) -> str:
        with temporary.open("wb") as file:
            return store.fetch(_Until(file, store.over))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _whole(target) as temporary:
            return _patiently(uri, "read", fetch)
    except OSError as error:
        raise StorageError(f"{target} can't be written: {error.strerror or error}") from error


def _fetched(uri: str, target: Path) -> bool:
    """Brings a file here; whether there is one."""
    try:
        _fetch(uri, target)
    except _Missing:
        return False
    return True


def _write(uri: str, source: Callable[[], io.BufferedIOBase], expected: str | None, writer: str) -> str:
    """Writes an object if its token is the expected one; gives the new one.

    Raises:
        _Lost: it isn't.
    """

    def write(store: _Store) -> str:
        try:
            with source() as file:
                return store.write(file, expected, writer)
        except _Lost:
            # an earlier try may have got through, and only the answer was lost
            found = store.stat() if isinstance(store, _Bucket) else None
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
    manifest = _join(uri, MANIFEST)
    if _patiently(manifest, "read", lambda store: store.stat()):
        raise exists
    writer = uuid.uuid4().hex
    try:
        for name in names:
            _create_or_find(folder / name, _join(uri, name), writer)
    except BaseException:
        with suppress(Exception):
            for name in names:
                _remove_own(_join(uri, name), writer)
        raise
    # from here on nothing is taken back: a late manifest must find its files
    try:
        _write(manifest, lambda: (folder / MANIFEST).open("rb"), None, writer)
    except _Lost:
        raise exists from None
    return uri


def _create_or_find(path: Path, uri: str, writer: str) -> None:
    try:
        _write(uri, lambda: path.open("rb"), None, writer)
    except _Lost:
        with tempfile.TemporaryDirectory() as folder:
            if _fetched(uri, copy := Path(folder, "copy")) and _sha256(copy) == _sha256(path):
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


def _is_folder(uri: str) -> bool:
    return _patiently(uri, "listed", lambda store: store.is_folder())


def _join(uri: str, name: str) -> str:
    return f"{uri.rstrip('/')}/{name}"


def _refused(uri: str, status: int, reason: str) -> NoReturn:
    """Says what an HTTP status means here."""
    if status in (404, 410):
        raise _Missing
    if status == 412:
        raise _Lost
    if status in _AGAIN:
        raise _Outage(f"{status} {reason}")
    if status in (401, 403):
        raise InputError(
            f"{redact(uri)}: access denied ({redact(reason)}); check the credentials and what they allow"
        ) from None
    raise StorageError(f"{redact(uri)}: {status} {redact(reason)}") from None


def _must_be_public(host: str, uri: str) -> None:
    """Refuses a name that stands for an address inside a network; one that can't be resolved is left to a proxy."""
    try:
        found = {str(address[4][0]) for address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return
    for address in found:
        if not _public(address):
            raise InputError(
                f"{redact(uri)} leads to {host} ({address}), an address inside a network; give that address itself if "
                "you mean it"
            )


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_global


def _public_adapter() -> Any:
    """Makes requests of public addresses only: of what was connected to, whatever a name stood for a moment before."""
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Checked(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            if not _public(address := connected.getpeername()[0]):
                connected.close()
                raise ValueError(f"it leads to {self.host} ({address}), an address inside a network")
            return connected

    class CheckedHTTPS(Checked, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Checked

    class PoolHTTPS(HTTPSConnectionPool):
        ConnectionCls = CheckedHTTPS

    adapter = HTTPAdapter()
    # not a proxy's pools, which resolve names themselves
    adapter.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": PoolHTTPS}
    return adapter


@contextmanager
def _http_errors(uri: str) -> Iterator[None]:
    """Tells the failures of the `requests` library."""
    import requests

    try:
        yield
    except ValueError as error:
        raise InputError(f"{redact(uri)}: {redact(str(error))}") from None
    except requests.RequestException as error:
        # the innermost reason; the outer ones are objects' addresses and the URL once more
        reason = getattr(error.args[0], "reason", error) if error.args else error
        raise _Outage(str(reason).rpartition(" object at ")[2].partition(">: ")[2] or str(reason)) from None


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A place to write a file that becomes the target when all went well."""
    temporary = _temporary(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(file: io.BufferedIOBase, algorithm: str = "sha256") -> hashlib._Hash:
    """The digest of a whole file, which is at its beginning before and after."""
    digest = hashlib.file_digest(file, algorithm)
    file.seek(0)
    return digest
