"""Keeps credentials out of messages."""

from __future__ import annotations

import os
import re

_IN_URL = re.compile(r"(?<=://)[^/\s]*@")
_IN_QUERY = re.compile(
    r"(?i)([?&][^=&\s]*(?:x-amz-|x-goog-|signature|token|key|secret|password|credential|sig|accessid)[^=&\s]*=)"
    r"[^&\s\"']+"
)
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def redact(text: str) -> str:
    """The text with the credentials in it replaced by `***`.

    These are the user names and passwords of URLs, the signatures, keys and tokens in their queries, and the secrets
    that this process was given in environment variables, wherever they stand.
    """
    for secret in map(os.environ.get, _SECRETS):
        # a shorter one is no secret, and would blot out half the words
        if secret and len(secret) >= 8:
            text = text.replace(secret, "***")
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub("***@", text))
