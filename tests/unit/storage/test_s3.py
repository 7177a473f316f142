"""What S3 answers, and when an upload stops, on a server of a few lines; real ones are in tests/services."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable

import pytest

from matchmaking import storage
from matchmaking.storage import limits, s3


class Slow:
    """An S3 server that takes a body byte by byte, or answers with errors first."""

    def __init__(self, *answers: bytes, byte_seconds: float = 0.0) -> None:
        self.answers, self.byte_seconds = list(answers), byte_seconds
        self.taken = self.requests = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.endpoint = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            with client:
                self.requests += 1
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(65536)
                head, _, body = head.partition(b"\r\n\r\n")
                length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
                if b"100-continue" in head:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                got = len(body)
                while got < length:
                    if self.byte_seconds:
                        time.sleep(self.byte_seconds)
                    data = client.recv(4096 if self.byte_seconds else 65536)
                    if not data:
                        break
                    got += len(data)
                    self.taken = got
                if self.answers:
                    client.sendall(self.answers.pop(0))


def s3_answer(status: str, code: str = "", etag: str = "") -> bytes:
    body = f"<Error><Code>{code}</Code><Message>why</Message></Error>".encode() if code else b""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"{head}{f'ETag: {etag}' if etag else 'X: y'}\r\n\r\n".encode() + body


@pytest.mark.parametrize("code", ["RequestTimeout", "BadDigest"])
def test_what_s3_means_as_again_is_tried_again(impatient: None, s3_at: Callable[[str], None], code: str) -> None:
    etag = f'"{hashlib.md5(b"1").hexdigest()}"'
    slow = Slow(s3_answer("400 Bad Request", code), s3_answer("200 OK", etag=etag))
    s3_at(slow.endpoint)
    assert storage.replace_bytes("s3://bucket/name", b"1", None) == etag
    assert slow.requests == 2
    slow.server.close()


def test_what_s3_means_as_final_is_final(impatient: None, s3_at: Callable[[str], None]) -> None:
    slow = Slow(s3_answer("400 Bad Request", "InvalidArgument"))
    s3_at(slow.endpoint)
    with pytest.raises(storage.StorageError, match="InvalidArgument"):
        storage.replace_bytes("s3://bucket/name", b"1", None)
    assert slow.requests == 1
    slow.server.close()


def test_past_its_deadline_an_upload_stops(s3_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was told that it failed must not find it done later."""
    monkeypatch.setattr(limits, "TOTAL_SECONDS", 1.5)
    slow = Slow(byte_seconds=0.02)
    s3_at(slow.endpoint)
    # making a client takes its time, too, and is kept
    s3.S3("s3://bucket/name")
    with pytest.raises(storage.StorageError, match="it is too slow; gave up after"):
        storage.replace_bytes("s3://bucket/name", b"x" * 20_000_000, None)
    # what has left this process by then, some buffers full, arrives; nothing follows
    slow.byte_seconds = 0
    taken = -1
    while slow.taken > taken:
        taken = slow.taken
        time.sleep(1)
    assert 0 < taken < 20_000_000
    assert slow.requests == 1
    slow.server.close()
