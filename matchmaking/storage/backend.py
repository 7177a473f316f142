"""What each backend offers (`Store`), and the three ways in which it fails: missing, lost, worth another try.

The SDKs are used directly: neither cloudpathlib nor fsspec offers a conditional write, on which both "of two promotions
one wins" and "never overwritten" rest; cloudpathlib copies through a cache of its own, and fsspec's s3fs pins a
botocore. Each is imported only when a URI needs it, and its own retries are off: those of `operations` are the same for
all.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.redact import redact

CHUNK = 1 << 20
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class StorageError(MlopsError):
    """A store can't be reached, or didn't do what it was asked."""


class ConflictError(MlopsError):
    """Somebody else has written what was to be replaced."""

    exit_code = 3


class Missing(Exception):
    """There is no such object."""


class Lost(Exception):
    """The condition of a write doesn't hold."""


class Outage(Exception):
    """Trying again may help."""


class Until(io.BufferedIOBase):
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
            raise Outage("it took too long")


class Store:
    """One object somewhere, or the folder of that name; what it can't do, it can't do at all."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        # set when nobody waits for this request any more
        self.over = threading.Event()

    def fetch(self, file: io.BufferedIOBase) -> str:
        """Writes the object's content into a file; gives its token, empty where that is the content's sha256."""
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

    def end(self, count: int) -> bytes:
        """The object's last bytes, so many of them, or all."""
        self._cannot()

    def sizes(self, start: str = "") -> dict[str, int]:
        """What is in the folder, and how many bytes each has; of names that begin so."""
        self._cannot()

    def is_folder(self) -> bool:
        """Whether there is such a folder."""
        return False

    def remove(self) -> None:
        """Removes the object."""
        self._cannot()

    def _cannot(self) -> NoReturn:
        raise InputError(f"{redact(self.uri)}: only single files can be read here; use a local path, s3:// or gs://")


class Bucket(Store):
    """What s3:// and gs:// share."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.bucket, _, self.key = uri.partition("://")[2].partition("/")
        if not self.bucket or re.search(r"[@:]", self.bucket):
            raise InputError(f"{redact(uri)}: write it as {scheme_of(uri)}://bucket/path, without credentials")
        self.prefix = f"{self.key.rstrip('/')}/" if self.key else ""

    def is_folder(self) -> bool:
        return bool(self.sizes()) or not self.key

    def _no_bucket(self) -> InputError:
        return InputError(f"{redact(self.uri)}: there is no bucket {self.bucket}")

    def _check_key(self) -> None:
        # some stores have an empty object behind the name of a folder
        if self.key == self.prefix:
            raise Missing


def scheme_of(uri: str) -> str:
    """What stands before ://; empty for a local file."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator and scheme != "file" else ""


def refused(uri: str, status: int, reason: str) -> NoReturn:
    """Says what an HTTP status means here."""
    if status in (404, 410):
        raise Missing
    if status == 412:
        raise Lost
    if status in _AGAIN:
        raise Outage(f"{status} {reason}")
    if status in (401, 403):
        raise InputError(
            f"{redact(uri)}: access denied ({redact(reason)}); check the credentials and what they allow"
        ) from None
    raise StorageError(f"{redact(uri)}: {status} {redact(reason)}") from None


@contextmanager
def http_errors(uri: str) -> Iterator[None]:
    """Tells the failures of the `requests` library."""
    import requests

    try:
        yield
    except ValueError as error:
        raise InputError(f"{redact(uri)}: {redact(str(error))}") from None
    except requests.RequestException as error:
        # the innermost reason; the outer ones are objects' addresses and the URL once more
        reason = getattr(error.args[0], "reason", error) if error.args else error
        raise Outage(str(reason).rpartition(" object at ")[2].partition(">: ")[2] or str(reason)) from None
