"""Credentials are taken out of texts."""

from __future__ import annotations

import pytest

from matchmaking.base.redact import redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pass@host/x and s3://k:s@b", "http://***@host/x and s3://***@b"),
        ("postgresql://user:p@ss@host/db", "postgresql://***@host/db"),
        (
            "https://h/x?a=1&X-Amz-Credential=abc%2F&X-Goog-Signature=d",
            "https://h/x?a=1&X-Amz-Credential=***&X-Goog-Signature=***",
        ),
        ("https://h/x?access_token=abc&b=2", "https://h/x?access_token=***&b=2"),
        ("https://h/x?sv=1&sig=abc", "https://h/x?sv=1&sig=***"),
        ("the key is a-long-secret, isn't it", "the key is ***, isn't it"),
        ("s3://bucket/v1 can't be read", "s3://bucket/v1 can't be read"),
    ],
)
def test_redact(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-long-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "is")
    assert redact(text) == expected
