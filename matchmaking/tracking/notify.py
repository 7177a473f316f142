"""Telling people what happened: Slack, e-mail, webhooks and whatever else apprise knows.

Where to is a secret: the URLs hold passwords. They come from MLOPS_NOTIFY_URLS (separated by white space) or from the
file MLOPS_NOTIFY_URLS_FILE names (a mounted secret; one a line, `#` begins a comment), and are never printed.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal

from matchmaking.base.escape import for_terminal
from matchmaking.base.redact import redact

Event = Literal["improved", "promotion", "rollback", "rejected", "failed", "drift"]

URLS = "MLOPS_NOTIFY_URLS"
URLS_FILE = "MLOPS_NOTIFY_URLS_FILE"
# of apprise's own kinds, which choose a message's colour or sign
KINDS: dict[Event, str] = {
    "improved": "success",
    "promotion": "success",
    "rollback": "warning",
    "rejected": "warning",
    "failed": "failure",
    "drift": "warning",
}
SECONDS = 20.0
MOST_CHARACTERS = 4_000


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


def urls() -> list[str]:
    """The addresses of both sources."""
    found = os.environ.get(URLS, "").split()
    if path := os.environ.get(URLS_FILE):
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
        found += [line for line in lines if line and not line.startswith("#")]
    return found


def _send(event: Event, title: str, body: str) -> bool:
    try:
        import logging

        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        everybody = apprise.Apprise()
        known = [everybody.add(url) for url in urls()]
        text = "\n".join(map(for_terminal, redact(body).splitlines()))[:MOST_CHARACTERS]
        sent = everybody.notify(
            body=text,
            # apprise escapes it for who takes HTML (e-mail) or Markdown; without a word of it that is sent as it is
            body_format=apprise.NotifyFormat.TEXT,
            title=f"[{event}] {for_terminal(redact(title))}",
            notify_type=KINDS[event],
        )
        return bool(sent) and all(known)
    except Exception:
        # whatever apprise and its plugins raise: a notification that fails never fails the run
        return False
