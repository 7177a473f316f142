"""s3://, through boto3."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from matchmaking.base.errors import InputError
from matchmaking.base.files import digest_of
from matchmaking.base.redact import redact
from matchmaking.storage import limits
from matchmaking.storage.backend import (
    CHUNK,
    Bucket,
    Lost,
    Missing,
    Outage,
    StorageError,
    Until,
    refused,
)

# what S3 answers with 400 or 403 and means as "again": a body that came too slowly, or not as it was sent
_AGAIN_CODES = frozenset(
    {"RequestTimeout", "RequestTimeoutException", "BadDigest", "PriorRequestNotComplete", "SlowDown"}
)


class S3(Bucket):
    """Any S3: the endpoint, the credentials and the region are found as boto3 finds them."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        settings = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
        with self._errors():
            self.client = _s3_client(settings, limits.CONNECT_SECONDS, limits.READ_SECONDS)

    def fetch(self, file: io.BufferedIOBase) -> str:
        self._check_key()
        with self._errors():
            # as it is read, the body is compared with its length and, where the store knows one, its checksum
            found = self.client.get_object(Bucket=self.bucket, Key=self.key)
            for chunk in found["Body"].iter_chunks(CHUNK):
                file.write(chunk)
            return str(found["ETag"])

    def write(self, file: io.BufferedIOBase, expected: str | None, writer: str) -> str:
        sha256 = base64.b64encode(digest_of(file, "sha256").digest()).decode()
        md5 = digest_of(file, "md5").hexdigest()
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        try:
            with self._errors():
                # one request, so that the object is there whole or not at all; the store compares the sha256
                answer = self.client.put_object(
                    Bucket=self.bucket,
                    Key=self.key,
                    Body=Until(file, self.over),
                    ChecksumSHA256=sha256,
                    Metadata={"writer": writer},
                    **condition,
                )
        except Missing:
            # AWS's answer to If-Match where there is no object any more
            raise Lost from None
        # a store that doesn't know sha256 has the md5 as the ETag of an object that came in one request
        if answer.get("ChecksumSHA256") != sha256 and answer["ETag"].strip('"') != md5:
            raise StorageError(f"{redact(self.uri)}: the store has not confirmed what it was sent")
        return str(answer["ETag"])

    def stat(self) -> tuple[str, str] | None:
        try:
            with self._errors():
                found = self.client.head_object(Bucket=self.bucket, Key=self.key)
        except Missing:
            return None
        return str(found["ETag"]), found["Metadata"].get("writer", "")

    def size(self) -> int:
        self._check_key()
        with self._errors():
            return int(self.client.head_object(Bucket=self.bucket, Key=self.key)["ContentLength"])

    def end(self, count: int) -> bytes:
        self._check_key()
        with self._errors():
            return bytes(
                self.client.get_object(Bucket=self.bucket, Key=self.key, Range=f"bytes=-{count}")["Body"].read()
            )

    def sizes(self, start: str = "") -> dict[str, int]:
        with self._errors():
            prefix = self.prefix + start
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            objects = [found for page in pages for found in page.get("Contents", [])]
        return {found["Key"].removeprefix(self.prefix): int(found["Size"]) for found in objects}

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
                raise Outage(f"{found['Code']}: {found['Message']}") from None
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            refused(self.uri, status, f"{found['Code']}: {found['Message']}")
        except (
            boto.ConnectionError,
            boto.HTTPClientError,
            boto.IncompleteReadError,
            boto.FlexibleChecksumError,
        ) as error:
            raise Outage(str(error)) from None
        except (boto.BotoCoreError, ValueError) as error:
            raise InputError(f"{redact(self.uri)}: {redact(str(error))}") from None


@lru_cache(maxsize=2)
def _s3_client(settings: frozenset[tuple[str, str]], connect: float, read: float) -> Any:
    """The boto3 client for these environment variables; making one takes longer than most requests."""
    from boto3.session import Session
    from botocore.config import Config

    config = Config(connect_timeout=connect, read_timeout=read, retries={"total_max_attempts": 1})
    return Session().client("s3", config=config)
