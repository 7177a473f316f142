"""Telling people what happened: Slack, e-mail, webhooks and whatever else apprise knows.

Where to is a secret: the URLs hold passwords. They come from MLOPS_NOTIFY_URLS (separated by white space) or from the
file MLOPS_NOTIFY_URLS_FILE names (a mounted secret; one a line, `#` begins a comment), and are never printed. Tags
before an address, as in `pager,night=json://...`, are what the policy's `alerts.channels` choose by; an address with
tags hears no notices of what happened, unless one of them is `notices`.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matchmaking.base.escape import for_terminal
from matchmaking.base.redact import redact

Event = Literal["improved", "promotion", "rollback", "rejected", "failed"]

URLS = "MLOPS_NOTIFY_URLS"
URLS_FILE = "MLOPS_NOTIFY_URLS_FILE"
# of apprise's own kinds, which choose a message's colour or sign
KINDS: dict[Event, str] = {
    "improved": "success",
    "promotion": "success",
    "rollback": "warning",
    "rejected": "warning",
    "failed": "failure",
}
SECONDS = 20.0
MOST_CHARACTERS = 4_000
NOTICES = "notices"
_TAGGED = re.compile(r"([\w-]+(?:,[\w-]+)*)=(\w[\w+.-]*://.*)")


@dataclass(frozen=True)
class Address:
    """Somebody to tell.

    Attributes:
        url: apprise's; a secret.
        tags: what it is called by.
    """

    url: str
    tags: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """Tells it from the others where records are kept; too short to give a password away."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:4]

    @property
    def hears_notices(self) -> bool:
        return not self.tags or NOTICES in self.tags


def configured() -> bool:
    """Whether there is anybody to tell; cheap."""
    return bool(os.environ.get(URLS, "").strip() or os.environ.get(URLS_FILE))


def send(event: Event, title: str, body: str) -> bool:
    """Sends a notification, if anybody is to be told; never raises and takes at most `SECONDS`.

    Args:
        event: what happened.
        title: in one line.
        body: plain text; credentials in URLs are taken out.

    Returns:
        Whether everybody was reached.
    """
    if not configured():
        return False
    reached: list[bool] = []
    # a daemon: a server that never answers must not keep the process from ending
    thread = threading.Thread(target=lambda: reached.append(_send(event, title, body)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not any(reached):
        # what apprise says of a failure may hold the URL, so that isn't shown
        print(f"the notification '{for_terminal(redact(title))}' did not reach everybody; the run goes on", flush=True)
    return any(reached)


def addresses() -> list[Address]:
    """Those of both sources."""
    found = os.environ.get(URLS, "").split()
    if path := os.environ.get(URLS_FILE):
        try:
            lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError):
            print(f"{URLS_FILE}: {for_terminal(path)} can't be read; nobody in it is told", flush=True)
            lines = []
        found += [line for line in lines if line and not line.startswith("#")]
    return [_address(each) for each in found]


def tell(to: Iterable[Address], kind: str, title: str, body: str) -> set[str]:
    """Sends a message to each address; never raises and takes at most `SECONDS`.

    Args:
        to: whom.
        kind: one of apprise's, as in `KINDS`.
        title: in one line.
        body: plain text; credentials in URLs are taken out.

    Returns:
        The keys of those that were reached.
    """
    wanted = {each.key: each.url for each in to}
    reached: set[str] = set()

    def one(key: str, url: str) -> None:
        if _deliver([url], kind, title, body):
            reached.add(key)

    # daemons: a server that never answers must not keep the process from ending
    threads = [threading.Thread(target=one, args=each, daemon=True) for each in wanted.items()]
    until = time.monotonic() + SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    done = set(reached)
    if len(done) < len(wanted):
        # what apprise says of a failure may hold the URL, so that isn't shown
        print(f"the notification '{for_terminal(redact(title))}' did not reach everybody", flush=True)
    return done


def _send(event: Event, title: str, body: str) -> bool:
    everybody = [each.url for each in addresses() if each.hears_notices]
    return _deliver(everybody, KINDS[event], f"[{event}] {title}", body)


def _deliver(urls: Iterable[str], kind: str, title: str, body: str) -> bool:
    """Whether all of them were reached."""
    try:
        import logging

        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        everybody = apprise.Apprise()
        known = [everybody.add(url) for url in urls]
        text = "\n".join(map(for_terminal, redact(body).splitlines()))[:MOST_CHARACTERS]
        sent = everybody.notify(
            body=text,
            # apprise escapes it for who takes HTML (e-mail) or Markdown; without a word of it that is sent as it is
            body_format=apprise.NotifyFormat.TEXT,
            title=for_terminal(redact(title)),
            notify_type=kind,
        )
        return bool(sent) and all(known)
    except Exception:
        # whatever apprise and its plugins raise: a notification that fails never fails the run
        return False


def _address(given: str) -> Address:
    found = _TAGGED.fullmatch(given)
    return Address(found[2], frozenset(found[1].split(","))) if found else Address(given)
