"""Keeps credentials out of messages."""

from __future__ import annotations

import re

_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_IN_QUERY = re.compile(r"(?i)([?&](?:x-amz-[a-z-]*|signature|token|key|sig|awsaccesskeyid|googleaccessid)=)[^&\s]+")


def redact(text: str) -> str:
    """The text with user names, passwords and signatures of the URLs in it replaced by `***`."""
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub("***@", text))
