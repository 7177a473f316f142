"""gs://, through google-cloud-storage."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matchmaking.base.errors import InputError
from matchmaking.base.redact import redact
from matchmaking.storage import limits
from matchmaking.storage.backend import (
    Bucket,
    Missing,
    Outage,
    Until,
    http_errors,
    refused,
)


class GS(Bucket):
    """Google Cloud Storage with the application default credentials, or the emulator at STORAGE_EMULATOR_HOST."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        with self._errors():
            from google.cloud.storage import Client

            # reading and writing objects needs no project
            self.blobs = Client(project=None).bucket(self.bucket)
        self.blob = self.blobs.blob(self.key)
        self.options: dict[str, Any] = {"timeout": (limits.CONNECT_SECONDS, limits.READ_SECONDS), "retry": None}

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
                    Until(file, self.over), size=size, if_generation_match=condition, checksum="crc32c", **self.options
                )
        except Missing:
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
            raise Missing
        return int(found.size)

    def end(self, count: int) -> bytes:
        self._check_key()
        with self._errors():
            return bytes(self.blob.download_as_bytes(start=-count, raw_download=True, checksum=None, **self.options))

    def sizes(self, start: str = "") -> dict[str, int]:
        try:
            with self._errors():
                blobs = list(self.blobs.list_blobs(prefix=self.prefix + start, **self.options))
        except Missing:
            raise self._no_bucket() from None
        return {found.name.removeprefix(self.prefix): int(found.size or 0) for found in blobs}

    def remove(self) -> None:
        with self._errors():
            self.blob.delete(**self.options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.cloud.storage.exceptions import DataCorruption

        try:
            with http_errors(self.uri):
                yield
        except GoogleAPICallError as error:
            # its text repeats the request and its URL
            reason = error.errors[0].get("message") if error.errors else None
            refused(self.uri, error.code or 0, reason or type(error).__name__)
        except (TransportError, DataCorruption) as error:
            raise Outage(str(error)) from None
        except GoogleAuthError as error:
            raise InputError(f"{redact(self.uri)}: {redact(str(error))}") from None
