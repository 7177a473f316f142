"""The place in an experiment's page that says what became of the challenger's traffic, known after it is written."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from matchmaking.base.escape import for_terminal
from matchmaking.base.files import written_whole

EMPTY = "<!-- traffic --><!-- /traffic -->"
_PLACE = re.compile(r"<!-- traffic -->.*?<!-- /traffic -->", re.DOTALL)


def has_place(html: str) -> bool:
    """Whether this is the page of an experiment."""
    return bool(_PLACE.search(html))


def with_traffic(html: str, said: str, *, served: bool) -> str:
    """An experiment's page that says what became of the traffic, in place of what it said of it before.

    Args:
        html: the page.
        said: in words; empty for nothing.
        served: whether the challenger has its traffic.
    """
    text = escape(for_terminal(said))
    box = f'<div class="outcome {"bad" if served else "plain"}"><p>{text}</p></div>' if said else ""
    # a function: what is said is no pattern
    return _PLACE.sub(lambda _: f"<!-- traffic -->{box}<!-- /traffic -->", html, count=1)


def say_on_page(path: Path, said: str, *, served: bool) -> bool:
    """`with_traffic` of a file; whether it is an experiment's page."""
    html = path.read_text(encoding="utf-8") if path.exists() else ""
    if has_place(html):
        with written_whole(path) as temporary:
            temporary.write_text(with_traffic(html, said, served=served), encoding="utf-8")
    return has_place(html)
